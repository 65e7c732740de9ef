package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"qlora/ref/llama"
	"qlora/ref/lora/peft"
)

// targets are the patterns that adapter_config.json gets, and the modules of a model that they choose.
func (o runOptions) targets(c llama.Config) (peft.Patterns, map[string]peft.Rank, error) {
	p, err := o.patterns(c.Modules())
	if err != nil {
		return p, nil, err
	}
	for _, layer := range p.LayersToTransform {
		if layer >= c.NumHiddenLayers {
			return p, nil, fmt.Errorf("layers_to_transform: %d: the model has %d layers, from 0 to %d", layer, c.NumHiddenLayers, c.NumHiddenLayers-1)
		}
	}
	if err := checkOthers(p); err != nil {
		return p, nil, err
	}
	if err := p.CheckUsed(c.Modules()); err != nil {
		return p, nil, err
	}
	modules, err := p.Choose(c.Modules())
	if err == nil && len(modules) == 0 {
		err = fmt.Errorf("target_modules %v choose none of the model's linear layers", o.Targets)
	}
	return p, modules, err
}

// checkOthers refuses patterns that choose what only PEFT can adapt.
func checkOthers(p peft.Patterns) error {
	others, err := p.Choose([]string{"lm_head", "model.embed_tokens"})
	for m := range others {
		return fmt.Errorf("target_modules chooses %s: only the linear layers of the model's blocks can be adapted", m)
	}
	return err
}

// patterns are the options as PEFT has them. All linear layers are a list of their last names, as a LoraConfig that PEFT has
// saved holds no all-linear.
func (o runOptions) patterns(modules []string) (p peft.Patterns, err error) {
	p = peft.Patterns{R: o.R, Alpha: o.Alpha, TargetModules: names(o.Targets), ExcludeModules: names(o.Exclude),
		LayersPattern: names(o.LayersName), ModulesToSave: o.ModulesToSave}
	if p.TargetModules.Empty() || len(o.Targets) == 1 && strings.EqualFold(o.Targets[0], peft.AllLinear) {
		p.TargetModules = peft.Names{}
		for _, m := range modules {
			p.TargetModules.List = append(p.TargetModules.List, m[strings.LastIndexByte(m, '.')+1:])
		}
	}
	slices.Sort(p.TargetModules.List)
	p.TargetModules.List = slices.Compact(p.TargetModules.List)
	for _, text := range o.Layers {
		layer, err := strconv.Atoi(text)
		if err != nil || layer < 0 {
			return p, fmt.Errorf("layers_to_transform: %q: want numbers of layers, from 0", text)
		}
		p.LayersToTransform = append(p.LayersToTransform, layer)
	}
	if p.RankPattern, err = pattern("rank_pattern", o.Ranks); err != nil {
		return p, err
	}
	if p.AlphaPattern, err = pattern("alpha_pattern", o.Alphas); err != nil {
		return p, err
	}
	return p, p.Check()
}

// checkPatterns finds what is wrong with the options whatever the model.
func (o runOptions) checkPatterns() error {
	p, err := o.patterns(nil)
	if err == nil {
		_, err = p.Choose(nil)
	}
	return err
}

// names are a list, or, if any of them has a character that is in no module's name, one regular expression, which may have
// had commas.
func names(items []string) peft.Names {
	if all := strings.Join(items, ","); strings.ContainsAny(all, `\^$*+?()[]{}|`) {
		return peft.Names{Regexp: all}
	}
	return peft.Names{List: slices.Clone(items)}
}

// pattern reads name=value entries.
func pattern(option string, items []string) (p peft.Pattern, err error) {
	for _, item := range items {
		i := strings.LastIndexByte(item, '=')
		value, err := strconv.ParseFloat(item[i+1:], 64)
		if i < 1 || err != nil {
			return nil, fmt.Errorf("%s: %q: want a module's name, =, and a number", option, item)
		}
		name := item[:i]
		if slices.ContainsFunc(p, func(e peft.Entry) bool { return e.Modules == name }) {
			return nil, fmt.Errorf("%s: %q stands there twice", option, name)
		}
		p = append(p, peft.Entry{Modules: name, Value: value})
	}
	return p, nil
}
