"""Hard lines and what the original tokenizers make of them, for `qlora tokenize --check`.

    python tokenizer_lines.py TOKENIZER OUTPUT.jsonl [SEED [LINES]]

TOKENIZER is a tokenizer.json (the tokenizers library), a SentencePiece .model (the sentencepiece library) or a folder with
vocab.json and merges.txt (transformers' GPT2Tokenizer). The first line of the output says what made it, and what "special" ids,
with those that belong around a text, the original gives for "a". The others are {"text": base64 of the bytes, "ids": [...],
"decoded": "..."}; the last thousand have no text, but ids as a model may write them. Ids are without the tokens around a text;
decoding passes over special tokens. SentencePiece gets the bytes as they are; the others, which take characters, get them decoded
with errors="replace".
"""
import base64
import hashlib
import importlib.metadata
import json
import os
import random
import sys
import unicodedata

SHAKESPEARE = os.path.join(os.path.dirname(__file__), "../../cmd/qlora/internal/demo/shakespeare.txt")
PHRASES = [
    "The quick brown fox jumps over the lazy dog.", "Größenwahn, Straße, ÄÖÜ äöü ß", "Œuvre, cœur, naïve, garçon, À bientôt !", "¿Dónde está? ¡Mañana!",
    "Съешь же ещё этих мягких французских булок", "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία", "ابجد هوز حطي كلمن", "שלום עולם", "नमस्ते दुनिया, क्षत्रिय", "สวัสดีชาวโลก",
    "こんにちは世界。カタカナ ﾊﾝｶｸ", "你好，世界！繁體字", "안녕하세요 세계", "Tiếng Việt có dấu", "ǅ ǈ ǋ ﬁ ﬂ ﬃ ﬆ ſ ẞ ŉ", "①②③ ½ ¾ ⅓ Ⅷ ⅷ ㍿ ㎏ ℃ ℡ ™ ® ©", "𝓗𝓮𝓵𝓵𝓸 𝕎𝕠𝕣𝕝𝕕 𝟙𝟚𝟛", "ＦＵＬＬ　ｗｉｄｔｈ！",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪🇯🇵 1️⃣ ☺️ ❤️‍🔥", "ሰላም ልዑል", "ქართული ენა", "Հայերեն", "ଓଡ଼ିଆ ਪੰਜਾਬੀ ગુજરાતી தமிழ்", "မြန်မာ ខ្មែរ ລາວ བོད", "ᚠᚢᚦᚨᚱᚲ 𐌰𐌱𐌲 𒀀𒀁 𓀀",
    "I'm you're he'll we've they'd it's don't", "I'M YOU'RE HE'LL WE'VE THEY'D IT'S DON'T", "it'ſ 'ſ ’s ‘tis 's'S'st'll'LL'lL'Ll", "'''''s ''t ' t 're're",
    "https://example.org/a/b?c=d&e=%20#f", "foo@bar.com, C:\\Windows\\System32", "def f(x):\n    return x ** 2\n\n\tif x:\n\t\tpass\n", "{\"a\": [1, 2.5e-10, null, true], \"b\": {}}",
    "# Title\n\n* item\n  1. sub\n\n```go\nfunc main() {}\n```\n", "<html><body>&nbsp;&amp;</body></html>", "1234567890 12 345 6,789.01 0x1F 1e10 ١٢٣ ४५६ 二〇 ²³¹", "a1b2c3 v1.2.3-rc4+build.5",
    "!!!!!!", "??!?!", "...", "……", "-----", "======", "$$$ €€ ££ ¥", "%%%", "(((())))", "~`@#^&*_+|\\:;\"<>,/",
]
SPACES = [" ", "\t", "\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1f", "\x85", "\xa0", "\u1680", "\u180e", "\u2000", "\u2003", "\u2009", "\u200a", "\u200b", "\u2028", "\u2029", "\u202f",
          "\u205f", "\u2060", "\u3000", "\ufeff", "▁"]
# Characters that Unicode 11 to 17 brought: the originals' tables are of different versions.
YOUNG = [c for a, b in [
    (0x560, 0x560), (0x588, 0x588), (0x7fd, 0x7ff), (0x870, 0x88e), (0x897, 0x89f), (0x8ca, 0x8d3), (0x9fe, 0x9fe), (0xc3c, 0xc3c), (0xeba, 0xeba), (0x1715, 0x1715),
    (0x1ab0, 0x1aeb), (0x1c89, 0x1c8a), (0x1dc0, 0x1dff), (0x32ff, 0x32ff), (0xa7c0, 0xa7dc), (0xa7f1, 0xa7f6), (0xab66, 0xab6b), (0x105c0, 0x105f3), (0x10780, 0x107ba), (0x10d40, 0x10d85),
    (0x10ec2, 0x10efd), (0x11380, 0x113e2), (0x116d0, 0x116e3), (0x11930, 0x11946), (0x11bc0, 0x11bf9), (0x11de0, 0x11de9), (0x11f00, 0x11f5a), (0x13460, 0x13490), (0x16100, 0x16139), (0x16d40, 0x16d79),
    (0x16ff0, 0x16ff6), (0x18cff, 0x18cff), (0x1ccf0, 0x1ccf9), (0x1e030, 0x1e08f), (0x1e2ae, 0x1e2ef), (0x1e4d0, 0x1e4f9), (0x1e5d0, 0x1e5fa), (0x1f16c, 0x1f16c), (0x1fae0, 0x1faf8), (0x1fbf0, 0x1fbf9),
    (0x2ebf0, 0x2ec00), (0x31350, 0x31360), (0x323b0, 0x323c0)] for c in range(a, b + 1)]
MARKS = ["\u0300", "\u0301", "\u0327", "\u0308", "\u0323", "\u20d7", "\ufe0f", "\u200d", "\u0483", "\u05b0", "\u064b", "\u0652", "\u093c", "\u0e31", "\u1160", "\u11a8"]


def invalid(r):
    kinds = [
        lambda: bytes(r.randrange(256) for _ in range(r.randint(1, 20))),
        lambda: r.choice(PHRASES).encode()[:-1 - r.randrange(3)],
        lambda: r.choice(PHRASES).encode()[r.randint(1, 3):],
        lambda: b"ab\xc0\xafcd\xe0\x80\x80\xf0\x80\x80\x80", lambda: b"x\xed\xa0\x80y\xed\xbf\xbf", lambda: b"\xf4\x90\x80\x80\xf8\x88\x80\x80\x80 z",
        lambda: "€".encode()[:2] + b" a " + "𝓗".encode()[:r.randint(1, 3)] + r.choice(PHRASES).encode(),
        lambda: bytes([r.randrange(0x80, 0x100)]) * r.randint(1, 5) + b"text" + bytes([r.randrange(0xc2, 0xf5)]),
    ]
    return r.choice(kinds)()


def point(r):
    while True:
        c = r.choice([r.randrange(0x80), r.randrange(0x800), r.randrange(0x3000), r.randrange(0x10000), r.randrange(0x1f000, 0x20000), r.randrange(0x110000)])
        if not 0xd800 <= c <= 0xdfff:
            return chr(c)


def mark(r):
    while True:
        c = chr(r.choice([r.randrange(0x300, 0x370), r.randrange(0x300, 0x370), r.randrange(0x20000), r.choice(YOUNG)]))
        if unicodedata.combining(c) or ord(c) in YOUNG:
            return c


def line(r, tokens, words, text):
    kinds = [
        lambda: "".join(point(r) for _ in range(r.randint(1, 30))),
        lambda: "".join(chr(r.choice([*range(32), *range(0x7f, 0xa0)])) for _ in range(r.randint(1, 8))).join([r.choice(words), r.choice(words)]),
        lambda: " ".join(r.choice(PHRASES) for _ in range(r.randint(1, 4))),
        lambda: "".join(r.choice(SPACES) * r.randint(1, r.choice([2, 5, 40])) + r.choice(["", "", r.choice(words), r.choice(PHRASES)[:5]]) for _ in range(r.randint(1, 6))),
        lambda: r.choice("aAzé1!.-_=好 \n▁ '") * r.randint(1, r.choice([8, 50, 300])),
        lambda: "".join(r.choice(["a", "e", "o", "ท", "ا", "ש", "क", "ᄀ", "ᅡ", "1", "😀", "☺", "\r\n", "Я"]) + "".join(r.choice(MARKS) for _ in range(r.randint(0, 4))) for _ in range(r.randint(1, 10))),
        lambda: "".join(r.choice("0123456789") for _ in range(r.randint(1, 30))) + r.choice(["", ".", ",5", " kg", "%", "th", "²"]),
        lambda: r.choice(["", " ", "x", "\n", r.choice(words)]) + r.choice(tokens) + r.choice(["", " ", "  ", "x", "\n", r.choice(tokens), " " + r.choice(tokens), r.choice(words)]),
        lambda: r.choice(words) + r.choice(tokens) + " " + r.choice(words) + r.choice(tokens)[:-1] + r.choice(tokens)[1:] + r.choice(words),
        lambda: text[(i := r.randrange(len(text) - 400)):i + r.randint(1, 400)],
        lambda: " ".join(r.choice(words) for _ in range(r.randint(1, 12))),
        lambda: "".join(r.choice([w := r.choice(words), w.upper(), w.title(), w + "'" + r.choice(["s", "S", "ll", "LL", "Ve", "d", "x"]), " " * r.randint(1, 4), "\t" * r.randint(1, 3), "\n" * r.randint(1, 3),
                                       r.choice("()[]{}<>=+-*/%!?.,:;\"'`~@#$^&|\\_"), str(r.randrange(10**r.randint(1, 9)))]) for _ in range(r.randint(1, 25))),
        lambda: "".join(chr(r.randrange(0xff00, 0xfff0)) if r.random() < .5 else chr(r.choice([*range(0x2460, 0x2500), *range(0x3200, 0x3400), *range(0x2100, 0x2190), *range(0xfb00, 0xfb50), *range(0xf900, 0xfa00)])) for _ in range(r.randint(1, 12))),
        lambda: "".join(r.choice(["👩", "👨", "🏽", "\u200d", "\ufe0f", "🇩", "🇪", "🇯", "❤", "☺", "1", "\u20e3", "🏴", "\U000e0067", " "]) for _ in range(r.randint(1, 15))),
    ]
    kinds += [
        lambda: "".join(chr(r.choice(YOUNG)) if r.random() < .5 else r.choice([" ", "a", "1", "é", "ª", "\r\n", "_", "!", "\n", r.choice(MARKS), r.choice(tokens)]) for _ in range(r.randint(1, 20))),
        lambda: "".join(chr(r.choice([r.randrange(0x1100, 0x1113), r.randrange(0x1161, 0x1176), r.randrange(0x11a7, 0x11c3), r.randrange(0x1100, 0x1200), r.randrange(0xac00, 0xd7a4), 0xac00 + 28 * r.randrange(399)]))
                        for _ in range(r.randint(1, 12))),
        lambda: "".join(r.choice(["a", "E", "ö", "ǖ", "ﬁ", "क", "ο", "가", " ", "\u1100"]) + "".join(mark(r) for _ in range(r.randint(0, r.choice([3, 3, 40, 100])))) for _ in range(r.randint(1, 5))),
        lambda: "".join(r.choice("abcdefghijklmnopqrstuvwxyzABCXYZ") for _ in range(r.randint(20, r.choice([60, 3000])))),
        lambda: "".join(r.choice([r.choice(tokens), r.choice(tokens)[:r.randint(1, 9)], r.choice(tokens)[-r.randint(1, 9):], r.choice(SPACES) * r.randint(0, 3), r.choice(["", "x", "é", "_", "1", "<", "▁", "\0"])])
                        for _ in range(r.randint(1, 10))),
    ]
    if r.random() < .08:
        return invalid(r)
    return r.choice(kinds)().encode()


def lines(r, tokens, n):
    text = open(SHAKESPEARE).read()
    words = sorted(set(text.split()))
    out = [b""] + [bytes([i]) for i in range(256)] + [b"a" + bytes([i]) + b"b" for i in range(256)]
    for t in tokens:
        out += [t.encode(), b"a" + t.encode() + b"b", b" " + t.encode() + b" ", (t + t).encode(), t[:-1].encode(), b"  " + t.encode() + b"  x"]
    out += [p.encode() for p in PHRASES] + [(s * k).encode() for s in SPACES for k in (1, 2, 3, 7, 24, 100)] + [(f"a{s * k}b").encode() for s in SPACES for k in (1, 2, 3)]
    out += [text[:10000].encode(), ("a" * 10000).encode(), (" " * 10000).encode(), ("ab" * 5000).encode(), ("好" * 3000).encode(), "".join(PHRASES).encode() * 3]
    while len(out) < n:
        out.append(line(r, tokens, words, text))
    return out


def strays(r, size, some, n):
    """Ids that no text gives, such as half characters, beside those of some lines."""
    small = min(size, 600)
    for _ in range(n):
        ids = []
        for _ in range(r.randint(1, 20)):
            ids += r.choice([lambda: [r.randrange(size)], lambda: [r.randrange(small) for _ in range(r.randint(1, 8))], lambda: (i := r.choice(some))[:r.randint(0, 4)],
                             lambda: [r.randrange(small)] * r.randint(1, r.choice([3, 90]))])()
        yield ids


def original(path):
    """Its encode and decode, encode with the tokens around a text, how many ids there are, and the tokens that it looks for in a text."""
    if os.path.isdir(path):
        from transformers import GPT2Tokenizer
        t = GPT2Tokenizer(f"{path}/vocab.json", f"{path}/merges.txt")
        return (lambda b: t.encode(b.decode("utf-8", "replace"), add_special_tokens=False),
                lambda ids: t.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False), t.encode, len(t), ["<|endoftext|>"], "transformers")
    if path.endswith(".json"):
        from tokenizers import Tokenizer
        t = Tokenizer.from_file(path)
        added = [a["content"] for a in json.load(open(path))["added_tokens"]]
        return (lambda b: t.encode(b.decode("utf-8", "replace"), add_special_tokens=False).ids, t.decode, lambda text: t.encode(text).ids,
                t.get_vocab_size(), added, "tokenizers")
    import sentencepiece
    t = sentencepiece.SentencePieceProcessor(model_file=path)
    special = [t.id_to_piece(i) for i in range(len(t)) if not (t.is_unused(i) or t.is_byte(i)) and len(t.id_to_piece(i)) > 2 and t.id_to_piece(i)[0] + t.id_to_piece(i)[-1] == "<>"]
    return t.encode, t.decode, t.encode, len(t), special + ["<0x41>"], "sentencepiece"


def write(f, path, seed, texts, n):
    """Writes what the original at path makes of texts(random, tokens), and of n lists of ids that no text gives."""
    encode, decode, special, size, tokens, library = original(path)
    data = open(path if os.path.isfile(path) else f"{path}/vocab.json", "rb").read()
    r = random.Random(seed)
    print(json.dumps({"made with": {library: importlib.metadata.version(library)}, "tokenizer": os.path.basename(path.rstrip("/")), "seed": seed,
                      "sha256": hashlib.sha256(data).hexdigest(), "special": special("a")}), file=f)
    some = []
    for b in texts(r, tokens):
        ids = encode(b)
        some.append(ids)
        print(json.dumps({"text": base64.b64encode(b).decode(), "ids": ids, "decoded": decode(ids)}), file=f)
    for ids in strays(r, size, some, n):
        print(json.dumps({"ids": ids, "decoded": decode(ids)}), file=f)


def main(path, output, seed=1, n=22000):
    with open(output, "w") as f:
        write(f, path, int(seed), lambda r, tokens: lines(r, tokens, int(n) - 1000), 1000)


if __name__ == "__main__":
    main(*sys.argv[1:])
