package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"qlora/cmd/qlora/internal/runs"
)

// One run that cannot be read has a row that says why, and no more.
func TestRunsListOfAnUnreadableRun(t *testing.T) {
	tmp := t.TempDir()
	for name, info := range map[string]string{"a": `{"steps": 5}`, "b": `{"steps": `} {
		d := runs.Dir(filepath.Join(tmp, name))
		if err := os.Mkdir(string(d), 0o755); err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string]string{runs.ConfigFile: "model: \"demo\"\n", runs.InfoFile: info} {
			if err := d.WriteText(file, text); err != nil {
				t.Fatal(err)
			}
		}
	}
	bad := filepath.Join(tmp, "b")
	lines := strings.Split(must(t, "runs", "list", tmp), "\n")
	if len(lines) != 4 || !strings.Contains(lines[1], "0 of 5") || !strings.HasPrefix(lines[2], bad) || !strings.Contains(lines[2], "unreadable: "+filepath.Join(bad, runs.InfoFile)) {
		t.Errorf("%q", lines)
	}
	var all []outcome
	if err := json.Unmarshal([]byte(must(t, "runs", "list", tmp, "--json")), &all); err != nil || len(all) != 2 || all[0].Error != "" || !strings.Contains(all[1].Error, runs.InfoFile) {
		t.Error(all, err)
	}
}
