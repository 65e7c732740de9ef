package mutants

import (
	"encoding/binary"
	"math"

	"qlora/conformance"
	"qlora/ref/num"
	"qlora/ref/optim"
)

// scalarsAt are the scalars of AdamW at another step than asked.
func scalarsAt(later int) Func {
	return asked("adamw_scalars", func(c *Case, _ Tensors) { set(c, conformance.Int("t", c.Int("t")+later)) })
}

// schedule is a course of the learning rate.
func schedule(lr func(s optim.Schedule, peak float64, step int) float64) Func {
	return func(c *Case, in Tensors) (Tensors, error) {
		s := optim.Schedule{Kind: c.Param("kind"), Warmup: c.Int("warmup"), Steps: c.Int("of")}
		if err := s.Check(); err != nil {
			return nil, err
		}
		var b []byte
		for _, step := range in["steps"].I {
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(lr(s, number(c, "peak"), int(step))))
		}
		return Tensors{"lr": conformance.Bytes(b, len(b)/8, 8)}, nil
	}
}

func clipping(scale func(norm, most float32) float32) Func {
	return func(c *Case, in Tensors) (Tensors, error) {
		y := make([]float32, in["norm"].Len())
		for i, norm := range in["norm"].F {
			y[i] = scale(norm, c.Float("max_norm"))
		}
		return Tensors{"scale": conformance.Floats(f32, y)}, nil
	}
}

var hostMutants = []Mutant{
	{
		Name: "bias correction one step late", Bug: "1 − β^(t+1) at step t.", Op: "adamw_scalars", Func: scalarsAt(1),
	},
	{
		Name: "bias correction from step 0", Bug: "1 − β^(t−1): at the first step it divides by 0.", Op: "adamw_scalars", Func: scalarsAt(-1),
	},
	{
		Name: "bias correction not rooted", Bug: "1 − β2^t for its root.", Seen: "PyTorch PR #23737, in review", Op: "adamw_scalars",
		Func: spoiled("adamw_scalars", func(c *Case, _, out Tensors) {
			out["scalars"].F[rootBias2] = float32(1 - num.PowInt(number(c, "beta2"), c.Int("t")))
		}),
	},
	{
		Name: "1 − β in float32", Bug: "1 − β of the rounded β.", Seen: "bitsandbytes on CUDA", Op: "adamw_scalars",
		Func: spoiled("adamw_scalars", func(_ *Case, _, out Tensors) {
			s := out["scalars"].F
			s[oneMinusBeta1], s[oneMinusBeta2] = 1-s[beta1], 1-s[beta2]
		}),
	},
	{
		Name: "β^t in float32", Bug: "Powers by repeated multiplication in float32.", Seen: "powf in bitsandbytes' kernels", Op: "adamw_scalars",
		Func: spoiled("adamw_scalars", func(c *Case, _, out Tensors) {
			power, b := float32(1), float32(number(c, "beta2"))
			for range min(c.Int("t"), 1<<20) {
				power *= b
			}
			out["scalars"].F[rootBias2] = sqrt(1 - power)
		}),
		Rounding: true,
	},
	{
		Name: "decay of the whole weight", Bug: "1 − wd: the learning rate is left out.", Op: "adamw_scalars",
		Func: spoiled("adamw_scalars", func(c *Case, _, out Tensors) { out["scalars"].F[decay] = float32(1 - number(c, "weight_decay")) }),
	},
	{
		Name: "warm-up from the first step", Bug: "Step s of the warm-up has (s + 1)/warmup.", Op: "learning_rate",
		Func: schedule(func(s optim.Schedule, peak float64, step int) float64 {
			if s.Kind != "constant" && step < s.Warmup {
				return peak * (float64(step+1) / float64(s.Warmup))
			}
			return s.LR(peak, step)
		}),
	},
	{
		Name: "decay from the first step", Bug: "The linear course counts the warm-up's steps, too.", Op: "learning_rate",
		Func: schedule(func(s optim.Schedule, peak float64, step int) float64 {
			if s.Kind == "linear" && step >= s.Warmup {
				return peak * max(0, float64(s.Steps-step)/float64(max(1, s.Steps)))
			}
			return s.LR(peak, step)
		}),
	},
	{
		Name: "negative learning rate", Bug: "The linear course goes on below 0 after its end.", Op: "learning_rate",
		Func: schedule(func(s optim.Schedule, peak float64, step int) float64 {
			if s.Kind == "linear" && step >= s.Warmup {
				return peak * (float64(s.Steps-step) / float64(max(1, s.Steps-s.Warmup)))
			}
			return s.LR(peak, step)
		}),
	},
	{
		Name: "unknown schedule is constant", Bug: "A kind that is not known is taken for constant.", Op: "learning_rate",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			out, err := reference("learning_rate", c, in)
			if err == nil {
				return out, nil
			}
			return asked("learning_rate", func(c *Case, _ Tensors) { set(c, conformance.Text("kind", "constant")) })(c, in)
		},
	},
	{
		Name: "clipped without 1e-6", Bug: "max/norm.", Op: "clip_scale",
		Func: clipping(func(norm, most float32) float32 {
			if most == 0 {
				return 1
			}
			return min(1, most/norm)
		}),
	},
	{
		Name: "clipped only above", Bug: "A norm up to the largest is not scaled: just below it torch does, for the 1e-6.", Op: "clip_scale",
		Func: clipping(func(norm, most float32) float32 {
			if most == 0 || norm <= most {
				return 1
			}
			return most / (norm + 1e-6)
		}),
	},
	{
		Name: "NaN norm is not clipped", Bug: "A norm that is NaN gives 1: the step goes on with NaN hidden.", Op: "clip_scale",
		Func: clipping(func(norm, most float32) float32 {
			if s := optim.ClipScale(norm, most); s < 1 {
				return s
			}
			return 1
		}),
	},
	{
		Name: "oldest page leaves", Bug: "The page that came first leaves, not the one that was used least recently.", Op: "pager",
		Func: paging(func(pages []int32, _ int) []int32 { return pages }, leaveAtOnce, true),
	},
	{
		Name: "page too large accepted", Bug: "A page that is larger than all room empties it and is brought in all the same.", Op: "pager",
		Func: paging(touched, leaveAtOnce, false),
	},
	{
		Name: "less room later", Bug: "Pages for which there is no room any more stay until another one comes in.", Op: "pager",
		Func: paging(touched, func(_, _ int32) bool { return false }, true),
	},
}

// leaveAtOnce says whether pages leave when the room changes.
func leaveAtOnce(there, room int32) bool { return there > room }

// touched moves a page that was used to the end.
func touched(pages []int32, at int) []int32 {
	page := pages[at]
	return append(append(append([]int32{}, pages[:at]...), pages[at+1:]...), page)
}

// paging is a pager whose pages stand in the order in which they leave; use says what a use makes of it, leaves whether one has to leave
// when the room changes.
func paging(use func(pages []int32, at int) []int32, leaves func(there, room int32) bool, checks bool) Func {
	return func(c *Case, in Tensors) (Tensors, error) {
		if checks {
			if _, err := reference("pager", c, in); err != nil {
				return nil, err
			}
		}
		brought, left, used := []int32{}, []int32{}, []int32{}
		var pages []int32
		there, room, bytes := int32(0), int32(c.Int("cap")), in["bytes"].I
		for _, page := range in["uses"].I {
			if page < 0 {
				room = -1 - page
				for len(pages) > 0 && leaves(there, room) {
					left, there, pages = append(left, pages[0]), there-bytes[pages[0]], pages[1:]
				}
				brought, used = append(brought, 0), append(used, there)
				continue
			}
			at := -1
			for i, p := range pages {
				if p == page {
					at = i
				}
			}
			if at >= 0 {
				pages, brought = use(pages, at), append(brought, 0)
			} else {
				for there+bytes[page] > room && len(pages) > 0 {
					left, there, pages = append(left, pages[0]), there-bytes[pages[0]], pages[1:]
				}
				pages, brought, there = append(pages, page), append(brought, 1), there+bytes[page]
			}
			used = append(used, there)
		}
		return Tensors{"in": conformance.Ints(brought), "out": conformance.Ints(left), "used": conformance.Ints(used)}, nil
	}
}
