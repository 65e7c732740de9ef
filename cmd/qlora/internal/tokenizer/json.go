package tokenizer

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// component is a part of a tokenizer.json: its type, and all its fields.
type component struct {
	kind   string
	fields json.RawMessage
	depth  int // in how many Sequences it is
	*budget
}

// budget is shared by the components of a chain: with hundreds of them, each of which doubles a text, there would be no bound.
type budget struct {
	components int
	growth     float64 // how many times longer a text may become
}

const (
	deepest        = 8 // Sequences in one another
	mostComponents = 64
	mostGrowth     = 1 << 16
)

// grows is called by components that can make a text longer.
func (b *budget) grows(times int) error {
	if b.growth *= float64(max(1, times)); b.growth > mostGrowth {
		return fmt.Errorf("its components can make a text %g times longer", b.growth)
	}
	return nil
}

func (c *component) UnmarshalJSON(b []byte) error {
	var t struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(b, &t); err != nil {
		return err
	}
	c.kind, c.fields, c.budget = t.Type, slices.Clone(b), &budget{growth: 1}
	return nil
}

// unsupported names what we lack. what is the component's place.
func unsupported[T any](what, kind string, have map[string]T) error {
	return fmt.Errorf("%s of type %q is not supported: want %s", what, kind, strings.Join(slices.Sorted(maps.Keys(have)), ", "))
}

// ParseJSON reads a tokenizer.json; name is for errors.
func ParseJSON(b []byte, name string) (*Tokenizer, error) {
	t, err := parseJSON(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return t, nil
}

func parseJSON(b []byte) (*Tokenizer, error) {
	var f struct {
		Added []struct {
			ID int32 `json:"id"`
			addedFields
		} `json:"added_tokens"`
		Normalizer    *component `json:"normalizer"`
		PreTokenizer  *component `json:"pre_tokenizer"`
		PostProcessor *component `json:"post_processor"`
		Decoder       *component `json:"decoder"`
		Model         component  `json:"model"`
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, err
	}
	t := &Tokenizer{EOS: -1, bos: -1, normalize: identity, split: whole}
	var err error
	if f.Normalizer != nil {
		if t.normalize, err = parseNormalizer(*f.Normalizer); err != nil {
			return nil, err
		}
	}
	if f.PreTokenizer != nil {
		if t.split, err = parsePreTokenizer(*f.PreTokenizer); err != nil {
			return nil, err
		}
	}
	if t.model, err = parseModel(f.Model); err != nil {
		return nil, err
	}
	var tokens []addedToken
	for _, a := range f.Added {
		tokens = append(tokens, a.token(a.ID))
	}
	if err := checkAdded(tokens, t.model); err != nil {
		return nil, err
	}
	t.added = newAdded(tokens, t.normalize)
	if f.PostProcessor != nil {
		if t.before, t.after, err = parsePostProcessor(*f.PostProcessor); err != nil {
			return nil, err
		}
		for _, id := range slices.Concat(t.before, t.after) {
			if _, ok := t.token(id); !ok {
				return nil, fmt.Errorf("post_processor: there is no token %d", id)
			}
		}
	}
	steps := func() []decodeStep { return []decodeStep{decodeSpaced()} }
	if f.Decoder != nil {
		if steps, err = parseDecoder(*f.Decoder); err != nil {
			return nil, err
		}
	}
	t.newDecoder = func() Decoder { return &chain{t: t, steps: steps()} }
	return t, nil
}

// addedFields are what files say of an added token beside its id.
type addedFields struct {
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

func (a addedFields) token(id int32) addedToken {
	return addedToken{id: id, text: a.Content, singleWord: a.SingleWord, lstrip: a.LStrip, rstrip: a.RStrip,
		normalized: a.Normalized, special: a.Special}
}

// checkAdded wants the ids that the original gives: it passes over those in the file, and counts up from the model's.
func checkAdded(tokens []addedToken, m model) error {
	seen := map[string]bool{}
	next := int32(m.count())
	for _, t := range tokens {
		if t.text == "" || seen[t.text] {
			return fmt.Errorf("added token %d, %q, is empty or there twice", t.id, t.text)
		}
		seen[t.text] = true
		want, ok := m.id(t.text)
		if !ok {
			want = next
		}
		if t.id != want {
			return fmt.Errorf("added token %q has the id %d, but the tokenizers library would give it %d: the file is damaged", t.text, t.id, want)
		}
		next = max(next, want+1)
	}
	return nil
}

// textPattern is {"String": …} or {"Regex": …}.
type textPattern struct {
	String *string
	Regex  *string
}

var normalizers = map[string]func(component) (normalizer, error){}

func init() { // for they contain one another
	normalizers["Sequence"] = func(c component) (normalizer, error) {
		var f struct {
			List []component `json:"normalizers"`
		}
		list, err := all(c, &f, &f.List, parseNormalizer)
		return normalizeAll(list), err
	}
	normalizers["Prepend"] = func(c component) (normalizer, error) {
		var f struct{ Prepend string }
		err := json.Unmarshal(c.fields, &f)
		return prepend(f.Prepend), err
	}
	normalizers["Replace"] = parseReplace
	normalizers["Strip"] = func(c component) (normalizer, error) {
		f := struct {
			Left  bool `json:"strip_left"`
			Right bool `json:"strip_right"`
		}{true, true}
		err := json.Unmarshal(c.fields, &f)
		return strip(f.Left, f.Right), err
	}
	normalizers["Precompiled"] = func(c component) (normalizer, error) {
		var f struct {
			Charsmap string `json:"precompiled_charsmap"`
		}
		if err := json.Unmarshal(c.fields, &f); err != nil {
			return nil, err
		}
		b, err := base64.StdEncoding.DecodeString(f.Charsmap)
		if err != nil {
			return nil, fmt.Errorf("precompiled_charsmap: %w", err)
		}
		m, err := parseCharsmap(b)
		if err != nil {
			return nil, err
		}
		return m.normalize, c.grows(longestResult)
	}
	for name, form := range forms {
		normalizers[name] = func(c component) (normalizer, error) { return form.normalize, c.grows(mostDecomposed) }
	}
}

// all parses the components in a list that is a field of c.
func all[T any](c component, fields any, list *[]component, parse func(component) (T, error)) (parsed []T, err error) {
	if err := json.Unmarshal(c.fields, fields); err != nil {
		return nil, err
	}
	c.components += len(*list)
	if c.depth == deepest || c.components > mostComponents {
		return nil, fmt.Errorf("more than %d Sequences in one another, or more than %d components", deepest, mostComponents)
	}
	for _, inner := range *list {
		inner.depth, inner.budget = c.depth+1, c.budget
		p, err := parse(inner)
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, p)
	}
	return parsed, nil
}

func parseNormalizer(c component) (normalizer, error) {
	parse, ok := normalizers[c.kind]
	if !ok {
		return nil, unsupported("normalizer", c.kind, normalizers)
	}
	return parse(c)
}

func parseReplace(c component) (normalizer, error) {
	var f struct {
		Pattern textPattern
		Content string
	}
	if err := json.Unmarshal(c.fields, &f); err != nil {
		return nil, err
	}
	if err := c.grows(len(f.Content)); err != nil {
		return nil, err
	}
	switch {
	case f.Pattern.String != nil && *f.Pattern.String != "":
		return replaceString(*f.Pattern.String, f.Content), nil
	case f.Pattern.Regex != nil:
		find, err := regex(*f.Pattern.Regex)
		if err != nil {
			return nil, err
		}
		return replaceSpans(find, f.Content), nil
	}
	return nil, fmt.Errorf("component Replace: pattern must have a String or a Regex")
}

var preTokenizers = map[string]func(component) (splitter, error){}

func init() {
	preTokenizers["Sequence"] = func(c component) (splitter, error) {
		var f struct {
			List []component `json:"pretokenizers"`
		}
		list, err := all(c, &f, &f.List, parsePreTokenizer)
		return splitAll(list), err
	}
	preTokenizers["ByteLevel"] = func(c component) (splitter, error) {
		f := struct {
			Space bool `json:"add_prefix_space"`
			Regex bool `json:"use_regex"`
		}{true, true}
		if err := json.Unmarshal(c.fields, &f); err != nil {
			return nil, err
		}
		return byteLevel(f.Space, f.Regex), c.grows(2)
	}
	preTokenizers["Metaspace"] = func(c component) (splitter, error) {
		f, err := parseMetaspace(c)
		if err != nil {
			return nil, err
		}
		return metaspace(f.Replacement, f.Scheme, f.Split), c.grows(len(f.Replacement))
	}
	preTokenizers["Split"] = parseSplit
	preTokenizers["Digits"] = func(c component) (splitter, error) {
		var f struct {
			Individual bool `json:"individual_digits"`
		}
		err := json.Unmarshal(c.fields, &f)
		return digits(f.Individual), err
	}
	preTokenizers["WhitespaceSplit"] = func(component) (splitter, error) {
		return splitAt(each(unicode.IsSpace), behaviours["Removed"], false), nil
	}
}

func parsePreTokenizer(c component) (splitter, error) {
	parse, ok := preTokenizers[c.kind]
	if !ok {
		return nil, unsupported("pre_tokenizer", c.kind, preTokenizers)
	}
	return parse(c)
}

type metaspaceFields struct {
	Replacement string
	Scheme      string `json:"prepend_scheme"`
	Prefix      *bool  `json:"add_prefix_space"` // of old files, which have no scheme
	Split       bool
}

func parseMetaspace(c component) (metaspaceFields, error) {
	f := metaspaceFields{Replacement: "▁", Split: true}
	if err := json.Unmarshal(c.fields, &f); err != nil {
		return f, err
	}
	if f.Scheme == "" {
		f.Scheme = "always"
		if f.Prefix != nil && !*f.Prefix {
			f.Scheme = "never"
		}
	}
	schemes := map[string]bool{"always": true, "first": true, "never": true}
	if utf8.RuneCountInString(f.Replacement) != 1 || !schemes[f.Scheme] {
		return f, fmt.Errorf("component Metaspace: replacement %q, prepend_scheme %q: want one character, and one of always, first, never",
			f.Replacement, f.Scheme)
	}
	return f, nil
}

func parseSplit(c component) (splitter, error) {
	var f struct {
		Pattern  textPattern
		Behavior string
		Invert   bool
	}
	if err := json.Unmarshal(c.fields, &f); err != nil {
		return nil, err
	}
	behaviour, ok := behaviours[f.Behavior]
	if !ok {
		return nil, fmt.Errorf("pre_tokenizer Split: behavior %q is not supported", f.Behavior)
	}
	switch {
	case f.Pattern.String != nil:
		return splitAt(literal(*f.Pattern.String), behaviour, f.Invert), nil
	case f.Pattern.Regex != nil:
		find, err := regex(*f.Pattern.Regex)
		if err != nil {
			return nil, fmt.Errorf("pre_tokenizer Split: %w", err)
		}
		return splitAt(find, behaviour, f.Invert), nil
	}
	return nil, fmt.Errorf("pre_tokenizer Split: pattern must have a String or a Regex")
}

// pairOfTexts is a merge: ["a","b"], or "a b".
type pairOfTexts [2]string

func (p *pairOfTexts) UnmarshalJSON(b []byte) error {
	var text string
	if len(b) > 0 && b[0] == '[' {
		return json.Unmarshal(b, (*[2]string)(p))
	}
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	left, right, ok := strings.Cut(text, " ")
	if !ok || strings.Contains(right, " ") {
		return fmt.Errorf("merge %q: want two tokens with a space between them", text)
	}
	*p = pairOfTexts{left, right}
	return nil
}

var models = map[string]func(component) (model, error){"BPE": parseBPE, "Unigram": parseUnigram}

func parseModel(c component) (model, error) {
	parse, ok := models[c.kind]
	if !ok {
		return nil, unsupported("model", c.kind, models)
	}
	m, err := parse(c)
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", c.kind, err)
	}
	return m, nil
}

func parseBPE(c component) (model, error) {
	var f struct {
		Vocab        map[string]int32
		Merges       []pairOfTexts
		Dropout      float64
		Unknown      *string `json:"unk_token"`
		Prefix       string  `json:"continuing_subword_prefix"`
		Suffix       string  `json:"end_of_word_suffix"`
		FuseUnk      bool    `json:"fuse_unk"`
		ByteFallback bool    `json:"byte_fallback"`
		IgnoreMerges bool    `json:"ignore_merges"`
	}
	if err := json.Unmarshal(c.fields, &f); err != nil {
		return nil, err
	}
	switch {
	case f.Dropout != 0:
		return nil, fmt.Errorf("dropout %v is not supported", f.Dropout)
	case f.Prefix != "" || f.Suffix != "":
		return nil, fmt.Errorf("continuing_subword_prefix and end_of_word_suffix are not supported")
	}
	merges := make([][2]string, len(f.Merges))
	for i, m := range f.Merges {
		merges[i] = m
	}
	m, err := newBPE(f.Vocab, merges)
	if err != nil {
		return nil, err
	}
	m.fuseUnknown, m.byteFallback, m.ignoreMerges = f.FuseUnk, f.ByteFallback, f.IgnoreMerges
	if f.Unknown != nil {
		id, ok := f.Vocab[*f.Unknown]
		if !ok {
			return nil, fmt.Errorf("unk_token %q is not in vocab", *f.Unknown)
		}
		m.unknown = id
	}
	return m, nil
}

// scored is a piece: ["text", score].
type scored unigramPiece

func (p *scored) UnmarshalJSON(b []byte) error {
	var score json.Number
	list := []any{&p.text, &score}
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	if len(list) != 2 || score == "" {
		return fmt.Errorf("piece %s: want a text and a score", b)
	}
	p.score = decimal(string(score))
	return nil
}

// decimal gives a JSON number as Rust's serde_json reads it: the digits, as far as they go into 64 bits, are rounded to float64, and
// so is their quotient by a power of ten. The last bit may differ from the nearest float64, and pieces with equal sums of scores
// are chosen by it.
func decimal(number string) float64 {
	mantissa, exponent, _ := strings.Cut(strings.ToLower(number), "e")
	ten, _ := strconv.Atoi(exponent) // 0 for none
	digits, negative := strings.CutPrefix(mantissa, "-")
	significand, fraction, full := uint64(0), false, false
	for _, c := range digits {
		if c == '.' {
			fraction = true
			continue
		}
		d := uint64(c - '0')
		full = full || significand > (math.MaxUint64-d)/10
		if !full {
			significand = significand*10 + d
		}
		switch {
		case full && !fraction:
			ten++
		case !full && fraction:
			ten--
		}
	}
	x := float64(significand)
	if ten < 0 {
		x /= math.Pow10(-ten)
	} else {
		x *= math.Pow10(ten)
	}
	if negative {
		x = -x
	}
	return x
}

func parseUnigram(c component) (model, error) {
	var f struct {
		Vocab        []scored
		Unknown      *int32 `json:"unk_id"`
		ByteFallback bool   `json:"byte_fallback"`
	}
	if err := json.Unmarshal(c.fields, &f); err != nil {
		return nil, err
	}
	if f.Unknown == nil {
		return nil, fmt.Errorf("unk_id is missing: without it there are texts that have no ids")
	}
	pieces := make([]unigramPiece, len(f.Vocab))
	for i, p := range f.Vocab {
		pieces[i] = unigramPiece(p)
	}
	m, err := newUnigram(pieces, *f.Unknown, func(x float64) float64 { return x }, func(int) bool { return true })
	if err != nil {
		return nil, err
	}
	m.byteFallback = f.ByteFallback
	return m, nil
}

type surroundings struct{ before, after []int32 }

// parsePostProcessor gives the ids that the original puts around a single text.
func parsePostProcessor(c component) (before, after []int32, err error) {
	switch c.kind {
	case "ByteLevel": // which moves offsets alone
		return nil, nil, nil
	case "Sequence":
		var f struct {
			Processors []component
		}
		list, err := all(c, &f, &f.Processors, func(c component) (s surroundings, err error) {
			s.before, s.after, err = parsePostProcessor(c)
			return s, err
		})
		for _, s := range list {
			before, after = append(s.before, before...), append(after, s.after...)
		}
		return before, after, err
	case "TemplateProcessing":
		return parseTemplate(c)
	}
	return nil, nil, unsupported("post_processor", c.kind, map[string]bool{"ByteLevel": true, "Sequence": true, "TemplateProcessing": true})
}

func parseTemplate(c component) (before, after []int32, err error) {
	var f struct {
		Single []struct {
			SpecialToken *struct{ ID string }
		}
		Tokens map[string]struct{ IDs []int32 } `json:"special_tokens"`
	}
	if err := json.Unmarshal(c.fields, &f); err != nil {
		return nil, nil, err
	}
	sequences := 0
	for _, piece := range f.Single {
		if piece.SpecialToken == nil {
			sequences++
			continue
		}
		token, ok := f.Tokens[piece.SpecialToken.ID]
		switch {
		case !ok:
			return nil, nil, fmt.Errorf("post_processor TemplateProcessing: %q is not among its special_tokens", piece.SpecialToken.ID)
		case sequences == 0:
			before = append(before, token.IDs...)
		default:
			after = append(after, token.IDs...)
		}
	}
	if sequences != 1 {
		return nil, nil, fmt.Errorf("post_processor TemplateProcessing: single has the text %d times, want once", sequences)
	}
	return before, after, nil
}

// parseDecoder gives a decoder's steps, of which each text needs its own.
func parseDecoder(c component) (func() []decodeStep, error) {
	var d decoderParts
	if err := d.add(c); err != nil {
		return nil, err
	}
	return func() (steps []decodeStep) {
		for _, make := range d.steps {
			steps = append(steps, make())
		}
		return steps
	}, nil
}

type decoderParts struct {
	steps []func() decodeStep
	fused string // the component that made one token of all, "" for none yet
}

var decoders = map[string]func(*decoderParts, component) error{}

func init() { // for a Sequence contains others
	decoders["ByteLevel"] = func(d *decoderParts, c component) error {
		d.steps = append(d.steps, func() decodeStep { return &decodeByteLevel{} })
		d.fused = c.kind
		return nil
	}
	decoders["ByteFallback"] = func(d *decoderParts, c component) error {
		d.steps = append(d.steps, func() decodeStep { return &decodeByteFallback{} })
		return d.needsTokens(c)
	}
	decoders["Fuse"] = func(d *decoderParts, c component) error {
		d.fused = c.kind
		return nil
	}
	decoders["Sequence"] = func(d *decoderParts, c component) error {
		var f struct {
			List []component `json:"decoders"`
		}
		_, err := all(c, &f, &f.List, func(c component) (none struct{}, err error) { return none, d.add(c) })
		return err
	}
	decoders["Metaspace"] = func(d *decoderParts, c component) error {
		f, err := parseMetaspace(c)
		if err != nil {
			return err
		}
		d.steps = append(d.steps, func() decodeStep { return decodeMetaspace(f.Replacement, f.Scheme) })
		return d.needsTokens(c)
	}
	decoders["Replace"] = func(d *decoderParts, c component) error {
		n, err := parseReplace(c)
		if err != nil {
			return err
		}
		d.steps = append(d.steps, func() decodeStep { return eachToken(n) })
		return d.needsTokens(c)
	}
	decoders["Strip"] = func(d *decoderParts, c component) error {
		var f struct {
			Content     string
			Start, Stop int
		}
		if err := json.Unmarshal(c.fields, &f); err != nil {
			return err
		}
		if utf8.RuneCountInString(f.Content) != 1 || f.Start < 0 || f.Stop != 0 {
			return fmt.Errorf("decoder Strip: content %q, start %d, stop %d: want one character, and stop 0", f.Content, f.Start, f.Stop)
		}
		fused := d.fused != ""
		d.steps = append(d.steps, func() decodeStep { return decodeStrip(f.Content, f.Start, fused) })
		return nil
	}
}

func (d *decoderParts) add(c component) error {
	add, ok := decoders[c.kind]
	if !ok {
		return unsupported("decoder", c.kind, decoders)
	}
	return add(d, c)
}

func (d *decoderParts) needsTokens(c component) error {
	if d.fused != "" {
		return fmt.Errorf("decoder %s behind %s, which makes one token of all, is not supported", c.kind, d.fused)
	}
	return nil
}
