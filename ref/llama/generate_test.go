package llama_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"qlora/ref/llama"
	"qlora/ref/num"
	"qlora/ref/op"
)

// by generates in a session of its own each time.
func by(m *llama.Model, how llama.Sampling) func(prompt []int32, n int, emit func(int32) bool) error {
	return func(prompt []int32, n int, emit func(int32) bool) error { return m.Generate(prompt, n, how, emit) }
}

// answer is up to n tokens behind prompt.
func answer(t *testing.T, generate func(prompt []int32, n int, emit func(int32) bool) error, prompt []int32, n int) (out []int32) {
	t.Helper()
	if err := generate(prompt, n, func(id int32) bool { out = append(out, id); return true }); err != nil {
		t.Fatal(err)
	}
	return out
}

// A session gives what each prompt gets by itself, whatever came before: more of the same, less of it, or something else.
func TestSession(t *testing.T) {
	m, _ := newModel(t, num.BFloat16)
	how := llama.Sampling{Choice: op.Choice{Temperature: 1, Seed: 3}, RepetitionPenalty: 1.3}
	s := m.NewSession(64, how)
	first := answer(t, s.Generate, ids(9), 7)
	all := append(ids(9), first...)
	for i, prompt := range [][]int32{ids(9), all, append(slices.Clone(all), 4, 4, 1), all[:3], {7}, {7}, all[:12], append(slices.Clone(all[:5]), 2, 2)} {
		if got, want := answer(t, s.Generate, prompt, 7), answer(t, by(m, how), prompt, 7); !slices.Equal(got, want) {
			t.Errorf("prompt %d: %v in the session, %v alone", i, got, want)
		}
	}
	for talk := ids(3); len(talk) < 40; { // the session's own answers come back, the last token of which it has not computed with
		got := answer(t, s.Generate, talk, 5)
		if want := answer(t, by(m, how), talk, 5); !slices.Equal(got, want) {
			t.Errorf("%v behind %v, %v alone", got, talk, want)
		}
		talk = append(append(talk, got...), 4)
	}
	stopped := 0
	if err := s.Generate(ids(9), 7, func(int32) bool { stopped++; return stopped < 3 }); err != nil || stopped != 3 {
		t.Error(err, stopped)
	}
	if got := answer(t, s.Generate, ids(9), 7); !slices.Equal(got, first) {
		t.Errorf("%v after an answer that was stopped, want %v", got, first)
	}
	if err := s.Generate(ids(60), 5, func(int32) bool { return true }); err == nil || !strings.Contains(err.Error(), "session's room of 64") {
		t.Error(err)
	}
}

// The repetition penalty, held against logits of the whole sequence and the formula token by token.
func TestRepetitionPenalty(t *testing.T) {
	m, d := newModel(t, num.Float32)
	const penalty = 1.7
	prompt := ids(6)
	got := answer(t, by(m, llama.Sampling{RepetitionPenalty: penalty}), prompt, 20)
	all := slices.Clone(prompt)
	for range 20 {
		x := read(t, d, m.Logits(m.NewCache(len(all)), all))
		z, best := x[len(x)-11:], 0
		for id := range z {
			if !slices.Contains(all, int32(id)) {
			} else if z[id] > 0 {
				z[id] /= penalty
			} else {
				z[id] *= penalty
			}
			if z[id] > z[best] {
				best = id
			}
		}
		all = append(all, int32(best))
	}
	if !slices.Equal(got, all[6:]) {
		t.Errorf("%v, want %v", got, all[6:])
	}
	if plain := answer(t, by(m, llama.Sampling{}), prompt, 20); slices.Equal(got, plain) {
		t.Error("the penalty changes nothing")
	}
}

// No run of n tokens comes twice, and no end before the least number of tokens.
func TestNoRepeatAndMinTokens(t *testing.T) {
	m, _ := newModel(t, num.Float32)
	for n := 1; n <= 3; n++ {
		seen := map[string]bool{}
		prompt := []int32{0, 1, 2}
		want := 40
		if n == 1 {
			want = 8 // of eleven tokens three are there already
		}
		all := append(slices.Clone(prompt), answer(t, by(m, llama.Sampling{NoRepeat: n}), prompt, want)...)
		for i := range len(all) - n + 1 {
			run := fmt.Sprint(all[i : i+n])
			if seen[run] {
				t.Errorf("%v has a run of %d twice, the second time at %d", all, n, i)
			}
			seen[run] = true
		}
	}
	first := answer(t, by(m, llama.Sampling{}), ids(5), 1)[0]
	got := answer(t, by(m, llama.Sampling{MinTokens: 4, Ends: []int32{first}}), ids(5), 12)
	if slices.Contains(got[:4], first) || !slices.Contains(got[4:], first) {
		t.Errorf("%d is to come from the fifth token on: %v", first, got)
	}
}

// When every token has been there and none may come again, generation ends in an error, not in a banned token.
func TestEveryTokenBanned(t *testing.T) {
	for _, c := range []op.Choice{{}, {Temperature: 1, Seed: 5}, {Temperature: 0.7, TopK: 5, TopP: 0.9, MinP: 0.05, Seed: 5}} {
		m, _ := newModel(t, num.Float32)
		var said []int32
		err := m.Generate([]int32{0, 1, 2}, 20, llama.Sampling{Choice: c, NoRepeat: 1}, func(id int32) bool { said = append(said, id); return true })
		slices.Sort(said)
		if want := []int32{3, 4, 5, 6, 7, 8, 9, 10}; !slices.Equal(said, want) || err == nil || !strings.Contains(err.Error(), "choose: ") || !strings.Contains(err.Error(), "no_repeat_ngram_size") {
			t.Errorf("%+v: %v, then %v", c, said, err)
		}
	}
}
