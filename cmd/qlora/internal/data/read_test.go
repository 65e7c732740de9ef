package data

import (
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qlora/cmd/qlora/internal/chat"
	"qlora/cmd/qlora/internal/config"
)

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func pack(t *testing.T, content string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write([]byte(content))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// read reads and takes the places out.
func read(t *testing.T, path string, o Options) (examples []Example, places []string) {
	t.Helper()
	s, err := Read(path, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range s.Examples {
		places = append(places, strings.TrimPrefix(x.Where.String(), filepath.Dir(path)+string(filepath.Separator)))
		x.Where = Place{}
		examples = append(examples, x)
	}
	return examples, places
}

// The same rows come out of every kind of file, and know where they stood.
func TestFiles(t *testing.T) {
	want := []Example{
		{Prompt: "two\nlines, \"quoted\"", Response: "naïve 😀"},
		{Prompt: "", Response: "12.50"},
		{Prompt: "a\tb", Response: " c"},
	}
	const (
		first  = `{"input": "two\nlines, \"quoted\"", "output": "na\u00efve 😀", "id": 1}`
		second = `{"output": 12.50, "input": ""}`
		third  = `{"input": "a\tb", "output": " c", "id": null}`
	)
	for name, c := range map[string]struct{ content, places string }{
		"rows.jsonl":        {first + "\n" + second + "\n" + third + "\n", "1 2 3"},
		"windows.jsonl":     {"\ufeff" + first + "\r\n\r\n" + second + "\r\n" + third, "1 3 4"},
		"rows.ndjson":       {first + "\n" + second + "\n" + third + "\n", "1 2 3"},
		"list.json":         {"[\n" + first + ",\n" + second + " ,\n\n" + third + "\n]\n", "2 3 5"},
		"short.json":        {"\ufeff[" + first + "," + second + "," + third + "]", "1 1 1"},
		"object.json":       {"{\"version\": \"1.0\",\n \"data\": [\n" + first + ",\n" + second + ",\n" + third + "]}", "3 4 5"},
		"concatenated.json": {first + second + "\n\n" + third, "1 1 3"},
		"lines.json":        {first + "\n" + second + "\n" + third + "\n", "1 2 3"},
		"rows.csv": {"id,output,input\r\n1,naïve 😀,\"two\nlines, \"\"quoted\"\"\"\r\n,12.50,\r\n\r\n2, c,a\tb\r\n",
			"2 4 6"},
		"rows.tsv": {"input\toutput\n\"two\nlines, \"\"quoted\"\"\"\tnaïve 😀\n\t12.50\n\"a\tb\"\t c\n", "2 4 5"},
	} {
		for _, packed := range []bool{false, true} {
			file, content := name, c.content
			if packed {
				file, content = name+".gz", pack(t, c.content)
			}
			got, places := read(t, write(t, file, content), Options{})
			var wantPlaces []string
			for _, line := range strings.Fields(c.places) {
				wantPlaces = append(wantPlaces, file+": line "+line)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: %s", file, diff)
			}
			if diff := cmp.Diff(wantPlaces, places); diff != "" {
				t.Errorf("%s: %s", file, diff)
			}
		}
	}
	// By its first bytes, too.
	if got, _ := read(t, write(t, "rows.jsonl", pack(t, first)), Options{}); !cmp.Equal(got, want[:1]) {
		t.Error(got)
	}
}

func TestDocument(t *testing.T) {
	const text = "First Citizen:\r\nBefore we proceed …\n\nAll:\nSpeak.\n"
	path := write(t, "play.txt", "\ufeff"+text)
	s, err := Read(path, Options{})
	if err != nil || s.Format != "document" {
		t.Fatal(s, err)
	}
	if want := []Example{{Text: text, Where: Place{path, "line", 1}}}; !cmp.Equal(s.Examples, want) {
		t.Error(cmp.Diff(want, s.Examples))
	}
}

// testdata/messages.parquet is ours: see testdata/parquet.py.
func TestParquet(t *testing.T) {
	want := []Example{
		{Messages: []chat.Message{{Role: "system", Content: "Be brief."}, {Role: "user", Content: "Name a colour."}, {Role: "assistant", Content: "Blue, naïvely."}}},
		{Messages: []chat.Message{{Role: "user", Content: ""}, {Role: "assistant", Content: "?"}, {Role: "user", Content: "Go on."}}},
		{Messages: []chat.Message{{Role: "user", Content: "Name a colour."}, {Role: "assistant", Content: "Red."}}},
	}
	path := filepath.Join("testdata", "messages.parquet")
	got, places := read(t, path, Options{})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"messages.parquet: row 1", "messages.parquet: row 2", "messages.parquet: row 3"}, places); diff != "" {
		t.Error(diff)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := read(t, write(t, "messages.parquet.gz", pack(t, string(b))), Options{}); !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
	// The other columns: text in a dictionary, with nulls, and numbers of several types.
	got, _ = read(t, path, Options{Columns: map[string]string{"prompt": "category", "response": "count"}})
	if want := []Example{{Prompt: "chat", Response: "9007199254740993"}, {Prompt: "chat", Response: "-1"}, {Prompt: "other", Response: "0"}}; !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
	got, _ = read(t, path, Options{Columns: map[string]string{"prompt": "score", "response": "good"}})
	if want := []Example{{Prompt: "0.5", Response: "true"}, {Prompt: "0.1", Response: "false"}, {Prompt: "-3", Response: "true"}}; !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
	if _, err := Read(path, Options{Columns: map[string]string{"text": "note"}}); err == nil || !strings.Contains(err.Error(), "row 2: note: is missing") {
		t.Error(err)
	}
}

// Damage is an error or goes unnoticed, but it does not end the program.
func TestDamagedParquet(t *testing.T) {
	whole, err := os.ReadFile(filepath.Join("testdata", "messages.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	read := func(b []byte) (rows int, err error) {
		err = readParquet(bytes.NewReader(b), int64(len(b)), func(int, map[string]any, error) bool { rows++; return true })
		return rows, err
	}
	if rows, err := read(whole); rows != 3 || err != nil {
		t.Fatal(rows, err)
	}
	wrong := 0
	for at := 0; at < len(whole); at += 5 {
		b := bytes.Clone(whole)
		b[at] ^= 0xff
		if _, err := read(b); err != nil {
			wrong++
		}
		if _, err := read(whole[:at]); err == nil {
			t.Fatalf("read without error from %d of %d bytes", at, len(whole))
		}
	}
	footer := bytes.Clone(whole)
	footer[len(footer)-5] ^= 0x80
	if _, err := read(footer); err == nil || !strings.Contains(err.Error(), "damaged Parquet file: a footer of") {
		t.Error(err)
	}
	if wrong == 0 {
		t.Error("no damage was noticed")
	}
}

func TestBad(t *testing.T) {
	for name, c := range map[string]struct {
		file, content string
		want          []string
	}{
		"malformed line":       {"a.jsonl", "{\"text\": \"a\"}\n{\"text\": oops}\n", []string{"a.jsonl: line 2: malformed JSON", `{\"text\": oops}`, "--skip-bad-rows"}},
		"line cut short":       {"a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b", []string{"a.jsonl: line 2: the object is not closed", `{\"text\": \"b`}},
		"two on a line":        {"a.jsonl", "{\"text\": \"a\"} {}\n", []string{"line 1: after the object there is \"{}\""}},
		"list in lines":        {"a.jsonl", "[{\"text\": \"a\"}]\n", []string{"line 1: want an object", ".json file"}},
		"number in lines":      {"a.jsonl", "7\n", []string{"line 1: want an object {…}, found \"7\""}},
		"null in lines":        {"a.jsonl", "null\n", []string{"line 1: want an object"}},
		"Latin-1":              {"a.jsonl", "{\"text\": \"na\xefve\"}\n", []string{"line 1: byte 12 (0xef) is not UTF-8"}},
		"Latin-1 field":        {"a.csv", "text\nna\xefve\n", []string{"line 2: text: byte 2 (0xef) is not UTF-8"}},
		"Latin-1 text":         {"a.txt", "na\xefve\n", []string{"line 1: document: byte 2 (0xef) is not UTF-8"}},
		"long line, shortened": {"a.jsonl", "{\"text\": \"" + strings.Repeat("x", 1000) + "\" oops \"" + strings.Repeat("y", 1000) + "\"}", []string{"line 1: malformed JSON", "…\"xxx", "oops", "yyy\"…"}},

		"list not closed":    {"a.json", "[{\"text\": \"a\"},\n{\"text\": \"b\"}\n", []string{"a.json: line 3: the list is not closed"}},
		"object not closed":  {"a.json", "[{\"text\": \"a\"},\n{\"text\": \"b]}\n", []string{"a.json: line 2: the object is not closed"}},
		"no comma":           {"a.json", "[{\"text\": \"a\"}\n{\"text\": \"b\"}]", []string{"a.json: line 2: want , or ] after an object, found '{'"}},
		"comma at the end":   {"a.json", "[{\"text\": \"a\"},\n]", []string{"a.json: line 2: nothing after a comma"}},
		"list of numbers":    {"a.json", "[1, 2]", []string{"a.json: line 1: want an object {…}, found \"1\""}},
		"text after a list":  {"a.json", "[{\"text\": \"a\"}]\nx", []string{"a.json: line 2: after the list there is 'x'"}},
		"text for JSON":      {"a.json", "hello", []string{"a.json: line 1: want an object {…}, found 'h'"}},
		"malformed in list":  {"a.json", "[{\"text\": \"a\"},\n{\"text\": }]", []string{"a.json: line 2: malformed JSON", `{\"text\": }`}},
		"brackets cross":     {"a.json", "[{\"text\": [}]]", []string{"a.json: line 1: malformed JSON"}},
		"deep":               {"a.jsonl", "{\"text\": " + strings.Repeat("[", 100000), []string{"a.jsonl: line 1: "}},
		"empty":              {"a.json", "", []string{"a.json has no rows"}},
		"blank":              {"a.jsonl", "\n \n", []string{"a.jsonl has no rows"}},
		"empty list":         {"a.json", "[]", []string{"a.json has no rows"}},
		"header alone":       {"a.csv", "input,output\n", []string{"a.csv has no rows"}},
		"blank text":         {"a.txt", " \n", []string{"a.txt has no rows"}},
		"no gzip":            {"a.jsonl.gz", "\x1f\x8b and so on", []string{"a.jsonl.gz: gzip: invalid header"}},
		"gzip cut":           {"a.jsonl.gz", pack(t, "{\"text\": \"a\"}\n")[:20], []string{"a.jsonl.gz: ", "unexpected EOF"}},
		"fields":             {"a.csv", "input,output\na,b\nc\nd,e\n", []string{"a.csv: line 3: 1 fields, but the header has 2: \"c\""}},
		"quote in a field":   {"a.csv", "input,output\na,5\" disk\n", []string{"a.csv: line 2: column 4: bare \""}},
		"quote not closed":   {"a.csv", "input,output\na,\"b\nc,d\n", []string{"a.csv: line 2: "}},
		"columns alike":      {"a.csv", "text,text\na,b\n", []string{"two columns have the name \"text\""}},
		"no Parquet":         {"a.parquet", "PAR1 and so on", []string{"a.parquet: "}},
		"kind":               {"a.xlsx", "", []string{"a.xlsx: the name does not say what it holds: want .json"}},
		"other columns":      {"a.csv", "question,answer\na,b\n", []string{"line 2: the columns answer, question fit no format", "--columns", "alpaca: instruction, output"}},
		"ambiguous":          {"a.jsonl", `{"prompt": "a", "completion": "b", "messages": []}`, []string{"fit more than one format", "--dataset-format", "chat: messages", "prompt-completion: prompt, completion"}},
		"answers alone":      {"a.jsonl", `{"question": "a", "chosen": "b", "rejected": "c"}`, []string{"the columns chosen, question, rejected fit no format"}},
		"column gone":        {"a.jsonl", "{\"input\": \"a\", \"output\": \"b\"}\n{\"input\": \"a\", \"outptu\": \"b\"}\n", []string{"line 2: output: there is no such column, only input, outptu"}},
		"null":               {"a.jsonl", `{"input": "a", "output": null}`, []string{"line 1: output: is missing"}},
		"list for text":      {"a.jsonl", `{"input": "a", "output": ["b"]}`, []string{"line 1: output: is a list, want text"}},
		"object for text":    {"a.jsonl", `{"text": {"a": "b"}}`, []string{"line 1: text: is an object, want text"}},
		"empty response":     {"a.jsonl", `{"instruction": "a", "output": " \n"}`, []string{"line 1: output: empty response"}},
		"empty text":         {"a.jsonl", `{"text": ""}`, []string{"line 1: text: is empty"}},
		"no answer in chip2": {"a.jsonl", "{\"text\": \"<human>: a\\n<bot>: b\"}\n{\"text\": \"<human>: a\"}", []string{`line 2: text: no "\n<bot>: "`}},
		"turns in chip2":     {"a.jsonl", `{"text": "<human>: a\n<bot>: b\n<human>: c\n<bot>: d"}`, []string{`line 1: text: more than one "\n<bot>: "`}},
		"two users":          {"a.jsonl", `{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}`, []string{"line 1: turn 2: user after user"}},
		"assistant first":    {"a.jsonl", `{"conversations": [{"from": "gpt", "value": "a"}]}`, []string{"line 1: turn 1: assistant after nothing"}},
		"late system":        {"a.jsonl", `{"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}`, []string{"turn 2: system after user"}},
		"unknown role":       {"a.jsonl", `{"messages": [{"role": "bot", "content": "a"}]}`, []string{`line 1: messages[0].role: unknown role "bot"`}},
		"no assistant":       {"a.jsonl", `{"messages": [{"role": "user", "content": "a"}]}`, []string{"line 1: no turn of the assistant"}},
		"no turns":           {"a.jsonl", `{"messages": []}`, []string{"line 1: no turn of the assistant"}},
		"empty turn":         {"a.jsonl", `{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}`, []string{"line 1: turn 2: empty response"}},
		"turn without text":  {"a.jsonl", `{"conversations": [{"from": "human"}]}`, []string{"line 1: conversations[0].value: is missing"}},
		"messages as text":   {"a.jsonl", `{"messages": "hi"}`, []string{"line 1: messages: want a list"}},
		"messages as texts":  {"a.jsonl", `{"messages": ["hi"]}`, []string{"line 1: messages: item 0: want an object"}},
		"image":              {"a.jsonl", `{"messages": [{"role": "user", "content": [{"type": "image"}]}]}`, []string{`messages[0].content[0].type: "image": only text`}},
		"tool call":          {"a.jsonl", `{"messages": [{"role": "assistant", "content": null, "tool_calls": [{}]}]}`, []string{"messages[0].tool_calls: calls of tools are not supported"}},
		"prompt alone":       {"a.jsonl", `{"message_id": "1", "parent_id": null, "text": "a", "role": "prompter"}`, []string{"line 1: no turn of the assistant"}},
		"reply alone":        {"a.jsonl", `{"message_id": "1", "parent_id": "0", "text": "a", "role": "assistant"}`, []string{"line 1: parent_id leads to no first message"}},
		"a circle":           {"a.jsonl", `{"message_id": "1", "parent_id": "1", "text": "a", "role": "assistant"}`, []string{"line 1: parent_id leads to no first message"}},
		"a message twice":    {"a.jsonl", strings.Repeat(`{"message_id": "1", "parent_id": null, "text": "a", "role": "prompter"}`+"\n", 2), []string{`line 2: message_id: "1" is also that of`, "line 1"}},
		"tree of nothing":    {"a.jsonl", `{"message_tree_id": "1", "prompt": {"text": "a", "role": "prompter", "replies": []}}`, []string{"no turn of the assistant"}},
		"deleted tree":       {"a.jsonl", `{"message_tree_id": "1", "prompt": {"text": "a", "role": "prompter", "deleted": true}}`, []string{"first message is deleted"}},
		"no instances":       {"a.jsonl", `{"instruction": "a", "instances": []}`, []string{"line 1: instances: is empty"}},
		"bad instance":       {"a.jsonl", `{"instruction": "a", "instances": [{"input": "b"}]}`, []string{"line 1: instances[0].output: is missing"}},
	} {
		_, err := Read(write(t, c.file, c.content), Options{})
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
	}
}

// Names that qlora.py knows are no files here, and are not downloaded.
func TestMissing(t *testing.T) {
	for name, want := range map[string]string{
		"a.json":       "data a.json: there is no such file",
		"oasst1":       "nothing is downloaded: fetch a file of timdettmers/openassistant-guanaco",
		"owner/name":   "data owner/name: there is no such file, and nothing is downloaded",
		"alpaca-clean": "yahma/alpaca-cleaned",
	} {
		if _, err := Read(name, Options{}); err == nil || !strings.Contains(err.Error(), want) || name == "a.json" && strings.Contains(err.Error(), "Hub") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Bad rows can be left out, wherever they are, but not all rows, and not what hides where the next row begins.
func TestSkipBad(t *testing.T) {
	for name, c := range map[string]struct {
		file, content string
		texts         string
		skipped       int
	}{
		"lines":  {"a.jsonl", "oops\n{\"text\": \"a\"}\n{\"text\": \"\"}\n{\"text\": \"b\"\n{\"text\": \"c\"}\n", "a c", 3},
		"list":   {"a.json", "[{\"text\"}, {\"text\": \"a\"}, {\"text\": 7}, {\"other\": 7}]", "a 7", 2},
		"fields": {"a.csv", "text,id\na\nb,1\nc\"d,2\ne,3\n", "b e", 2},
		"values": {"a.json", "[7, {\"text\": \"a\"}, [{\"text\": \"b\"}],\n\"c\", null, -1.5e3 , true,{\"text\": \"d\"}]", "a d", 6},
		"before": {"a.jsonl", "{\"version\": 1}\n{}\n{\"text\": \"a\"}\n{\"version\": 1}\n", "a", 3},
		"none":   {"a.jsonl", strings.Repeat("{\"version\": 1}\n", 9), "", -1},
		"more":   {"a.jsonl", "{\"text\": \"a\"}\n" + strings.Repeat("{}\n", 20), "a", 20},
	} {
		s, err := Read(write(t, c.file, c.content), Options{SkipBad: true})
		if c.skipped < 0 {
			if err == nil || !strings.Contains(err.Error(), "none of 9 rows is an example") || !strings.Contains(err.Error(), "prompt=question,response=answer") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var texts []string
		for _, x := range s.Examples {
			texts = append(texts, x.Text)
		}
		if got := strings.Join(texts, " "); got != c.texts || s.Skipped != c.skipped || len(s.Reasons) != min(c.skipped, maxReasons) {
			t.Errorf("%s: %q, %d left out for %v", name, got, s.Skipped, s.Reasons)
		}
	}
	if _, err := Read(write(t, "a.jsonl", "oops\nno\n"), Options{SkipBad: true}); err == nil || !strings.Contains(err.Error(), "none of 2 rows is an example") {
		t.Error(err)
	}
	o := Options{SkipBad: true, Columns: map[string]string{"prompt": "question", "response": "answer"}}
	if s, err := Read(write(t, "a.jsonl", "{\"version\": 1}\n{\"question\": \"a\", \"answer\": \"b\"}\n"), o); err != nil || len(s.Examples) != 1 || s.Skipped != 1 {
		t.Error(s, err)
	}
	if _, err := Read(write(t, "a.jsonl", "{\"version\": 1}\n"), o); !isUsage(err) || !strings.Contains(err.Error(), "the file has no column question") {
		t.Error(err)
	}
	if _, err := Read(write(t, "a.json", "[{\"text\": \"a\"}, {\"text\": \"b"), Options{SkipBad: true}); err == nil {
		t.Error("half a list is read")
	}
}

// Messages one a row are the trees that they were taken out of, in whatever order they stand, and with columns of other names.
func TestFlatMessages(t *testing.T) {
	trees, _ := read(t, filepath.Join("testdata", "oasst_messages.jsonl"), Options{})
	if flat, places := read(t, filepath.Join("testdata", "oasst_flat.jsonl"), Options{}); !cmp.Equal(flat, trees) || !cmp.Equal(places, []string{"oasst_flat.jsonl: line 1"}) {
		t.Error(places, cmp.Diff(trees, flat))
	}
	rows := []string{
		`{"id": "b1", "parent_id": "q", "text": "better", "role": "assistant", "rank": 0, "deleted": false}`,
		`{"id": "q", "parent_id": "a1", "text": "question", "role": "prompter", "rank": null}`,
		`{"id": "z", "parent_id": null, "text": "other", "role": "prompter"}`,
		`{"id": "a2", "parent_id": "p", "text": "deleted", "role": "assistant", "rank": 0, "deleted": true}`,
		`{"id": "a3", "parent_id": "p", "text": "rejected", "role": "assistant", "rank": 1, "review_result": false}`,
		`{"id": "b0", "parent_id": "q", "text": "worse", "role": "assistant", "rank": 1.0}`,
		`{"id": "a0", "parent_id": "p", "text": "unranked", "role": "assistant", "rank": null}`,
		`{"id": "p", "parent_id": null, "text": "prompt", "role": "prompter"}`,
		`{"id": "a1", "parent_id": "p", "text": "answer", "role": "assistant", "rank": 2}`,
		`{"id": "y", "parent_id": "z", "text": "yes", "role": "assistant"}`,
	}
	o := Options{Columns: map[string]string{"message_id": "id"}}
	got, places := read(t, write(t, "a.jsonl", strings.Join(rows, "\n")), o)
	want := []Example{{Messages: []chat.Message{user1("other"), bot("yes")}}, {Messages: []chat.Message{user1("prompt"), bot("answer"), user1("question"), bot("better")}}}
	if !cmp.Equal(got, want) || !cmp.Equal(places, []string{"a.jsonl: line 3", "a.jsonl: line 8"}) {
		t.Error(places, cmp.Diff(want, got))
	}
	// Without the answer, what comes after it is in no tree.
	o.SkipBad = true
	rows[8] = "oops"
	s, err := Read(write(t, "a.jsonl", strings.Join(rows, "\n")), o)
	if err != nil || len(s.Examples) != 2 || s.Skipped != 4 || s.Examples[1].Messages[1].Content != "unranked" || !errors.Is(s.Reasons[1], errNoTree) {
		t.Error(s, err)
	}
}

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	put := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("b.jsonl", `{"text": "b"}`)
	put("a.ndjson", "{\"text\": \"a1\"}\n{\"text\": \"a2\"}\n")
	put("README.md", "not data")
	put(".hidden.jsonl", "not data")
	if err := os.Mkdir(filepath.Join(dir, "c.jsonl"), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := Read(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []Example{
		{Text: "a1", Where: Place{filepath.Join(dir, "a.ndjson"), "line", 1}},
		{Text: "a2", Where: Place{filepath.Join(dir, "a.ndjson"), "line", 2}},
		{Text: "b", Where: Place{filepath.Join(dir, "b.jsonl"), "line", 1}},
	}
	if !cmp.Equal(s.Examples, want) {
		t.Error(cmp.Diff(want, s.Examples))
	}
	put("train-00000-of-00001.jsonl", `{"text": "c"}`)
	put("train.extra.jsonl", `{"text": "d"}`)
	if _, err := Read(dir, Options{}); err != nil {
		t.Error(err)
	}
	put("Test.jsonl", `{"text": "e"}`)
	if _, err := Read(dir, Options{}); err == nil || !strings.Contains(err.Error(), "different splits") {
		t.Error(err)
	}
	put("dataset_info.json", `{"splits": []}`)
	if _, err := Read(dir, Options{}); err == nil || !strings.Contains(err.Error(), "Test.jsonl and dataset_info.json are of different kinds") {
		t.Error(err)
	}
	if _, err := Read(t.TempDir(), Options{}); err == nil || !strings.Contains(err.Error(), "no data in this folder") {
		t.Error(err)
	}
}

func TestColumns(t *testing.T) {
	columns, err := ParseColumns([]string{"prompt=question", " response = answer "})
	if want := map[string]string{"prompt": "question", "response": "answer"}; err != nil || !cmp.Equal(columns, want) {
		t.Error(columns, err)
	}
	for _, c := range []struct {
		items []string
		want  string
	}{
		{[]string{"question"}, "want the format's name"},
		{[]string{"=question"}, "want the format's name"},
		{[]string{"prompt="}, "want the format's name"},
		{[]string{"prompt=a", "prompt=b"}, "prompt is there twice"},
	} {
		if _, err := ParseColumns(c.items); !isUsage(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.items, err)
		}
	}
	path := write(t, "a.csv", "instruction,context,response,text,swap\nadd,1 2,3,t,s\n")
	for name, c := range map[string]struct {
		o    Options
		want Example
	}{
		"two of three": {Options{Columns: map[string]string{"input": "context", "output": "response"}}, task("add", "1 2", "3")},
		"a pair":       {Options{Columns: map[string]string{"prompt": "context", "response": "swap"}}, Example{Prompt: "1 2", Response: "s"}},
		"over another": {Options{Columns: map[string]string{"text": "swap"}}, Example{Text: "s"}},
		"swapped":      {Options{Columns: map[string]string{"input": "response", "output": "context"}, Format: "longform"}, Example{Prompt: "3", Response: "1 2"}},
	} {
		if got, _ := read(t, path, c.o); !cmp.Equal(got, []Example{c.want}) {
			t.Errorf("%s: %v", name, got)
		}
	}
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"no such name":             {Options{Columns: map[string]string{"promt": "context"}}, "columns: promt: no such name"},
		"not the format's":         {Options{Columns: map[string]string{"prompt": "context"}, Format: "alpaca"}, "alpaca: instruction, output; optionally input"},
		"not the file's":           {Options{Columns: map[string]string{"prompt": "contxt", "response": "swap"}}, "a.csv: line 2: columns: prompt=contxt: the file has no column contxt, only context, instruction, response, swap, text"},
		"no such format":           {Options{Format: "alpacca"}, `format "alpacca": want one of alpaca,`},
		"a format that is another": {Options{Format: "chat"}, "format chat does not fit the columns context, instruction, response, swap, text"},
	} {
		_, err := Read(path, c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if usage := name != "a format that is another"; isUsage(err) != usage {
			t.Errorf("%s: %T", name, err)
		}
	}
}

func isUsage(err error) bool {
	var usage *config.UsageError
	return errors.As(err, &usage)
}
