package runs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// names lists what is in a folder, hidden files too.
func names(t *testing.T, d Dir) string {
	t.Helper()
	entries, err := os.ReadDir(string(d))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

// fill writes a file a into a checkpoint.
func fill(text string) func(string) error {
	return func(dir string) error { return os.WriteFile(filepath.Join(dir, "a"), []byte(text), 0o644) }
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestNew(t *testing.T) {
	tmp := t.TempDir()
	for _, name := range []string{"new", "new/deeper"} { // new is empty the second time
		if d, err := New(filepath.Join(tmp, name), "m", false); err != nil || string(d) != filepath.Join(tmp, name) {
			t.Error(d, err)
		}
	}
	if _, err := New(tmp, "m", false); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Error(err)
	}
	if _, err := New(tmp, "m", true); err != nil {
		t.Error(err)
	}
	file := filepath.Join(tmp, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, resume := range []bool{false, true} {
		if _, err := New(file, "m", resume); err == nil || !strings.Contains(err.Error(), file) {
			t.Error(err)
		}
	}
	t.Chdir(tmp)
	for _, want := range []string{"runs/m-1", "runs/m-2"} {
		if d, err := New("", "org/m", false); err != nil || filepath.ToSlash(string(d)) != want {
			t.Error(d, err)
		}
	}
}

// A checkpoint that could not be written leaves what was there: nothing, or the one before of the same step.
func TestCheckpointWholeOrNotAtAll(t *testing.T) {
	d := Dir(t.TempDir())
	full := errors.New("disk full")
	fail := func(dir string) error { return errors.Join(fill("half")(dir), full) }
	if err := d.WriteCheckpoint(3, fail); !errors.Is(err, full) || names(t, d) != "" {
		t.Error(err, names(t, d))
	}
	if err := d.WriteCheckpoint(3, fill("first")); err != nil {
		t.Fatal(err)
	}
	if err := d.WriteCheckpoint(3, fail); !errors.Is(err, full) || read(t, filepath.Join(d.Checkpoint(3), "a")) != "first" {
		t.Error(err)
	}
	if err := d.WriteCheckpoint(3, fill("second")); err != nil || read(t, filepath.Join(d.Checkpoint(3), "a")) != "second" {
		t.Error(err)
	}
	if got := names(t, d); got != "checkpoint-3" {
		t.Error(got)
	}
}

func TestPrune(t *testing.T) {
	for _, c := range []struct {
		limit, best int
		want        []int
	}{
		{0, -1, []int{5, 10, 15, 20}}, {9, -1, []int{5, 10, 15, 20}}, {2, -1, []int{15, 20}}, {2, 5, []int{5, 15, 20}}, {2, 20, []int{15, 20}}, {1, 99, []int{20}},
	} {
		d := Dir(t.TempDir())
		for _, step := range []int{10, 5, 20, 15} {
			if err := d.WriteCheckpoint(step, fill("")); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Prune(c.limit, c.best); err != nil {
			t.Error(err)
		}
		if got, err := d.Checkpoints(); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("limit %d, best %d: %v left, want %v (%v)", c.limit, c.best, got, c.want, err)
		}
	}
}

// A checkpoint that could not be read counts no longer, so that good ones are kept in its place; its bytes are left, and what a resume before left
// is written over.
func TestSetAside(t *testing.T) {
	d := Dir(t.TempDir())
	for _, step := range []int{2, 4, 6, 8} {
		if err := d.WriteCheckpoint(step, fill(fmt.Sprint(step))); err != nil {
			t.Fatal(err)
		}
	}
	moved, err := d.SetAside(4)
	if want := []string{d.Checkpoint(6) + ".unreadable", d.Checkpoint(8) + ".unreadable"}; err != nil || !slices.Equal(moved, want) {
		t.Error(moved, err)
	}
	if err := d.WriteCheckpoint(6, fill("new")); err != nil {
		t.Fatal(err)
	}
	if err := d.Prune(2, -1); err != nil {
		t.Fatal(err)
	}
	if got, want := names(t, d), "checkpoint-4 checkpoint-6 checkpoint-6.unreadable checkpoint-8.unreadable"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got := read(t, d.Path("checkpoint-6.unreadable/a")); got != "6" {
		t.Error(got)
	}
	if moved, err := d.SetAside(4); err != nil || len(moved) != 1 || read(t, filepath.Join(moved[0], "a")) != "new" {
		t.Error(moved, err)
	}
	if moved, err := d.SetAside(4); err != nil || moved != nil {
		t.Error(moved, err)
	}
}

// A run that cannot be read stands in the list beside those that can.
func TestListUnreadable(t *testing.T) {
	tmp := t.TempDir()
	for name, info := range map[string]string{"a": "{}", "b": "{", "c": "{}", "d": ""} {
		d := Dir(filepath.Join(tmp, name))
		if err := os.Mkdir(string(d), 0o755); err != nil {
			t.Fatal(err)
		}
		if name == "d" { // no run
			continue
		}
		for file, text := range map[string]string{ConfigFile: "model: \"demo\"\n", InfoFile: info} {
			if err := d.WriteText(file, text); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, folder := range []string{tmp, filepath.Join(tmp, "b")} {
		all, err := List(folder)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range all {
			got = append(got, filepath.Base(string(r.Dir))+" "+r.State())
			if bad := r.Dir.Path(InfoFile); r.Unreadable != nil && !strings.Contains(r.Unreadable.Error(), bad) {
				t.Errorf("%v does not name %s", r.Unreadable, bad)
			}
		}
		want := "a stopped, b unreadable, c stopped"
		if folder != tmp {
			want = "b unreadable"
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s: %q, want %s", folder, got, want)
		}
	}
}

// What a kill left goes, everything else stays; nothing but checkpoint-N, N as Go writes it, is a checkpoint.
func TestClean(t *testing.T) {
	d := Dir(t.TempDir())
	for _, name := range []string{".checkpoint-123456", ".checkpoint-dropped-checkpoint-4", "checkpoint-7", "checkpoint-07", "checkpoint-x"} {
		if err := os.Mkdir(d.Path(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := fill("")(d.Path(name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{".metrics.jsonl.123", ".pages-45", ".model-00001-of-00002.safetensors.9", ".gitignore", ".lock", "checkpoint-9", "notes.1"} {
		if err := os.WriteFile(d.Path(name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Clean(); err != nil {
		t.Fatal(err)
	}
	if got, want := names(t, d), ".gitignore .lock checkpoint-07 checkpoint-7 checkpoint-9 checkpoint-x notes.1"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got, err := d.Checkpoints(); err != nil || !slices.Equal(got, []int{7}) {
		t.Error(got, err)
	}
}

func TestLock(t *testing.T) {
	d := Dir(t.TempDir())
	if d.Running() {
		t.Error("running before it began")
	}
	first, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Lock(); err == nil || !strings.Contains(err.Error(), "another run is at work in "+string(d)) || !d.Running() {
		t.Error(err)
	}
	if err := first.Close(); err != nil || d.Running() {
		t.Error(err, d.Running())
	}
	second, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}

func TestLines(t *testing.T) {
	name := filepath.Join(t.TempDir(), SamplesFile)
	open := func(upTo int) *Lines[Sample] {
		l, err := OpenLines[Sample](name, upTo)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	l := open(-1)
	for step, text := range []string{"<0>", "one\n", "\u2028two"} {
		if err := l.Append(Sample{Step: step, Text: text}); err != nil {
			t.Fatal(err)
		}
	}
	whole := read(t, name)
	if all, err := ReadLines[Sample](name); err != nil || len(all) != 3 || all[1].Text != "one\n" {
		t.Error(all, err)
	}
	if err := os.WriteFile(name, []byte(whole[:len(whole)-1]), 0o644); err != nil { // a kill cut off the end of the last line
		t.Fatal(err)
	}
	if l := open(2); len(l.All) != 2 {
		t.Error(l.All)
	} else if err := l.Append(Sample{Step: 2, Text: "\u2028two"}); err != nil || read(t, name) != whole {
		t.Errorf("%v, %q", err, read(t, name))
	}
	if l := open(0); len(l.All) != 1 || strings.Count(read(t, name), "\n") != 1 {
		t.Error(l.All)
	}
}

// Whatever a file has become, reading it ends, and what is read is what stays.
func FuzzLines(f *testing.F) {
	f.Add([]byte("{\"step\":1,\"loss\":2.5}\n{\"step\":2,\"eval_loss\":1e-3}\n{\"st"), 1)
	f.Add([]byte("{\"step\":1e99}\n\n{}"), 0)
	f.Add([]byte("null\n[]\n"), 5)
	f.Fuzz(func(t *testing.T, b []byte, upTo int) {
		name := filepath.Join(t.TempDir(), MetricsFile)
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
		var kept [2][]byte
		for i := range kept {
			l, err := OpenLines[Metric](name, upTo)
			if err != nil {
				t.Fatal(err)
			}
			l.Close()
			kept[i], _ = os.ReadFile(name)
		}
		if !bytes.Equal(kept[0], kept[1]) {
			t.Errorf("%q, then %q", kept[0], kept[1])
		}
	})
}

func TestBest(t *testing.T) {
	held := func(step int, loss float32) Metric { return Metric{Step: step, HeldOut: &loss} }
	train := float32(0.1)
	all := []Metric{held(0, 1), {Step: 1, Loss: &train}, held(10, 4), held(20, 2), held(30, 2), held(40, 3)}
	for _, c := range []struct {
		counts []int
		want   int
	}{{[]int{0, 10, 20, 30, 40}, 0}, {[]int{10, 20, 30, 40}, 20}, {[]int{30, 40}, 30}, {[]int{1, 5}, -1}} {
		if got := Best(all, func(s int) bool { return slices.Contains(c.counts, s) }); got != c.want {
			t.Errorf("%v: %d, want %d", c.counts, got, c.want)
		}
	}
}

func TestSettings(t *testing.T) {
	a := ParseSettings("model: \"a \\\"b\\\": c\"\nlr: 0.1\ntargets: [\"q\", \"v\"]\nprompt: \"\"\n")
	want := []Setting{{"model", `a "b": c`}, {"lr", "0.1"}, {"targets", `["q", "v"]`}, {"prompt", `""`}}
	if !slices.Equal(a, want) {
		t.Errorf("%q", a)
	}
	b := []Setting{{"seed", "1"}, {"lr", "0.2"}, {"model", `a "b": c`}, {"targets", `["q", "v"]`}, {"prompt", `""`}}
	var got []string
	for _, d := range Differences(a, b) {
		got = append(got, d.Name+" "+strings.Join(d.Values, "|"))
	}
	if !slices.Equal(got, []string{"lr 0.1|0.2", "seed |1"}) {
		t.Errorf("%q", got)
	}
}
