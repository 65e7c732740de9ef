package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConformanceList(t *testing.T) {
	out := must(t, "conformance", "list", "--only", "^nf4_quantize/bf16/n=64/", "--level", "smoke")
	if !strings.HasPrefix(out, "nf4_quantize/bf16/n=64/bs=64/") || strings.Contains(out, "f32") {
		t.Error(out)
	}
}

func TestConformanceRun(t *testing.T) {
	dir := t.TempDir()
	junit, lines := filepath.Join(dir, "out.xml"), filepath.Join(dir, "out.jsonl")
	out := must(t, "conformance", "run", "--device", "ref", "--level", "smoke", "--only", "^(add|nf4_quantize)/", "--require", "add,nf4_quantize", "--junit", junit, "--json", lines)
	if !strings.Contains(out, "device    ref\n") || !strings.Contains(out, "\nnf4_quantize ") || !strings.Contains(out, "\ntotal ") {
		t.Error(out)
	}
	for _, name := range []string{junit, lines} {
		if b, err := os.ReadFile(name); err != nil || !strings.Contains(string(b), "nf4_quantize/bf16/n=64/bs=64/random#1") {
			t.Error(err, string(b))
		}
	}
}

// The exit code is 1 for what failed and 2 for a mistake in the command line.
func TestConformanceExitCodes(t *testing.T) {
	dir := t.TempDir()
	waivers := filepath.Join(dir, "waivers.json")
	if err := os.WriteFile(waivers, []byte(`[{"id":"#1","cases":"add/f32/n=33/random#1","reason":"none","expires":"9999-12-31"}]`), 0o644); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, "broken.json")
	if err := os.WriteFile(broken, []byte(`[{"id":"#1"}]`), 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(more ...string) []string {
		return append([]string{"conformance", "run", "--level", "smoke", "--only", "^add/f32/"}, more...)
	}
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{run("--require", "gate"), 1, "required gate: no selected case is of it"},
		{run("--waivers", waivers), 1, "1 of"},
		{run("--waivers", broken), 2, "broken.json: waiver #1 has no reason"},
		{run("--waivers", filepath.Join(dir, "none")), 2, "none"},
		{run("--level", "slow"), 2, "want smoke, quick, full, exhaustive"},
		{run("--only", "("), 2, "flag --only"},
		{run("--only", "nosuch"), 2, "no case is selected"},
		{run("--require", "("), 2, "flag --require"},
		{run("--max-elements", "-1"), 2, "below 0"},
		{run("--json", filepath.Join(dir, "none", "out")), 2, "flag --json"},
		{run("--junit", dir), 2, "flag --junit"},
		{run("--device", "cuda"), 1, "device cuda: not part of this program yet"},
		{run("--device", "abacus"), 2, "abacus"},
		{run("here"), 2, `"here" is no flag`},
		{[]string{"conformance"}, 2, "want conformance list, conformance run, conformance export, conformance verify"},
		{[]string{"conformance", "export"}, 2, "needs a folder"},
		{[]string{"conformance", "export", dir, "--level", "smoke"}, 1, "is there already"},
		{[]string{"conformance", "export", dir + "2", "--level", "exhaustive"}, 2, "exhaustive"},
		{[]string{"conformance", "verify", dir}, 1, "it is no export, for it has no manifest.json"},
		{[]string{"conformance", "verify", filepath.Join(dir, "none")}, 1, "none"},
	} {
		if _, err, code := cli(t, "", test.args...); code != test.code || !strings.Contains(err, test.want) {
			t.Errorf("%v: exit code %d, want %d: %s", test.args, code, test.code, err)
		}
	}
}

// A device is written to, a link's target too, and neither is replaced; one that cannot be written leaves the other.
func TestConformanceOutputs(t *testing.T) {
	dir := t.TempDir()
	link, junit := filepath.Join(dir, "link"), filepath.Join(dir, "out.xml")
	if err := os.Symlink(os.DevNull, link); err != nil {
		return // a system, or a user, without links
	}
	run := []string{"conformance", "run", "--level", "smoke", "--only", "^add/f32/"}
	must(t, append(run, "--json", link, "--junit", junit)...)
	if info, err := os.Lstat(link); err != nil || info.Mode().IsRegular() {
		t.Error(err, "the link was replaced")
	}
	target := filepath.Join(dir, "target")
	os.Remove(link)
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(target, []byte("older and longer"), 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, append(run, "--json", link)...)
	if b, err := os.ReadFile(target); err != nil || !strings.HasPrefix(string(b), `{"type":"statement"`) {
		t.Error(err, string(b))
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || left != nil {
		t.Error(err, left)
	}
	os.Remove(junit)
	const full = "/dev/full" // where a system has it, every write fails
	if _, err := os.Stat(full); err != nil {
		return
	}
	if _, err, code := cli(t, "", append(run, "--json", full, "--junit", junit)...); code != 1 || !strings.Contains(err, "no space") {
		t.Error(code, err)
	}
	if _, err := os.Stat(junit); err != nil {
		t.Error(err)
	}
}

func TestQuoted(t *testing.T) {
	for word, want := range map[string]string{"a/b-1.zip": "a/b-1.zip", "a b": "'a b'", "it's": `'it'\''s'`, "$HOME": "'$HOME'", "": "''"} {
		if got := quoted(word); got != want {
			t.Errorf("%q: %s, want %s", word, got, want)
		}
	}
}

func TestConformanceExportAndVerify(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vectors")
	must(t, "conformance", "export", dir, "--level", "smoke", "--only", "^(add|nf4_quantize)/", "--expected")
	if err := os.Rename(filepath.Join(dir, "expected"), filepath.Join(dir, "answers")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "answers", "declare.json"), []byte(`{"name":"copy","not_supported":{"add":"to see it fail"}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := must(t, "conformance", "verify", dir); !strings.Contains(out, "device    copy\n") || !strings.Contains(out, "not supported: to see it fail: add/f32") {
		t.Error(out)
	}
	if out, err, code := cli(t, "", "conformance", "verify", dir, "--require", "add"); code != 1 || !strings.Contains(err, "add/f32") || !strings.Contains(out, "failed: required add") {
		t.Error(code, err, out)
	}
	must(t, "conformance", "export", dir+".zip", "--level", "smoke", "--only", "^add/")
}
