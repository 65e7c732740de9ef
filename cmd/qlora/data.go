package main

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"qlora/cmd/qlora/internal/base"
	"qlora/cmd/qlora/internal/batch"
	"qlora/cmd/qlora/internal/chat"
	"qlora/cmd/qlora/internal/config"
	"qlora/cmd/qlora/internal/data"
	"qlora/cmd/qlora/internal/demo"
	"qlora/ref/checkpoint"
	"qlora/ref/train"
)

// dataOptions say what a run trains on, and what of it counts.
type dataOptions struct {
	Data          []string `name:"dataset" alias:"data" help:"demo, or files or folders: .json, .jsonl, .csv, .tsv, .parquet, .txt, also with .gz"`
	Weights       []string `name:"dataset_weights" help:"such as 3,1: in what proportion examples of the datasets come up; each once if empty"`
	HeldOut       []string `name:"eval_dataset" alias:"eval_data" help:"files to measure with; for demo its own"`
	HeldOutSize   float64  `name:"eval_dataset_size" help:"rows of dataset, blocks of max_seq_length where it is a text, or the share of them below 1, that are held out to measure with"`
	Most          int      `name:"max_train_samples" help:"train on the first so many examples alone; 0 is all"`
	MostHeldOut   int      `name:"max_eval_samples" help:"measure with the first so many held-out examples alone; 0 is all"`
	Format        string   `name:"dataset_format" help:"alpaca, chat, sharegpt, oasst1, prompt-completion, input-output, text, …; found from the columns if empty"`
	Columns       []string `name:"columns" help:"such as prompt=question,response=answer: what the format's columns are called in the file"`
	SkipBad       bool     `name:"skip_bad_rows" help:"leave out, and count, rows that cannot be read or from which nothing could be learnt"`
	Template      string   `name:"chat_template" help:"model for the model's own, a .jinja file, chatml, llama2, llama3, mistral, vicuna, alpaca or guanaco; makes conversations of prompts, too; if empty, conversations alone have one, the model's"`
	Loss          string   `name:"loss" help:"what counts: response (the response; all that the assistant says), last (the last answer) or all"`
	TrainOnSource bool     `name:"train_on_source" help:"the same as --loss all"`
	EOS           string   `name:"eos_token" help:"the token that ends a sequence, where the model's tokenizer names none or another is wanted"`
	SourceMax     int      `name:"source_max_len" help:"most tokens of a prompt; 0 is no limit of its own; not of conversations"`
	TargetMax     int      `name:"target_max_len" help:"most tokens of a response or a text, its end included; 0 is no limit of its own; not of conversations"`
	SeqLen        int      `name:"max_seq_length" alias:"seq_len seq model_max_length" help:"most tokens of an example, and of the examples that are packed together; 0 is source_max_len + target_max_len where both are given, but not more than the model's context, and otherwise 512"`
	Packing       bool     `name:"packing" help:"examples that fit into max_seq_length together are one sequence of the batch; attention stays within each"`
	Group         bool     `name:"group_by_length" help:"batches of examples of about the same length; packing is then off"`
}

func defaultData() dataOptions {
	return dataOptions{Data: []string{demo.Name}, Loss: string(batch.Response), Packing: true}
}

// resolve makes explicit what options say of others. It comes before all that uses them.
func (o *dataOptions) resolve() {
	if o.SeqLen == 0 {
		o.SeqLen = 512
		if o.SourceMax > 0 && o.TargetMax > 0 {
			o.SeqLen = o.SourceMax + o.TargetMax
		}
	}
	o.Packing = o.Packing && !o.Group
}

// longest is max_seq_length with a model of a context: the sum of source_max_len and target_max_len may be more than that, and is cut to it.
func (o dataOptions) longest(context int) int {
	if o.SourceMax > 0 && o.TargetMax > 0 && o.SeqLen == o.SourceMax+o.TargetMax {
		return min(o.SeqLen, context)
	}
	return o.SeqLen
}

// mode is how sequences share the slots of a batch.
func (o dataOptions) mode() batch.Mode {
	switch {
	case o.Group:
		return batch.Grouped
	case o.Packing:
		return batch.Packing
	}
	return batch.Plain
}

// check finds contradictions before anything is read.
func (o dataOptions) check() error {
	switch {
	case len(o.Data) == 0:
		return config.Usagef("dataset is empty: want demo, or a file")
	case o.SeqLen < 2:
		return config.Usagef("max_seq_length is %d: want at least 2, a token and one that it predicts", o.SeqLen)
	case o.SourceMax < 0 || o.TargetMax < 0 || o.Most < 0 || o.MostHeldOut < 0 || !(o.HeldOutSize >= 0):
		return config.Usagef("source_max_len, target_max_len, max_train_samples, max_eval_samples and eval_dataset_size must not be negative")
	case o.SourceMax > 0 && o.TargetMax > 0 && o.SourceMax+o.TargetMax > o.SeqLen:
		return config.Usagef("source_max_len %d and target_max_len %d are more than max_seq_length %d: give two of the three, or less of the first two",
			o.SourceMax, o.TargetMax, o.SeqLen)
	case o.TargetMax == 1:
		return config.Usagef("target_max_len is 1, which the end of the sequence takes: want at least 2")
	case !slices.Contains([]batch.Loss{batch.Response, batch.Last, batch.All}, batch.Loss(o.Loss)):
		return config.Usagef("loss %q: want response, last or all", o.Loss)
	case o.TrainOnSource && o.Loss == string(batch.Last):
		return config.Usagef("train_on_source, which is loss all, contradicts loss last")
	case len(o.HeldOut) > 0 && o.HeldOutSize > 0:
		return config.Usagef("eval_dataset and eval_dataset_size are both given: want one of them")
	case len(o.Weights) > 0 && len(o.Weights) != len(o.Data):
		return config.Usagef("dataset_weights has %d numbers for %d datasets", len(o.Weights), len(o.Data))
	}
	_, err := o.weights()
	if err == nil {
		_, err = data.ParseColumns(o.Columns)
	}
	return err
}

func (o dataOptions) weights() (w []float64, err error) {
	for _, text := range o.Weights {
		x, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, config.Usagef("dataset_weights: %q is no number", text)
		}
		w = append(w, x)
	}
	return w, nil
}

// loaded is a run's data.
type loaded struct {
	examples []batch.Encoded // an epoch, which weights may have filled with repetitions
	heldOut  []batch.Encoded
	places   []data.Place // of the examples
	sources  []source
	repeated int // held-out examples that are trained on, too
}

// source is what became of a dataset.
type source struct {
	name, format string
	examples     int // tokenized ones, held-out ones included
	skipped      int
	reasons      []error // for the first of those
	cut, lost    int     // examples that were cut, and tokens that went with that
	endless      bool    // no example has a part that counts and ends in a token that says so
	passedOver   string  // the chat template that was asked for, where no example is a conversation
}

func (l *loaded) sequences() train.Sequences { return sequencesOf(l.examples) }

func sequencesOf(all []batch.Encoded) (s train.Sequences) {
	for _, x := range all {
		s = append(s, x.Sequence())
	}
	return s
}

// digest tells the examples that a run trains on from others.
func (l *loaded) digest() string { return digestOf(l.examples) }

// heldOutDigest tells those that it measures with from others; "" where there are none.
func (l *loaded) heldOutDigest() string {
	if len(l.heldOut) == 0 {
		return ""
	}
	return digestOf(l.heldOut)
}

func digestOf(examples []batch.Encoded) string {
	h := sha256.New()
	for _, s := range sequencesOf(examples) {
		hashList(h, s.IDs)
		hashList(h, s.Labels)
	}
	return fmt.Sprintf("sha256 %x", h.Sum(nil))
}

// countRepeated finds l.repeated.
func (l *loaded) countRepeated() {
	key := func(x batch.Encoded) (sum [sha256.Size]byte) {
		h := sha256.New()
		hashList(h, x.IDs)
		return [sha256.Size]byte(h.Sum(nil))
	}
	trained := map[[sha256.Size]byte]bool{}
	if len(l.heldOut) > 0 {
		for _, x := range l.examples {
			trained[key(x)] = true
		}
	}
	for _, x := range l.heldOut {
		if trained[key(x)] {
			l.repeated++
		}
	}
}

// hashList adds a list, with its length, to a hash.
func hashList(h hash.Hash, list []int32) {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(list)))
	for _, v := range list {
		b = binary.LittleEndian.AppendUint32(b, uint32(v))
	}
	h.Write(b)
}

// load reads and tokenizes everything. seed decides what is held out, and how weighted sets are mixed.
func (o dataOptions) load(b *base.Base, seed uint64) (*loaded, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	limit := b.Config.MaxPositionEmbeddings
	if o.SeqLen = o.longest(limit); o.SeqLen > limit {
		return nil, config.Usagef("max_seq_length is %d: the context of %s has %d", o.SeqLen, b.Name, limit)
	}
	e, err := o.encoder(b)
	if err != nil {
		return nil, err
	}
	l := &loaded{}
	sets := make([]tokenized, len(o.Data))
	for i, name := range o.Data {
		if sets[i], err = o.tokenize(e, b, name, demo.Text, l); err != nil {
			return nil, err
		}
	}
	if err := o.holdOut(e, b, sets, seed, l); err != nil {
		return nil, err
	}
	if err := o.mix(sets, seed, l); err != nil {
		return nil, err
	}
	if o.Most > 0 && o.Most < len(l.examples) {
		l.examples, l.places = l.examples[:o.Most], l.places[:o.Most]
	}
	if o.MostHeldOut > 0 && o.MostHeldOut < len(l.heldOut) {
		l.heldOut = l.heldOut[:o.MostHeldOut]
	}
	l.countRepeated()
	return l, nil
}

func (o dataOptions) encoder(b *base.Base) (*batch.Encoder, error) {
	e := &batch.Encoder{Tokenizer: b.Tokenizer, EOS: b.Tokenizer.EOS, Loss: batch.Loss(o.Loss), SourceMax: o.SourceMax, TargetMax: o.TargetMax, Max: o.SeqLen}
	if o.TrainOnSource {
		e.Loss = batch.All
	}
	if o.EOS != "" {
		ids := b.Tokenizer.Encode(o.EOS)
		if len(ids) != 1 {
			return nil, config.Usagef("eos_token %q is %d tokens of this model, not one", o.EOS, len(ids))
		}
		e.EOS = ids[0]
	}
	return e, nil
}

// templateOf gives the chat template of a name: the model's own for "" and model, a file's, or a built-in one. Without a name it is nil if
// the model has none. eos is the token that ends a text.
func templateOf(name string, b *base.Base, eos int32) (t *chat.Template, err error) {
	switch {
	case name == "" || name == "model":
		t, err = modelTemplate(b)
		if err == nil && t == nil && name != "" {
			err = config.Usagef("chat_template model: %s has none: want one of %s", b.Name, strings.Join(chat.Names(), ", "))
		}
	case strings.HasSuffix(name, ".jinja"):
		var source []byte
		if source, err = os.ReadFile(name); err == nil {
			t, err = chat.New(string(source), name, nil)
		}
	default:
		if t, err = chat.Builtin(name); err != nil {
			err = config.Usagef("%v, model, or a file that ends in .jinja", err)
		}
	}
	if err != nil || t == nil {
		return nil, err
	}
	t.Use(b.Tokenizer, eos)
	return t, nil
}

// modelTemplate is nil if the model has no template.
func modelTemplate(b *base.Base) (*chat.Template, error) {
	folder, file, err := base.Find(b.Name)
	if err != nil || file == "" {
		return orModel(b.Name)(chat.Load(b.Files))
	}
	g, err := checkpoint.OpenGGUF(folder, file)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	source, _ := g.Metadata["tokenizer.chat_template"].(string)
	if source == "" {
		return nil, nil
	}
	return orModel(b.Name)(chat.New(source, file+": tokenizer.chat_template", map[string]string{"bos_token": b.Tokenizer.Token(b.Tokenizer.Start())}))
}

// orModel says of which model a template is wrong.
func orModel(name string) func(t *chat.Template, err error) (*chat.Template, error) {
	return func(t *chat.Template, err error) (*chat.Template, error) {
		if err != nil {
			return nil, fmt.Errorf("model %s: %w", name, err)
		}
		return t, nil
	}
}

// tokenized is a set's examples.
type tokenized struct {
	examples []batch.Encoded
	places   []data.Place
}

// tokenize reads a dataset, and adds to l's sources what became of it.
func (o dataOptions) tokenize(e *batch.Encoder, b *base.Base, name, ofDemo string, l *loaded) (t tokenized, err error) {
	set, err := o.read(name, ofDemo)
	if err != nil {
		return t, err
	}
	s := source{name: name, format: set.Format, skipped: set.Skipped, reasons: set.Reasons}
	if set.Format == documents {
		t, err = o.blocks(e, set)
	} else {
		t, err = o.encode(e, b, set, &s)
	}
	if err != nil {
		return t, err
	}
	if s.examples = len(t.examples); s.examples == 0 {
		s.reasons = append(s.reasons, batch.ErrNothingCounts) // of a text of one token
		return t, fmt.Errorf("%s: nothing is left to learn from: %w", name, s.reasons[0])
	}
	l.sources = append(l.sources, s)
	return t, nil
}

// encode makes tokens of a set's examples, each by itself.
func (o dataOptions) encode(e *batch.Encoder, b *base.Base, set *data.Set, s *source) (t tokenized, err error) {
	if err := o.prepare(e, b, set, s); err != nil {
		return t, err
	}
	s.endless = true
	for _, x := range set.Examples {
		r, err := e.Encode(o.asConversation(x))
		switch {
		case err != nil && o.SkipBad:
			if s.skipped++; len(s.reasons) < mostShown {
				s.reasons = append(s.reasons, fmt.Errorf("%v: %w", x.Where, err))
			}
			continue
		case errors.Is(err, batch.ErrNothingCounts):
			return t, fmt.Errorf("%v: %w; or leave such rows out with --skip-bad-rows", x.Where, err)
		case err != nil:
			return t, fmt.Errorf("%v: %w", x.Where, err)
		}
		if r.Cut > 0 {
			s.cut++
			s.lost += r.Cut
		}
		s.endless = s.endless && !r.Ends
		t.add(r, x.Where)
	}
	return t, nil
}

func (t *tokenized) add(x batch.Encoded, where data.Place) {
	t.examples, t.places = append(t.examples, x), append(t.places, where)
}

// documents is the format of a text that is one example. It is cut into as many sequences as it takes.
const documents = "document"

func (o dataOptions) read(name, ofDemo string) (*data.Set, error) {
	if name == demo.Name {
		text, err := data.ReadText(demo.Data(), ofDemo)
		return &data.Set{Format: documents, Examples: []data.Example{{Text: text, Where: data.Place{File: ofDemo, Unit: "line", Number: 1}}}}, err
	}
	columns, err := data.ParseColumns(o.Columns)
	if err != nil {
		return nil, err
	}
	return data.Read(name, data.Options{Format: o.Format, Columns: columns, SkipBad: o.SkipBad})
}

// prepare loads the template when the first example needs it.
func (o dataOptions) prepare(e *batch.Encoder, b *base.Base, set *data.Set, s *source) (err error) {
	conversations := slices.ContainsFunc(set.Examples, func(x data.Example) bool { return o.asConversation(x).Messages != nil })
	switch {
	case !conversations:
		s.passedOver = o.Template
	case o.SourceMax > 0 || o.TargetMax > 0:
		return config.Usagef("%s: source_max_len and target_max_len are of a prompt and its response, but these are conversations, "+
			"which are cut as a whole: give --max-seq-length instead", s.name)
	case e.Template == nil:
		e.Template, err = templateOf(o.Template, b, e.EOS)
	}
	return err
}

// asConversation makes one of a prompt and its response, if there is a template for it. The prompt is then without Alpaca's words around it.
func (o dataOptions) asConversation(x data.Example) data.Example {
	if o.Template == "" || x.Response == "" || x.Prompt == "" {
		return x
	}
	said := x.Prompt
	if x.Instruction != "" {
		said = x.Instruction
		if x.Input != "" {
			said += "\n\n" + x.Input
		}
	}
	return data.Example{Messages: []chat.Message{{Role: "user", Content: said}, {Role: "assistant", Content: x.Response}}, Where: x.Where}
}

// blocks cuts texts into sequences of up to e.Max tokens, each of which begins as a text does.
func (o dataOptions) blocks(e *batch.Encoder, set *data.Set) (t tokenized, err error) {
	if o.SourceMax > 0 || o.TargetMax > 0 {
		return t, config.Usagef("%s: source_max_len and target_max_len are of a prompt and its response, but this is a text, "+
			"which is cut into blocks: give --max-seq-length instead", set.Examples[0].Where.File)
	}
	for _, x := range set.Examples {
		for i, s := range data.Sequences(e.Tokenizer.Encode(x.Text), e.Tokenizer.Start(), e.Max) {
			r := batch.Encoded{IDs: append(slices.Clone(s.IDs[:1]), s.Labels...)}
			r.Counts = slices.Repeat([]bool{true}, len(r.IDs))
			r.Counts[0] = false
			t.add(r, data.Place{File: x.Where.File, Unit: "block", Number: i + 1})
		}
	}
	return t, nil
}

// holdOut fills l.heldOut: with other files, or with what it takes out of the sets.
func (o dataOptions) holdOut(e *batch.Encoder, b *base.Base, sets []tokenized, seed uint64, l *loaded) error {
	names := o.HeldOut
	if len(names) == 0 && o.HeldOutSize == 0 && slices.Equal(o.Data, []string{demo.Name}) {
		names = []string{demo.Name}
	}
	for _, name := range names {
		t, err := o.tokenize(e, b, name, demo.HeldOut, l)
		if err != nil {
			return err
		}
		l.heldOut = append(l.heldOut, t.examples...)
	}
	if o.HeldOutSize == 0 {
		return nil
	}
	rows := map[data.Place]int{} // numbered: what one row became is held out or trained on together
	for _, s := range sets {
		for _, p := range s.places {
			if _, known := rows[p]; !known {
				rows[p] = len(rows)
			}
		}
	}
	_, held, err := data.Split(len(rows), o.HeldOutSize, seed)
	if err != nil {
		return err
	}
	for i, s := range sets {
		sets[i] = tokenized{}
		for j, x := range s.examples {
			if _, out := slices.BinarySearch(held, rows[s.places[j]]); out {
				l.heldOut = append(l.heldOut, x)
			} else {
				sets[i].add(x, s.places[j])
			}
		}
	}
	return nil
}

// mix fills l.examples: the sets one after the other, or as the weights say.
func (o dataOptions) mix(sets []tokenized, seed uint64, l *loaded) error {
	weights, err := o.weights()
	if err != nil {
		return err
	}
	if weights == nil {
		for _, s := range sets {
			l.examples, l.places = append(l.examples, s.examples...), append(l.places, s.places...)
		}
		return nil
	}
	counts := make([]int, len(sets))
	for i, s := range sets {
		counts[i] = len(s.examples)
	}
	picks, err := data.Mix(counts, weights, seed)
	for _, p := range picks {
		l.examples, l.places = append(l.examples, sets[p.Set].examples[p.Index]), append(l.places, sets[p.Set].places[p.Index])
	}
	return err
}

// report says, line by line, what became of the datasets.
func (l *loaded) report(w io.Writer) {
	for _, s := range l.sources {
		fmt.Fprintf(w, "%s: format %s, %d examples\n", s.name, s.format, s.examples)
		if s.skipped > 0 {
			fmt.Fprintf(w, "%s: %d rows left out, such as\n", s.name, s.skipped)
			for _, reason := range s.reasons {
				fmt.Fprintf(w, "  %v\n", reason)
			}
		}
		if s.cut > 0 {
			fmt.Fprintf(w, "%s: %d of %d examples were too long and have lost %d tokens; raise max_seq_length, source_max_len or target_max_len\n",
				s.name, s.cut, s.examples, s.lost)
		}
		if s.endless {
			fmt.Fprintf(w, "%s: nothing that counts ends in a token that ends a turn or the sequence: the model will not learn to stop; mend its chat template, "+
				"or name another with --chat-template\n", s.name)
		}
		if s.passedOver != "" {
			fmt.Fprintf(w, "%s: chat_template %s is for none of its examples: they are texts, or have no prompts\n", s.name, s.passedOver)
		}
	}
	if l.repeated > 0 {
		fmt.Fprintf(w, "%d of %d held-out examples are trained on, too: their loss does not say how well the model does on what it has not seen\n",
			l.repeated, len(l.heldOut))
	}
}
