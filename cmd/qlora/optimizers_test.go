package main

import (
	"strings"
	"testing"
)

func TestParseOptimizer(t *testing.T) {
	for name, want := range map[string]optimizer{
		"adamw_torch": {}, "adamw_bnb_8bit": {eight: true}, "paged_adamw_32bit": {paged: true}, "paged_adamw_8bit": {eight: true, paged: true},
		"lion_32bit": {lion: true}, "paged_lion_32bit": {lion: true, paged: true},
	} {
		if got, err := parseOptimizer(name); got != want || err != nil {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, want)
		}
	}
	for name, want := range map[string]string{
		"paged_lion_8bit": "want paged_lion_32bit", "sgd": "want one of adamw_8bit, adamw_bnb_8bit, adamw_torch,", "": `optim ""`,
	} {
		if _, err := parseOptimizer(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
}
