package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// optimizer is what a name of optim stands for.
type optimizer struct {
	eight bool // AdamW's moments in 8 bits
	lion  bool // Lion in place of AdamW
	paged bool // its state leaves memory where memory_limit has no room for it
}

// optimizers have transformers' names. What is fused, and whose code it is, makes no difference here.
var optimizers = map[string]optimizer{
	"adamw_torch": {}, "adamw_torch_fused": {}, "adamw_8bit": {eight: true}, "adamw_bnb_8bit": {eight: true},
	"paged_adamw_32bit": {paged: true}, "paged_adamw_8bit": {eight: true, paged: true},
	"lion_32bit": {lion: true}, "paged_lion_32bit": {lion: true, paged: true},
}

// parseOptimizer finds what a name stands for.
func parseOptimizer(name string) (optimizer, error) {
	o, known := optimizers[name]
	switch {
	case known:
		return o, nil
	case name == "lion_8bit" || name == "paged_lion_8bit":
		return o, fmt.Errorf("optim %q: Lion's one moment is kept in 32 bits: half of AdamW's memory; want %s", name, strings.Replace(name, "8bit", "32bit", 1))
	}
	return o, fmt.Errorf("optim %q: want one of %s", name, strings.Join(slices.Sorted(maps.Keys(optimizers)), ", "))
}

// name is one for all that compute the same: whether state is paged makes no difference.
func (o optimizer) name() string {
	switch {
	case o.lion:
		return "lion_32bit"
	case o.eight:
		return "adamw_8bit"
	}
	return "adamw_torch"
}

// lionBeta2 is Lion's default for adam_beta2, which is 0.999 for AdamW: that of its paper and of bitsandbytes. (transformers gives Lion AdamW's.)
const lionBeta2 = 0.99
