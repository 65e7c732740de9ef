package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"qlora/cmd/qlora/internal/runs"
)

// A checkpoint that cannot be used takes no place among those that are kept: a resume that is stopped at once leaves the good ones.
func TestUnreadableCheckpointCountsForNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	flags := []string{"--save-steps", "1", "--save-total-limit", "2"}
	must(t, quick(dir, append(flags, "--steps", "3")...)...)
	if err := os.Truncate(filepath.Join(runs.Dir(dir).Checkpoint(3), stateFile), 100); err != nil {
		t.Fatal(err)
	}
	_, said, code := cli(t, "", quick(dir, append(flags, "--steps", "2", "--save-total-limit", "1", "--resume")...)...)
	if left := runs.Dir(dir).Checkpoint(3) + ".unreadable"; code != 0 || !strings.Contains(said, "left as "+left+"\n") || !exists(filepath.Join(left, stateFile)) {
		t.Error(code, said)
	}
	if got := steps(t, dir); !slices.Equal(got, []int{2}) {
		t.Error(got)
	}
}

func TestContradictoryFlags(t *testing.T) {
	for flags, want := range map[string]string{"--bits 16 --quant-type nf4": "give one of them", "--bits 32 --bf16": "give one of them",
		"--full-finetune --bits 16 --lora-r 7": "no adapter: lora_r 7"} {
		for _, command := range []string{"train", "plan"} {
			if _, err, code := cli(t, "", append([]string{command}, strings.Fields(flags)...)...); code != 2 || !strings.Contains(err, want) {
				t.Errorf("%s %s: %d, %s", command, flags, code, err)
			}
		}
	}
	must(t, "train", "--print-config", "--full-finetune", "--bits", "16")
}
