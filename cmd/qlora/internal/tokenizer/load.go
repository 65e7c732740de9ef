package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// Load reads the tokenizer of a model's folder: tokenizer.json, or else SentencePiece's tokenizer.model or spiece.model, or else
// vocab.json with merges.txt. tokenizer_config.json and config.json say which tokens begin and end a text.
func Load(fsys fs.FS) (*Tokenizer, error) {
	t, err := load(fsys)
	if err != nil {
		return nil, err
	}
	return t, t.configure(fsys)
}

// SentencePiece's files do not say what belongs around a text; transformers' classes that read files of these names do.
const (
	llamaFile = "tokenizer.model"
	t5File    = "spiece.model"
)

func load(fsys fs.FS) (*Tokenizer, error) {
	for _, name := range []string{"tokenizer.json", llamaFile, t5File} {
		b, err := fs.ReadFile(fsys, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		t, err := ParseFile(b, name)
		switch {
		case err != nil:
			return nil, err
		case name == llamaFile:
			t.before = around(true, t.bos)
		case name == t5File:
			t.after = around(true, t.EOS)
		}
		return t, nil
	}
	vocab, err := fs.ReadFile(fsys, "vocab.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no tokenizer: want tokenizer.json, tokenizer.model, spiece.model, or vocab.json with merges.txt")
	}
	if err != nil {
		return nil, err
	}
	merges, err := fs.ReadFile(fsys, "merges.txt")
	if err != nil {
		return nil, err
	}
	return parseGPT2(vocab, merges)
}

// ParseFile reads a tokenizer.json, or a SentencePiece model, as the name's end says.
func ParseFile(b []byte, name string) (*Tokenizer, error) {
	if path.Ext(name) == ".json" {
		return ParseJSON(b, name)
	}
	return Parse(b, name)
}

// named is a token as files name it: its text, or an object with the text.
type named string

func (n *named) UnmarshalJSON(b []byte) error {
	var object struct{ Content string }
	if strings.HasPrefix(string(b), "{") {
		err := json.Unmarshal(b, &object)
		*n = named(object.Content)
		return err
	}
	return json.Unmarshal(b, (*string)(n))
}

// configuration is what a folder says of a tokenizer beside the tokenizer's own file.
type configuration struct {
	BOS    *named                `json:"bos_token"`
	EOS    *named                `json:"eos_token"`
	AddBOS *bool                 `json:"add_bos_token"`
	AddEOS *bool                 `json:"add_eos_token"`
	Added  map[int32]addedFields `json:"added_tokens_decoder"`
}

// configure takes over what the folder says of added tokens, and of those at the ends of a text.
func (t *Tokenizer) configure(fsys fs.FS) error {
	for _, name := range []string{"tokenizer_config.json", "special_tokens_map.json"} {
		b, err := fs.ReadFile(fsys, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var c configuration
		if err == nil {
			err = json.Unmarshal(b, &c)
		}
		if err == nil {
			err = t.apply(c)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (t *Tokenizer) apply(c configuration) error {
	if err := t.add(c.Added); err != nil {
		return err
	}
	for _, k := range []struct {
		token *named
		into  *int32
		key   string
	}{{c.BOS, &t.bos, "bos_token"}, {c.EOS, &t.EOS, "eos_token"}} {
		if k.token == nil || *k.token == "" {
			continue
		}
		id, ok := t.id(string(*k.token))
		if !ok {
			return fmt.Errorf("%s %q is no token of this tokenizer", k.key, *k.token)
		}
		*k.into = id
	}
	if c.AddBOS != nil {
		t.before = around(*c.AddBOS, t.bos)
	}
	if c.AddEOS != nil {
		t.after = around(*c.AddEOS, t.EOS)
	}
	return nil
}

// add takes over added tokens that the tokenizer's own file does not have, or does not look for in a text: SentencePiece's never does.
func (t *Tokenizer) add(tokens map[int32]addedFields) error {
	all := maps.Clone(t.added.tokens)
	for id, fields := range tokens {
		a := fields.token(id)
		have, ok := t.id(a.text)
		text, taken := t.token(id)
		switch _, known := t.added.tokens[id]; {
		case a.text == "" || id < 0 || id >= mostIDs:
			return fmt.Errorf("added token %d is %q", id, a.text)
		case ok && have != id || !ok && taken:
			return fmt.Errorf("added token %q has the id %d: the tokenizer has it as %d, and %q as %d", a.text, id, have, text, id)
		case !known:
			all[id] = a
		}
	}
	var list []addedToken
	for _, id := range slices.Sorted(maps.Keys(all)) {
		list = append(list, all[id])
	}
	t.added = newAdded(list, t.normalize)
	return nil
}

func around(wanted bool, id int32) []int32 {
	if !wanted || id < 0 {
		return nil
	}
	return []int32{id}
}
