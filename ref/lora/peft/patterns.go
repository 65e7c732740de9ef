// Package peft says which modules PEFT adapts, and with which rank and α, by the fields of its LoraConfig. Facts are those of
// PEFT 0.21.2: get_pattern_key, check_target_module_exists and what stands around them.
package peft

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// AllLinear as target_modules is every linear layer but the head.
const AllLinear = "all-linear"

// Patterns choose the modules that are adapted, and their ranks, by the fields of LoraConfig that have these names.
// A module's name is its full one in the model, such as model.layers.0.self_attn.q_proj.
type Patterns struct {
	R                 int      `json:"r"`
	Alpha             float64  `json:"lora_alpha"`
	RankPattern       Pattern  `json:"rank_pattern"`  // other ranks than R
	AlphaPattern      Pattern  `json:"alpha_pattern"` // other α than Alpha
	TargetModules     Names    `json:"target_modules"`
	ExcludeModules    Names    `json:"exclude_modules"`
	LayersToTransform Layers   `json:"layers_to_transform"` // only these layers, where TargetModules is a list; empty is all
	LayersPattern     Names    `json:"layers_pattern"`      // what the layers' list is called, such as layers
	ModulesToSave     []string `json:"modules_to_save"`     // saved whole, so never adapted
}

// Rank is a module's own r and α.
type Rank struct {
	R     int
	Alpha float64
}

// Names is a list, in which a name stands for every module whose name is it, or ends in it after a dot; or one regular
// expression, which must match a module's whole name.
type Names struct {
	List   []string
	Regexp string // "" for a list
}

// Layers are numbers of layers.
type Layers []int

// Pattern gives modules values of their own. The first entry that matches counts, so that their order matters.
type Pattern []Entry

// Entry is for the modules whose names end in what Modules, a regular expression, matches: the whole name, or all after a dot.
type Entry struct {
	Modules string
	Value   float64
}

// Check says what is wrong with the values, if anything.
func (p Patterns) Check() error {
	if p.R < 1 {
		return fmt.Errorf("r is %d: want at least 1", p.R)
	}
	if !(p.Alpha >= 0 && p.Alpha <= math.MaxFloat32) {
		return fmt.Errorf("lora_alpha is %v: want at least 0", p.Alpha)
	}
	for _, e := range p.RankPattern {
		if e.Value != math.Trunc(e.Value) || e.Value < 1 || e.Value > math.MaxInt32 {
			return fmt.Errorf("rank_pattern of %q is %v: want a whole number from 1", e.Modules, e.Value)
		}
	}
	for _, e := range p.AlphaPattern {
		if !(e.Value >= 0 && e.Value <= math.MaxFloat32) {
			return fmt.Errorf("alpha_pattern of %q is %v: want at least 0", e.Modules, e.Value)
		}
	}
	switch {
	case p.TargetModules.Regexp != "" && (p.LayersToTransform != nil || !p.LayersPattern.Empty()):
		return fmt.Errorf("layers_to_transform and layers_pattern go with a list of target_modules, which are %q", p.TargetModules.Regexp)
	case p.LayersToTransform == nil && !p.LayersPattern.Empty():
		return fmt.Errorf("layers_pattern needs layers_to_transform")
	}
	return nil
}

// Choose gives the rank and α of each module that is adapted; modules are all linear layers but the head.
func (p Patterns) Choose(modules []string) (map[string]Rank, error) {
	chosen, err := p.Chosen()
	if err != nil {
		return nil, err
	}
	rank, err := p.Ranks()
	if err != nil {
		return nil, err
	}
	all := map[string]Rank{}
	for _, m := range modules {
		if chosen(m) {
			all[m] = rank(m)
		}
	}
	return all, nil
}

// Ranks gives the rank and α that any module has if it is adapted.
func (p Patterns) Ranks() (func(module string) Rank, error) {
	r, err := p.RankPattern.compile()
	if err != nil {
		return nil, fmt.Errorf("rank_pattern: %w", err)
	}
	alpha, err := p.AlphaPattern.compile()
	if err != nil {
		return nil, fmt.Errorf("alpha_pattern: %w", err)
	}
	return func(module string) Rank { return Rank{int(r(module, float64(p.R))), alpha(module, p.Alpha)} }, nil
}

// Chosen says of a module whether it is adapted.
func (p Patterns) Chosen() (func(module string) bool, error) {
	target, err := p.TargetModules.match()
	if err != nil {
		return nil, fmt.Errorf("target_modules: %w", err)
	}
	exclude, err := p.ExcludeModules.match()
	if err != nil {
		return nil, fmt.Errorf("exclude_modules: %w", err)
	}
	saved, err := p.saved()
	if err != nil {
		return nil, fmt.Errorf("modules_to_save: %w", err)
	}
	layer, err := p.layer()
	if err != nil {
		return nil, fmt.Errorf("layers_pattern: %w", err)
	}
	return func(m string) bool {
		inLayer := len(p.LayersToTransform) == 0 || slices.Contains(p.TargetModules.List, m) || slices.Contains(p.LayersToTransform, layer(m))
		return target(m) && inLayer && !exclude(m) && !saved(m)
	}, nil
}

// Saves says whether ModulesToSave names a module, or one that it is a part of. As in PEFT, a module's name need only end in
// such a name, be it within a word: norm names model.norm and input_layernorm.
func (p Patterns) Saves(module string) bool {
	for end := len(module); end > 0; end = strings.LastIndexByte(module[:end], '.') {
		for _, name := range p.ModulesToSave {
			if strings.HasSuffix(module[:end], name) {
				return true
			}
		}
	}
	return false
}

// saved says of a module that PEFT does not adapt it for ModulesToSave, which it reads as regular expressions here.
func (p Patterns) saved() (func(module string) bool, error) {
	all, err := compileAll(`\A(?:(?:^|.*\.)`, p.ModulesToSave, `(?:$|\..*))`)
	if err != nil {
		return nil, err
	}
	return func(m string) bool {
		return slices.ContainsFunc(all, func(re *regexp.Regexp) bool { return re.MatchString(m) })
	}, nil
}

// layer gives a module's layer: the number after the first name that LayersPattern has, or after the first name that has a
// number; −1 for none.
func (p Patterns) layer() (func(module string) int, error) {
	const number = `\.(?P<idx>\d+)\.`
	names := p.LayersPattern.List
	if p.LayersPattern.Regexp != "" {
		names = []string{p.LayersPattern.Regexp}
	}
	all, err := compileAll(`\A(?:(?:^|.*?\.)`, names, number+`)`)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		all = []*regexp.Regexp{regexp.MustCompile(`\A.*?\.[^.]*` + number)}
	}
	return func(m string) int {
		for _, re := range all {
			if found := re.FindStringSubmatch(m); found != nil {
				if n, err := strconv.Atoi(found[re.SubexpIndex("idx")]); err == nil {
					return n
				}
				break
			}
		}
		return -1
	}, nil
}

// compile gives a function from a module to the value of the first entry that matches, or to the usual one.
func (p Pattern) compile() (func(module string, usual float64) float64, error) {
	var names []string
	for _, e := range p {
		names = append(names, e.Modules)
	}
	all, err := compileAll(`\A(?:.*\.)?(?:`, names, `)\z`)
	if err != nil {
		return nil, err
	}
	return func(module string, usual float64) float64 {
		for i, re := range all {
			if re.MatchString(module) {
				return p[i].Value
			}
		}
		return usual
	}, nil
}

// Empty says that n names nothing.
func (n Names) Empty() bool { return n.Regexp == "" && len(n.List) == 0 }

// match says of a module whether n names it; AllLinear names all.
func (n Names) match() (func(module string) bool, error) {
	switch {
	case strings.EqualFold(n.Regexp, AllLinear):
		return func(string) bool { return true }, nil
	case n.Regexp != "":
		re, err := compileAll(wholeName, []string{n.Regexp}, `)\z`)
		if err != nil {
			return nil, err
		}
		return re[0].MatchString, nil
	}
	return func(m string) bool {
		return slices.ContainsFunc(n.List, func(name string) bool { return m == name || strings.HasSuffix(m, "."+name) })
	}, nil
}

// CheckUsed finds what fits nothing: a name that none of the linear layers has, or an entry of a pattern for none that is
// adapted. PEFT passes over it, but it is a slip of the pen where a person has just written it.
func (p Patterns) CheckUsed(modules []string) error {
	adapted, err := p.Choose(modules)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name  string
		names Names
	}{{"target_modules", p.TargetModules}, {"exclude_modules", p.ExcludeModules}} {
		for _, name := range f.names.List {
			match, _ := Names{List: []string{name}}.match() // a list always compiles
			if !slices.ContainsFunc(modules, match) {
				return fmt.Errorf("%s: %q is the name of no linear layer that can be adapted", f.name, name)
			}
		}
	}
	for _, f := range []struct {
		name    string
		pattern Pattern
	}{{"rank_pattern", p.RankPattern}, {"alpha_pattern", p.AlphaPattern}} {
		for i, e := range f.pattern {
			value, err := f.pattern[i : i+1].compile()
			if err != nil {
				return err
			}
			fits := func(m string) bool { return value(m, -1) == e.Value }
			if !slices.ContainsFunc(slices.Collect(maps.Keys(adapted)), fits) {
				return fmt.Errorf("%s: %q is the name of no module that is adapted", f.name, e.Modules)
			}
		}
	}
	return nil
}
