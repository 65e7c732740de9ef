//go:build unix

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"qlora/cmd/qlora/internal/runs"
	"qlora/ref/num"
)

// childVariable makes the test binary the program itself: a process that a test can kill. Its value limits the size of the files that
// the process may write, in bytes; 0 is no limit.
const childVariable = "QLORA_TEST_CHILD"

func TestMain(m *testing.M) {
	var limit uint64
	if n, _ := fmt.Sscan(os.Getenv(childVariable), &limit); n == 0 {
		os.Exit(m.Run())
	}
	if limit > 0 {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
			panic(err)
		}
	}
	main()
}

// child is a process of the program that may write files of up to limit bytes.
func child(t *testing.T, limit int, args []string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", childVariable, limit))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	return cmd, &stderr
}

// small are flags of a run that saves after every step.
func small(dir, held string) []string {
	return []string{"train", "--output", dir, "--steps", "12", "--seq-len", "16", "--batch-size", "1", "--lora-r", "2", "--device", "cpu", "--lr-scheduler-type", "constant",
		"--save-steps", "1", "--save-total-limit", "3", "--eval-steps", "3", "--load-best-model-at-end", "--eval-data", held,
		"--prompt", "O", "--max-new-tokens", "3", "--resume"}
}

// A run that is killed at any of 100 random instants and resumed each time ends in the bytes of one that was never killed.
func TestKilledAtAnyInstant(t *testing.T) {
	tmp := t.TempDir()
	held := short(filepath.Join(tmp, "held"))
	through := filepath.Join(tmp, "through")
	cmd, stderr := child(t, 0, small(through, held))
	begun := time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatal(err, stderr)
	}
	took := time.Since(begun)
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			k := killer{seed: seed, reach: took}
			for n := 0; k.kills < 25; n++ {
				dir := filepath.Join(tmp, fmt.Sprintf("run-%d-%d", seed, n))
				k.finish(t, small(dir, held))
				sameRun(t, through, dir)
				if left, err := filepath.Glob(filepath.Join(dir, ".*[0-9]")); err != nil || left != nil {
					t.Errorf("left over: %v, %v", left, err)
				}
				if t.Failed() {
					return
				}
			}
			if k.resumed < 5 {
				t.Errorf("only %d of %d kills came after a checkpoint: the test shows little", k.resumed, k.kills)
			}
		})
	}
}

// killer kills within reach of a process's start. The reach follows what else the machine does, so that about four of five are killed.
type killer struct {
	seed           uint64
	reach          time.Duration
	kills, resumed int
}

// finish starts a process again and again, until one is not killed.
func (k *killer) finish(t *testing.T, args []string) {
	t.Helper()
	for {
		cmd, stderr := child(t, 0, args)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		instant := num.Bits(k.seed, num.Counter{Purpose: num.Purpose("test: kill"), Element: uint64(k.kills)})
		timer := time.AfterFunc(time.Duration(float64(k.reach)*float64(instant)/(1<<32)), func() { cmd.Process.Kill() })
		err := cmd.Wait()
		timer.Stop()
		if strings.Contains(stderr.String(), "going on from") {
			k.resumed++
		}
		if err == nil {
			k.reach = k.reach * 4 / 5
			return
		}
		if status := cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGKILL {
			t.Fatal(err, stderr)
		}
		k.kills++
		k.reach = k.reach * 21 / 20
	}
}

// Ctrl-C, and what a system sends that shuts down, save and say how to go on.
func TestSignals(t *testing.T) {
	tmp := t.TempDir()
	held := short(filepath.Join(tmp, "held"))
	through := filepath.Join(tmp, "through")
	args := func(dir string) []string {
		return append(small(dir, held), "--save-steps", "0", "--eval-steps", "50", "--steps", "150")
	}
	if cmd, stderr := child(t, 0, args(through)); cmd.Run() != nil {
		t.Fatal(stderr)
	}
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		dir := filepath.Join(tmp, s.String())
		cmd, stderr := child(t, 0, args(dir))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for !bytes.Contains(readFile(filepath.Join(dir, runs.MetricsFile)), []byte(`"step":2,`)) {
			select {
			case err := <-ended:
				t.Fatal(err, stderr)
			case <-time.After(time.Millisecond):
			}
		}
		cmd.Process.Signal(s)
		<-ended
		want := fmt.Sprintf("go on with: qlora train --output %s --resume", dir)
		if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(stderr.String(), want) || !strings.Contains(stderr.String(), "stopped after step") {
			t.Fatalf("%v: exit code %d, %s", s, code, stderr)
		}
		if cmd, stderr := child(t, 0, args(dir)); cmd.Run() != nil {
			t.Fatal(stderr)
		}
		if a, b := digest(t, filepath.Join(through, "adapter_model.safetensors")), digest(t, filepath.Join(dir, "adapter_model.safetensors")); a != b {
			t.Errorf("%v: the adapter differs", s)
		}
		if a, b := digest(t, filepath.Join(through, runs.MetricsFile)), digest(t, filepath.Join(dir, runs.MetricsFile)); a != b {
			t.Errorf("%v: the metrics differ", s)
		}
	}
}

func readFile(name string) []byte {
	b, _ := os.ReadFile(name) // not there yet
	return b
}

// Where the trainer's state does not fit on the disk, the error says so, and the checkpoint before is whole. A limit on the size of a
// file stands for the full disk.
func TestFullDisk(t *testing.T) {
	tmp := t.TempDir()
	held := short(filepath.Join(tmp, "held"))
	through, dir := filepath.Join(tmp, "through"), filepath.Join(tmp, "run")
	for _, run := range [][]string{small(through, held), append(small(dir, held), "--steps", "6")} {
		if cmd, stderr := child(t, 0, run); cmd.Run() != nil {
			t.Fatal(stderr)
		}
	}
	state, err := os.Stat(filepath.Join(runs.Dir(dir).Checkpoint(6), stateFile))
	if err != nil {
		t.Fatal(err)
	}
	cmd, stderr := child(t, int(state.Size())-100, small(dir, held))
	cmd.Run()
	whole := runs.Dir(dir).Checkpoint(6)
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Error(code, stderr)
	}
	for _, want := range []string{"step 7 could not be saved", stateFile, "file too large", whole + " is whole", "go on with: qlora train --output " + dir + " --resume"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("no %q in %s", want, stderr)
		}
	}
	if cmd, stderr := child(t, 0, small(dir, held)); cmd.Run() != nil || !strings.Contains(stderr.String(), "going on from "+whole) {
		t.Fatal(stderr)
	}
	sameRun(t, through, dir)
}

// A folder that cannot be written to is named. The superuser may write everywhere, so the run is another user's then.
func TestReadOnlyOutput(t *testing.T) {
	tmp := t.TempDir()
	dir := filepath.Join(tmp, "run")
	held := short(filepath.Join(tmp, "held"))
	if err := os.Mkdir(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(tmp, "qlora") // where the other user finds it
	if err := os.WriteFile(program, readFile(os.Args[0]), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{filepath.Dir(tmp), tmp} {
		if err := os.Chmod(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for output, want := range map[string]string{dir: "cannot be written to", filepath.Join(dir, "new"): "cannot be made"} {
		cmd, stderr := child(t, 0, small(output, held))
		cmd.Path = program
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(stderr.String(), "output_dir "+output+" "+want) || !strings.Contains(stderr.String(), "permission denied") {
			t.Errorf("exit code %d, %s", code, stderr)
		}
	}
}
