package plan

import (
	"fmt"
	"strings"

	"qlora/cmd/qlora/internal/synthetic"
	"qlora/ref/llama"
	"qlora/ref/lora"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/optim"
	"qlora/ref/quant"
	"qlora/ref/train"
)

// Figure is a column of the paper's figure 6: what fine-tuning a LLaMA takes with batch 1, sequences of 512 tokens and checkpointing, in MiB as
// the figure prints it; and what the same formulas give for the shape that the model has.
type Figure struct {
	Model     string  `json:"model"`     // of package synthetic
	Printed   Bars    `json:"printed"`   // in the figure
	TotalGB   float64 `json:"total_gb"`  // over the column
	Formula   Bars    `json:"formula"`   // what gives the printed numbers
	Real      Bars    `json:"real"`      // the same for the real shape
	Remainder float64 `json:"remainder"` // of the printed model that no formula explains, MiB
	Here      Memory  `json:"here"`      // what it takes on the CPU device, whose adapters and their gradients are float32
}

// Bars are the figure's, in MiB.
type Bars struct {
	Model     float64 `json:"model"`
	Adapters  float64 `json:"adapters"`
	Optimizer float64 `json:"optimizer"`
}

// rank is the adapters' in the figure.
const rank = 64

const mib = 1 << 20

// printed are the bars of figure 6 in Dettmers et al., 2023 (arXiv 2305.14314, appendix G).
var printed = []Figure{
	{Model: "llama-7b", Printed: Bars{5046, 288, 1152}, TotalGB: 6.9},
	{Model: "llama-13b", Printed: Bars{8476, 450, 1800}, TotalGB: 11.3},
	{Model: "llama-33b", Printed: Bars{19302, 877.5, 3510}, TotalGB: 24.7},
	{Model: "llama-65b", Printed: Bars{37074, 1440, 5760}, TotalGB: 45.0},
}

// Figures are the columns, explained, and beside each what such a run takes here.
func Figures() (all []Figure, err error) {
	for _, f := range printed {
		c, err := synthetic.Config(synthetic.Prefix + f.Model)
		if err != nil {
			return nil, err
		}
		f = f.explain(c)
		if f.Here, err = run6(c).Memory(0); err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// run6 is the run of the figure.
func run6(c llama.Config) Run {
	return Run{
		Device: "cpu", Config: c, Checkpointing: true, Seq: 512, Batch: 1, Accumulate: 1,
		Options: llama.Options{
			Compute: num.BFloat16, LoRA: &lora.Config{R: rank, Alpha: 16},
			Quant: &quant.Options{Type: quant.NF4, Blocksize: 64, DoubleQuant: true, DType: num.BFloat16},
		},
		Step: train.Config{Schedule: optim.Schedule{Kind: "constant"}},
	}
}

// explain computes the rest of a figure for the shape of its model.
func (f Figure) explain(c llama.Config) Figure {
	d, layers := float64(c.HiddenSize), float64(c.NumHiddenLayers)
	f.Formula.Adapters = rank * 18 * d * layers * 2 / mib // bfloat16: 8d for attention, 10d for an MLP of two matrices d×4d, which LLaMA has not
	f.Real.Adapters = rank * (11*d + 3*float64(c.IntermediateSize)) * layers * 2 / mib
	f.Formula.Optimizer, f.Real.Optimizer = 4*f.Formula.Adapters, 4*f.Real.Adapters // two moments in float32
	f.Formula.Model = (4.5/8*linear(c) + 4*embeddings(c)) / mib                     // a float32 for 64 weights: without double quantization
	f.Real.Model = ((4+8./64+32./(64*256))/8*linear(c) + 2*embeddings(c)) / mib     // with it, and bfloat16
	f.Remainder = f.Printed.Model - f.Formula.Model
	return f
}

// linear and embeddings are how many weights are in the blocks' linear layers, and in the embedding and the head.
func linear(c llama.Config) (n float64) {
	for _, t := range c.Tensors() {
		if t.Linear {
			n += float64(t.Shape[0]) * float64(t.Shape[1])
		}
	}
	return n
}

func embeddings(c llama.Config) float64 { return 2 * float64(c.VocabSize) * float64(c.HiddenSize) }

// line is a row of the table: a number of each figure.
type line struct {
	name string
	of   func(f Figure) string
}

func inMiB(of func(f Figure) float64) func(f Figure) string {
	return func(f Figure) string { return fmt.Sprintf("%.1f", of(f)) }
}

var lines = []line{
	{"", func(f Figure) string { return f.Model }},
	{"model, printed", inMiB(func(f Figure) float64 { return f.Printed.Model })},
	{"  4.5 bits a weight, embedding and head in float32", inMiB(func(f Figure) float64 { return f.Formula.Model })},
	{"  which leaves unexplained", inMiB(func(f Figure) float64 { return f.Remainder })},
	{"  double quantization (4.127 bits) and bfloat16 *", inMiB(func(f Figure) float64 { return f.Real.Model })},
	{"adapters, printed", inMiB(func(f Figure) float64 { return f.Printed.Adapters })},
	{"  r·18·d·L·2 bytes", inMiB(func(f Figure) float64 { return f.Formula.Adapters })},
	{"  r·(11·d + 3·d_ff)·L·2 bytes **", inMiB(func(f Figure) float64 { return f.Real.Adapters })},
	{"optimizer, printed", inMiB(func(f Figure) float64 { return f.Printed.Optimizer })},
	{"  4 × adapters", inMiB(func(f Figure) float64 { return f.Formula.Optimizer })},
	{"  4 × adapters **", inMiB(func(f Figure) float64 { return f.Real.Optimizer })},
	{"total, printed, GB", func(f Figure) string { return fmt.Sprintf("%.1f", f.TotalGB) }},
	{"this program on the CPU, all of it", func(f Figure) string { return op.Bytes(f.Here.Peak) }},
}

const departures = `
*  The paper trains with double quantization, and qlora.py holds embedding and head in bfloat16; the figure's models are as large as
   without either, and a little larger.
** LLaMA's shape. The figure's adapters are those of attention (8·d values a rank and layer) and of an MLP of two matrices d × 4·d
   (10·d). LLaMA's MLP has three matrices d × d_ff: 3·d + 3·d_ff.
`

// Describe shows figures beside each other, in MiB where nothing else is said.
func Describe(figures []Figure) string {
	var b strings.Builder
	fmt.Fprintf(&b, "figure 6 of the paper: batch 1, sequences of 512 tokens, adapters of rank %d on all linear layers, MiB\n\n", rank)
	for _, l := range lines {
		fmt.Fprintf(&b, "%-52s", l.name)
		for _, f := range figures {
			fmt.Fprintf(&b, " %10s", l.of(f))
		}
		b.WriteByte('\n')
	}
	return b.String() + departures
}
