// Convert turns a legacy llama2.c checkpoint and its tokenizer into a Hugging Face folder:
//
//	go run ./cmd/qlora/internal/demo/convert -model stories260K.bin -tokenizer tok512.bin -output cmd/qlora/internal/demo/stories260k
//
// The checkpoint has a header of seven int32 and then the tensors in float32. Its rotary embeddings turn neighbouring
// elements of a head, Hugging Face's the two halves; so the rows of q and k are reordered.
package main

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"log"
	"math"
	"os"
	"path/filepath"
	"strings"

	"qlora/ref/checkpoint"
	"qlora/ref/quant"
)

type header struct{ Dim, Hidden, Layers, Heads, KVHeads, Vocab, Context int32 }

func main() {
	log.SetFlags(0)
	model := flag.String("model", "", "llama2.c checkpoint")
	tokenizer := flag.String("tokenizer", "", "llama2.c tokenizer")
	output := flag.String("output", "", "folder to write")
	flag.Parse()
	if err := convert(*model, *tokenizer, *output); err != nil {
		log.Fatal(err)
	}
}

func convert(model, tokenizer, output string) error {
	b, err := os.ReadFile(model)
	if err != nil {
		return err
	}
	r := bytes.NewReader(b)
	var h header
	if err := binary.Read(r, binary.LittleEndian, &h); err != nil {
		return err
	}
	tensors, err := readTensors(r, h)
	if err != nil {
		return fmt.Errorf("%s: %w", model, err)
	}
	if err := checkpoint.Write(filepath.Join(output, "model.safetensors"), tensors, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(output, "config.json"), []byte(config(h)), 0o644); err != nil {
		return err
	}
	pieces, err := os.ReadFile(tokenizer)
	if err != nil {
		return err
	}
	proto, err := sentencePiece(bytes.NewReader(pieces), int(h.Vocab))
	if err != nil {
		return fmt.Errorf("%s: %w", tokenizer, err)
	}
	return os.WriteFile(filepath.Join(output, "tokenizer.model"), proto, 0o644)
}

// readTensors follows the file: each kind of tensor for all layers, then the next kind.
func readTensors(r io.Reader, h header) ([]checkpoint.Tensor, error) {
	d, hidden, headDim := int(h.Dim), int(h.Hidden), int(h.Dim/h.Heads)
	kv := int(h.KVHeads) * headDim
	var tensors []checkpoint.Tensor
	var err error
	add := func(name string, rows, cols, rotaryHeads int) {
		x := make([]float32, max(rows, 1)*cols)
		if e := binary.Read(r, binary.LittleEndian, x); e != nil && err == nil {
			err = fmt.Errorf("%s: %w", name, e)
		}
		if rotaryHeads > 0 {
			x = halves(x, rotaryHeads, headDim, cols)
		}
		shape := []int{rows, cols}
		if rows == 0 {
			shape = shape[1:]
		}
		tensors = append(tensors, quant.Float32Entry(name, x, shape...))
	}
	layers := func(name string, rows, cols, rotaryHeads int) {
		for l := range h.Layers {
			add(fmt.Sprintf("model.layers.%d.%s.weight", l, name), rows, cols, rotaryHeads)
		}
	}
	add("model.embed_tokens.weight", int(h.Vocab), d, 0)
	layers("input_layernorm", 0, d, 0)
	layers("self_attn.q_proj", d, d, int(h.Heads))
	layers("self_attn.k_proj", kv, d, int(h.KVHeads))
	layers("self_attn.v_proj", kv, d, 0)
	layers("self_attn.o_proj", d, d, 0)
	layers("post_attention_layernorm", 0, d, 0)
	layers("mlp.gate_proj", hidden, d, 0)
	layers("mlp.down_proj", d, hidden, 0)
	layers("mlp.up_proj", hidden, d, 0)
	add("model.norm.weight", 0, d, 0)
	return tensors, err
}

// halves moves rows 0, 2, 4, … of each head before rows 1, 3, 5, ….
func halves(x []float32, heads, headDim, cols int) []float32 {
	y := make([]float32, 0, len(x))
	for h := range heads {
		for _, first := range []int{0, 1} {
			for i := first; i < headDim; i += 2 {
				row := h*headDim + i
				y = append(y, x[row*cols:(row+1)*cols]...)
			}
		}
	}
	return y
}

func config(h header) string {
	return fmt.Sprintf(`{
  "architectures": ["LlamaForCausalLM"],
  "attention_bias": false,
  "bos_token_id": 1,
  "eos_token_id": 2,
  "hidden_act": "silu",
  "hidden_size": %d,
  "intermediate_size": %d,
  "max_position_embeddings": %d,
  "model_type": "llama",
  "num_attention_heads": %d,
  "num_hidden_layers": %d,
  "num_key_value_heads": %d,
  "rms_norm_eps": 1e-05,
  "rope_theta": 10000.0,
  "tie_word_embeddings": true,
  "torch_dtype": "float32",
  "vocab_size": %d
}
`, h.Dim, h.Hidden, h.Context, h.Heads, h.Layers, h.KVHeads, h.Vocab)
}

// sentencePiece writes the ModelProto that tok512.bin was once made from: pieces, and the settings of LLaMA's tokenizer.
func sentencePiece(r io.Reader, vocab int) ([]byte, error) {
	var longest int32
	if err := binary.Read(r, binary.LittleEndian, &longest); err != nil {
		return nil, err
	}
	var proto []byte
	for id := range vocab {
		var p struct {
			Score  float32
			Length int32
		}
		if err := binary.Read(r, binary.LittleEndian, &p); err != nil {
			return nil, fmt.Errorf("piece %d: %w", id, err)
		}
		text := make([]byte, p.Length)
		if _, err := io.ReadFull(r, text); err != nil {
			return nil, fmt.Errorf("piece %d: %w", id, err)
		}
		proto = appendBytes(proto, 1, piece(id, string(text), p.Score))
	}
	trainer := appendNumber(nil, 3, 2) // model_type BPE
	trainer = appendNumber(trainer, 4, uint64(vocab))
	trainer = appendNumber(trainer, 35, 1) // byte_fallback
	trainer = appendNumber(trainer, 40, 0) // unk_id
	trainer = appendNumber(trainer, 41, 1) // bos_id
	trainer = appendNumber(trainer, 42, 2) // eos_id
	normalizer := appendBytes(nil, 1, []byte("identity"))
	normalizer = appendNumber(normalizer, 3, 1) // add_dummy_prefix
	normalizer = appendNumber(normalizer, 4, 0) // remove_extra_whitespaces
	normalizer = appendNumber(normalizer, 5, 1) // escape_whitespaces
	proto = appendBytes(proto, 2, trainer)
	return appendBytes(proto, 3, normalizer), nil
}

// piece gives the first three and the byte pieces back the names that llama2.c replaced.
func piece(id int, text string, score float32) []byte {
	kind := uint64(1) // normal
	switch {
	case id == 0:
		text, kind = "<unk>", 2
	case id == 1:
		text, kind = "<s>", 3
	case id == 2:
		text, kind = "</s>", 3
	case id < 3+256:
		text, kind = fmt.Sprintf("<0x%02X>", id-3), 6
	default:
		text = strings.ReplaceAll(text, " ", "▁")
	}
	b := appendBytes(nil, 1, []byte(text))
	b = binary.AppendUvarint(b, 2<<3|5)
	b = binary.LittleEndian.AppendUint32(b, math.Float32bits(score))
	return appendNumber(b, 3, kind)
}

func appendNumber(b []byte, field int, v uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(field)<<3), v)
}

func appendBytes(b []byte, field int, v []byte) []byte {
	b = binary.AppendUvarint(b, uint64(field)<<3|2)
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}
