"""Small tokenizers of every kind, and what the original libraries make of some hundreds of hard lines with each.

    python tokenizer.py OUTPUT.zip

The tokenizers are trained on the demo's text and the phrases of tokenizer_lines.py, whose format the lines have, too. The zip has
a folder for each: the tokenizer's files, and lines.jsonl.
"""
import io
import json
import os
import random
import sys
import tempfile
import unicodedata
import zipfile

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import tokenizer_lines
from tokenizer_lines import PHRASES, SHAKESPEARE

TEXT = open(SHAKESPEARE).read()
CORPUS = TEXT[:60000].splitlines() + PHRASES * 4
DEMO = os.path.join(os.path.dirname(SHAKESPEARE), "stories260k/tokenizer.model")

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")


def byte_level(split, added=(), normalizer=None, size=500, post=None, ignore_merges=False):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = split
    t.decoder = decoders.ByteLevel()
    if normalizer is not None:
        t.normalizer = normalizer
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    t.add_tokens(list(added))
    if post is not None:
        t.post_processor = post
    j = json.loads(t.to_str())
    if ignore_merges:
        j["model"]["ignore_merges"] = True
        for word in ["Hello", "\u0120\u0120\u0120\u0120\u0120", "Zebra", "\u0120don't"]:  # that no merges make
            j["model"]["vocab"].setdefault(word, len(j["model"]["vocab"]))
        first = len(j["model"]["vocab"])
        for i, a in enumerate(j["added_tokens"]):
            a["id"] = first + i
        j["post_processor"] = json.loads(json.dumps(j["post_processor"]).replace('"ids": [500]', f'"ids": [{first}]'))
    return j


def special(*texts):
    return [AddedToken(t, special=True, normalized=False) for t in texts]


def whole_space():
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def llama3():
    tokens = special("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", *(f"<|reserved_special_token_{i}|>" for i in range(12)))
    split = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    post = processors.Sequence([processors.ByteLevel(trim_offsets=False),
                                processors.TemplateProcessing("<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 500)])])
    return byte_level(split, tokens, post=post, ignore_merges=True)


def other_pattern():
    """A pattern that is like LLaMA 3's, but none that is known by hand."""
    pattern = Regex(LLAMA3.replace("{1,3}", "{1,2}").replace("\\p{N}]?", "\\p{N}\\p{M}]?"))
    return byte_level(pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), special("<|end|>"))


def qwen2():
    split = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return byte_level(split, special("<|endoftext|>", "<|im_start|>", "<|im_end|>"), normalizers.NFC())


def gpt_neox():
    spaces = [AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)]
    return byte_level(whole_space(), special("<|endoftext|>", "<|padding|>") + spaces, normalizers.NFC(), post=processors.ByteLevel(trim_offsets=True))


def smollm2():
    split = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), whole_space()])
    return byte_level(split, special("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<jupyter_text>"))


def added():
    """Added tokens of every kind, which touch, contain and begin one another."""
    tokens = [AddedToken("<l>", lstrip=True, normalized=False), AddedToken("<r>", rstrip=True, normalized=False),
              AddedToken("<b>", lstrip=True, rstrip=True, normalized=False, special=True), AddedToken("<w>", single_word=True, normalized=False), AddedToken("word", single_word=True),
              AddedToken("<N>", normalized=True), AddedToken("\u00e9t\u00e9", normalized=True), AddedToken("  ", normalized=False), AddedToken("\n\n", normalized=True, rstrip=True),
              AddedToken("<lr", normalized=False), AddedToken("<lr>x", normalized=False, special=True), AddedToken("\u2581x", normalized=True), AddedToken("a<", normalized=False)]
    return byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True), tokens, normalizers.Sequence([normalizers.NFD(), normalizers.Replace(Regex("[0-9]{3,}"), "#")]))


def forms(form):
    return byte_level(whole_space(), special("<|endoftext|>"), normalizers.Sequence([form, normalizers.Strip()]), size=320)


def split(behavior, invert):
    """Words of a few characters, so that the ids show where a text was cut."""
    t = Tokenizer(models.BPE(unk_token="?", fuse_unk=invert))
    r = random.Random(7)
    t.train_from_iterator(["".join(r.choice("ab- ") for _ in range(300)) for _ in range(50)], trainers.BpeTrainer(vocab_size=300, special_tokens=["?"], show_progress=False))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("-" if invert else Regex(r"-|\p{N}+|\s\d"), behavior, invert)])
    return json.loads(t.to_str())


def short(r, tokens):
    return ["".join(r.choice(["a", "b", "-", "--", " ", "ab", "1", "é", "?"]) for _ in range(r.randint(0, 20))).encode() for _ in range(120)]


def rules(folder):
    """A small set of rules of normalization: compositions, several characters for one, none, and a space."""
    pairs = [(a + m, unicodedata.normalize("NFC", a + m)) for a in "aeoAEOuU" for m in "\u0300\u0301\u0308\u030c"]
    pairs += [(c, unicodedata.normalize("NFKC", c)) for c in "ﬁﬂªº²½①Ⅷ㍿℃ＡＢＣ１２！ﾊ\u00a0\u3000ÅΩ\uf900豈"] + [("\u200b", ""), ("\ufeff", ""), ("\t", " "), ("\n", " "), ("ß", "ss"), ("👍🏽", ":+1:"), ("a" * 4, "4a")]
    with open(f"{folder}/rules.tsv", "w") as f:
        for a, b in sorted({(a, b) for a, b in pairs if a != b}):
            f.write(" ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b) + "\n")
    return f"{folder}/rules.tsv"


def trained(name, own_rules=False, **options):
    """A SentencePiece model."""
    f = io.BytesIO()
    if own_rules:
        with tempfile.TemporaryDirectory() as d:
            return trained(name, normalization_rule_tsv=rules(d), **options)
    settings = dict(vocab_size=500, num_threads=1, minloglevel=2, character_coverage=0.98, hard_vocab_limit=False)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS), model_writer=f, **(settings | options))
    return {name: f.getvalue()}


LLAMA2 = dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
              allow_whitespace_only_pieces=True, vocab_size=700)


def llama2(normalizer, pre_tokenizer):
    """A tokenizer.json of a SentencePiece model, with merges as transformers made them for LLaMA 2."""
    p = sentencepiece.SentencePieceProcessor(model_proto=trained("m", **LLAMA2)["m"])
    vocab = {p.id_to_piece(i): i for i in range(len(p))}
    merges = []
    for piece, i in vocab.items():
        cuts = [(piece[:k], piece[k:], p.get_score(i)) for k in range(1, len(piece)) if piece[:k] in vocab and piece[k:] in vocab]
        merges += sorted(cuts, key=lambda c: (vocab[c[0]], vocab[c[1]]))
    merges.sort(key=lambda m: m[2], reverse=True)
    t = Tokenizer(models.BPE(vocab, [m[:2] for m in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if normalizer is not None:
        t.normalizer = normalizer
    if pre_tokenizer is not None:
        t.pre_tokenizer = pre_tokenizer
    t.add_special_tokens(special("<unk>", "<s>", "</s>"))
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return json.loads(t.to_str())


def unigram(byte_fallback, **options):
    """T5's kind of tokenizer.json, with SentencePiece's pieces and rules."""
    proto = trained("m", model_type="unigram", byte_fallback=byte_fallback, **options)["m"]
    p = sentencepiece.SentencePieceProcessor(model_proto=proto)
    t = Tokenizer(models.Unigram([(p.id_to_piece(i), p.get_score(i)) for i in range(len(p))], p.unk_id(), byte_fallback))
    from transformers.convert_slow_tokenizer import import_protobuf
    m = import_protobuf().ModelProto()
    m.ParseFromString(proto)
    t.normalizer = normalizers.Sequence([normalizers.Precompiled(m.normalizer_spec.precompiled_charsmap), normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "\u2581")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    t.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]) if byte_fallback else decoders.Metaspace()
    t.add_special_tokens(special("<unk>", "</s>", "<extra_id_0>", "<extra_id_1>"))
    t.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 2)])
    return json.loads(t.to_str())


def gpt2():
    j = byte_level(whole_space())
    vocab = j["model"]["vocab"] | {"<|endoftext|>": len(j["model"]["vocab"])}
    return {"vocab.json": json.dumps(vocab).encode(), "merges.txt": ("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in j["model"]["merges"])).encode()}


METASPACE = lambda scheme: pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
KINDS = {
    "gpt2": gpt2, "llama3": llama3, "other-pattern": other_pattern, "qwen2": qwen2, "gpt-neox": gpt_neox, "smollm2": smollm2, "added": added,
    "nfd": lambda: forms(normalizers.NFD()), "nfkc": lambda: forms(normalizers.NFKC()), "nfkd": lambda: forms(normalizers.NFKD()),
    "llama2-prepend": lambda: llama2(normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]), None),
    "llama2-always": lambda: llama2(None, METASPACE("always")), "llama2-first": lambda: llama2(None, METASPACE("first")), "llama2-never": lambda: llama2(None, METASPACE("never")),
    "t5": lambda: unigram(False), "unigram-bytes": lambda: unigram(True, own_rules=True, vocab_size=700),
    "stories260k": lambda: {"tokenizer.model": open(DEMO, "rb").read()},
    "sp-bpe": lambda: trained("tokenizer.model", user_defined_symbols=["<user>", "\u2581\u2581", "th", "<x"], control_symbols=["<ctl>"], **LLAMA2),
    "sp-bpe-rules": lambda: trained("tokenizer.model", model_type="bpe", own_rules=True),
    "sp-unigram": lambda: trained("spiece.model", model_type="unigram", user_defined_symbols=["<user>", "x y"], control_symbols=["<ctl>"]),
    "sp-unigram-bytes": lambda: trained("spiece.model", model_type="unigram", byte_fallback=True, own_rules=True, remove_extra_whitespaces=False, vocab_size=700),
    "sp-suffix": lambda: trained("spiece.model", model_type="unigram", treat_whitespace_as_suffix=True, normalization_rule_name="identity"),
    "sp-plain": lambda: trained("spiece.model", model_type="bpe", add_dummy_prefix=False, normalization_rule_name="identity"),
} | {f"split-{b}{'-inverted' * i}": lambda b=b, i=i: split(b, i) for b in ["isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"] for i in (False, True)}


def hard(r, tokens):
    """Lines of all kinds, none of them long."""
    words = sorted(set(TEXT.split()))
    made = [t.encode() for t in tokens] + [p.encode() for p in PHRASES]
    while len(made) < len(tokens) + len(PHRASES) + 170:
        b = tokenizer_lines.line(r, tokens, words, TEXT)
        if len(b) <= 120:
            made.append(b)
    return made


def main(output):
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as z:
        def put(name, data):
            z.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED, 9)
        for seed, (name, make) in enumerate(KINDS.items()):
            files = make()
            if "model" in files:
                files = {"tokenizer.json": json.dumps(files, ensure_ascii=False).encode()}
            with tempfile.TemporaryDirectory() as d:
                for file, data in files.items():
                    put(f"{name}/{file}", data)
                    with open(f"{d}/{file}", "wb") as f:
                        f.write(data)
                text = io.StringIO()
                tokenizer_lines.write(text, d if len(files) > 1 else f"{d}/{file}", seed, short if name.startswith("split") else hard, 30)
                put(f"{name}/lines.jsonl", text.getvalue())


if __name__ == "__main__":
    main(*sys.argv[1:])
