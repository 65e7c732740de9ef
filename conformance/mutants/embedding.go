package mutants

import (
	"fmt"
	"math"

	"qlora/conformance"
	"qlora/ref/num"
)

// lookup is an embedding in parts: forward's, then backward's.
type lookup struct {
	row   func(id int32, rows int) (int, error)
	value func(v float32, dim int) float32

	order func(n int) []int // of the tokens
	adds  func(there, g float32) float32
	skips func(id int32) bool
}

func lookupParts(spoil func(l *lookup)) lookup {
	l := lookup{
		row: func(id int32, rows int) (int, error) {
			if id < 0 || int(id) >= rows {
				return 0, fmt.Errorf("id %d of %d", id, rows)
			}
			return int(id), nil
		},
		value: func(v float32, _ int) float32 { return v },
		order: ascending,
		adds:  func(there, g float32) float32 { return there + g },
		skips: func(int32) bool { return false },
	}
	spoil(&l)
	return l
}

func embedding(spoil func(l *lookup)) Func {
	l := lookupParts(spoil)
	return func(c *Case, in Tensors) (Tensors, error) {
		table, ids, dim := in["table"], in["ids"].I, in["table"].Cols()
		y := make([]float32, 0, len(ids)*dim)
		for _, id := range ids {
			i, err := l.row(id, table.Rows())
			if err != nil {
				return nil, err
			}
			for _, v := range row(table.F, i, dim) {
				y = append(y, compute(c).Round(l.value(v, dim)))
			}
		}
		return Tensors{"y": {DType: c.DType, Shape: []int{len(ids), dim}, F: y}}, nil
	}
}

func embeddingBackward(spoil func(l *lookup)) Func {
	l := lookupParts(spoil)
	return func(_ *Case, in Tensors) (Tensors, error) {
		dtable, ids, dim := copyOf(in["dtable"]), in["ids"].I, in["dtable"].Cols()
		for _, id := range ids {
			if _, err := l.row(id, dtable.Rows()); err != nil {
				return nil, err
			}
		}
		for _, token := range l.order(len(ids)) {
			i, _ := l.row(ids[token], dtable.Rows())
			for j, g := range row(in["dy"].F, token, dim) {
				if at := i*dim + j; !l.skips(ids[token]) {
					dtable.F[at] = l.adds(dtable.F[at], g)
				}
			}
		}
		return Tensors{"dtable": dtable}, nil
	}
}

func clampedRow(id int32, rows int) (int, error) { return max(0, min(int(id), rows-1)), nil }

var embeddingMutants = []Mutant{
	{
		Name: "id clamped", Bug: "An id beyond the table takes its last row in place of an error.", Op: "embedding",
		Func: embedding(func(l *lookup) { l.row = clampedRow }),
	},
	{
		Name: "id counted from the end", Bug: "A negative id is an index from the end, as in Python.", Op: "embedding",
		Func: embedding(func(l *lookup) {
			right := l.row
			l.row = func(id int32, rows int) (int, error) {
				if id < 0 && int(id) >= -rows {
					id += int32(rows)
				}
				return right(id, rows)
			}
		}),
	},
	{
		Name: "unknown id is zeros", Bug: "An id beyond the table gives a row of zeros.", Op: "embedding",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			in, rows := copied(in), in["table"].Rows()
			in["table"] = conformance.Floats(c.DType, append(in["table"].F, make([]float32, in["table"].Cols())...), rows+1, in["table"].Cols())
			for i, id := range in["ids"].I {
				if id < 0 || int(id) > rows {
					in["ids"].I[i] = int32(rows)
				}
			}
			return reference("embedding", c, in)
		},
	},
	{
		Name: "embedding scaled by √d", Bug: "Gemma multiplies by √d, LLaMA does not.", Op: "embedding",
		Func: embedding(func(l *lookup) {
			l.value = func(v float32, dim int) float32 { return v * float32(math.Sqrt(float64(dim))) }
		}),
	},
	{
		Name: "embedding through bfloat16", Bug: "Rows of float32 and float16 tables are rounded to bfloat16.", Op: "embedding",
		Func: embedding(func(l *lookup) { l.value = func(v float32, _ int) float32 { return num.BFloat16.Round(v) } }),
	},
	{
		Name: "repeated ids lost", Bug: "A row is overwritten: of several tokens with the same id the last one counts.",
		Seen: "tt-metal #6232", Op: "embedding_backward",
		Func: embeddingBackward(func(l *lookup) { l.adds = func(_, g float32) float32 { return g } }),
	},
	{
		Name: "updates lost", Bug: "All tokens read the row before any has written: the last one's sum stays.",
		Seen: "mxnet #11899", Op: "embedding_backward",
		Func: func(_ *Case, in Tensors) (Tensors, error) {
			l := lookupParts(func(*lookup) {})
			dtable, dim := copyOf(in["dtable"]), in["dtable"].Cols()
			for token, id := range in["ids"].I {
				i, err := l.row(id, dtable.Rows())
				if err != nil {
					return nil, err
				}
				for j, g := range row(in["dy"].F, token, dim) {
					dtable.F[i*dim+j] = in["dtable"].F[i*dim+j] + g
				}
			}
			return Tensors{"dtable": dtable}, nil
		},
	},
	{
		Name: "tokens in another order", Bug: "Tokens add from the last to the first, as atomics may.",
		Seen: "PyTorch's embedding_dense_backward with atomics (PR #187682)", Op: "embedding_backward",
		Func: embeddingBackward(func(l *lookup) { l.order = descending }), Rounding: true,
	},
	{
		Name: "rows summed apart", Bug: "Tokens of a row are summed from 0 and the sum is added.", Op: "embedding_backward",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			alone := copied(in)
			clear(alone["dtable"].F)
			out, err := embeddingBackward(func(*lookup) {})(c, alone)
			for i, v := range in["dtable"].F {
				if err == nil {
					out["dtable"].F[i] += v
				}
			}
			return out, err
		},
		Rounding: true,
	},
	{
		Name: "padding has no gradient", Bug: "Id 0 is taken for padding.", Seen: "torch.nn.Embedding with padding_idx", Op: "embedding_backward",
		Func: embeddingBackward(func(l *lookup) { l.skips = func(id int32) bool { return id == 0 } }),
	},
	{
		Name: "dtable in bfloat16", Bug: "Rows are rounded to bfloat16 at each addition.", Op: "embedding_backward",
		Func: embeddingBackward(func(l *lookup) { l.adds = func(there, g float32) float32 { return num.BFloat16.Round(there + g) } }),
	},
	{
		Name: "gradient of an unknown id dropped", Bug: "Ids beyond the table take their gradient to the last row.", Op: "embedding_backward",
		Func: embeddingBackward(func(l *lookup) { l.row = clampedRow }),
	},
}
