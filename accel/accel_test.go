package accel

import (
	"errors"
	"strings"
	"testing"

	"qlora/accel/cpu"
	"qlora/accel/cpu/kernel"
)

func TestOpen(t *testing.T) {
	for name, want := range map[string]string{"auto": "cpu", "cpu": "cpu", "ref": "ref"} {
		if d, err := Open(name, Options{}); err != nil || d.Name() != want {
			t.Errorf("%s: %v, %v", name, d, err)
		}
	}
	for name, want := range map[string]string{"tpu": "want auto or cuda, vulkan, cpu, ref", "cuda": "not part of this program yet"} {
		if _, err := Open(name, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open("ref", Options{Fast: true}); err == nil || !strings.Contains(err.Error(), "device ref: there is no math fast") {
		t.Error(err)
	}
	if _, err := Open("ref", Options{AccountOnly: true}); !errors.Is(err, ErrNoAccount) {
		t.Error(err)
	}
	if d, err := Open(Auto, Options{AccountOnly: true}); err != nil || !d.(*cpu.Device).Accounts() {
		t.Errorf("%v, %v", d, err)
	}
	d, err := Open("cpu", Options{Fast: true})
	if wantErr := cpu.Fast(); wantErr == nil && d.(*cpu.Device).Arithmetic().Exact() || wantErr != nil && (err == nil || !strings.Contains(err.Error(), wantErr.Error())) {
		t.Errorf("math fast: %v, %v; want %v", d, err, wantErr)
	}
	t.Setenv(kernel.Variable, "mmx")
	if _, err := Open(Auto, Options{}); err == nil || !strings.Contains(err.Error(), "QLORA_CPU=mmx: this processor runs portable") {
		t.Error(err)
	}
}
