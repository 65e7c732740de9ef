"""Conversations as transformers and TRL render, tokenize and mask them.

    python chat.py templates OUTPUT.json [all]
    python chat.py masks     OUTPUT.json [SMALL.zip]
    python chat.py masks     OUTPUT.json rows TOKENIZER_FOLDER TEMPLATE FILE.jsonl [NUMBER]

templates: what transformers makes of hard conversations with real chat templates, or says against them. The templates are files of the
TRL package (Apache-2.0), each as a model has it; "all" takes every one of them, otherwise those that may be passed on. With them go some
of ours, which use what the real ones do not.

masks: ids of examples, and which of them count: TRL's SFTTrainer for conversations and prompts with completions, qlora.py's rule for a
prompt and its response. Where there is no original, as for TRL without {% generation %}, the mask is made of the tokens' offsets. The
first form takes the small tokenizers of cmd/qlora/internal/tokenizer/testdata; the second real ones, and rows with question and
answer, or Open-Assistant trees, which it cuts into conversations. It also has the order of TRL's packing and of transformers'
LengthGroupedSampler for given lengths and permutations.

Go reads the outputs: `go test ./cmd/qlora/internal/chat ./cmd/qlora/internal/batch -args -vectors OUTPUT.json`.
"""
import json
import os
import random
import re
import sys
import tempfile
import zipfile

import jinja2
import torch
import transformers
import trl
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

from common import version

TRL = os.path.join(os.path.dirname(trl.__file__), "chat_templates")
SHARED = ["qwen2_5", "qwen2_5_training", "qwen3", "qwen3_training", "phi3", "phi3_training", "smolvlm", "llama3", "llama3_training"]

# Published ones that TRL does not carry: the first is the example of transformers' documentation, the others are Meta's and Mistral's.
PUBLISHED = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "smollm2": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI "
    "assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama2": "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "mistral": "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
}

# Ours: the language itself, and where white space goes.
OURS = {
    "ours: white space": "  {% if true %}\n a\n  {%- if false %} b {% endif -%}\n\n  c {# d #}\n   {# e #}\n{{ 'f' }}\n\n  {%+ if true %}g{% endif +%}\n\th\n"
    "{% for m in messages %}\n    {{ m.role }}  \n  {% endfor %}\n\r\n i\r\n{%- for m in messages -%}\n {{- loop.index }}\n{%- endfor %}\n {% endif %}\n\n",
    "ours: expressions": "{{ 1 + 2 * 3 - 4 // 3 }}|{{ 1 ~ 7 % 4 }}|{{ -7 // 2 }}|{{ -7 % 3 }}|{{ 7 / 2 }}|{{ 2 ** 3 ** 2 }}|{{ 'a' 'b' * 2 }}|{{ 1 < 2 < 3 }}|{{ 3 > 2 == 2 }}|"
    "{{ not true or 'x' }}|{{ 'ab' in 'cabs' and 'q' not in 'z' }}|{{ ('x' if messages|length > 2 else 'y') + 'z' }}|{{ 'only' if false }}|{{ [1, 'a', none, true, 1.5] }}|"
    "{{ {'a': [1], 'b': \"it's\"} }}|{{ (1, 2)[1] }}|{{ 'abcdef'[1:-1:2] }}|{{ 'abc'[::-1] }}|{{ messages[-1].role }}|{{ messages[99] is defined }}|{{ messages[0].nothing }}|"
    "{{ none }}|{{ missing }}|{{ missing is undefined }}|{{ missing or 'fallback' }}|{{ 'q\\'\\x41\\u00e9\\n\\\\' }}|{{ 1.0 }}|{{ 1e3 is defined }}|{{ true and 3 }}|{{ [] or 'empty' }}|"
    "{{ 'a' if 'b' if 'c' else 'd' }}|{{ messages|length is even }}|{{ 5 is divisibleby 5 if false else 5 is odd }}|{{ 1 is not none and 2 is integer }}|{{ 'x' is string }}|"
    "{{ {'k': 1} is mapping }}|{{ {'k': {'z': 2}}.k.z }}|{{ {'k': 1}['k'] }}|{{ 10 | string | length }}|{{ -3|abs }}|{{ 'a,b,c'.split(',', 1) }}|{{ 'a,b,c'.rsplit(',', 1)[0] }}",
    "ours: filters": "{{ ' a b '|trim }}|{{ 'hello wORLD'|title }}|{{ 'hELLO'|capitalize }}|{{ messages|map(attribute='role')|join(', ') }}|{{ messages|selectattr('role', 'equalto', 'user')|list|length }}|"
    "{{ messages|rejectattr('role', 'in', ['user', 'system'])|map(attribute='content')|first|default('none') }}|{{ [3, 1, 2]|last }}|{{ {'b': 1, 'A': 2}|dictsort|map('last')|list }}|{{ {'b': 1}|items|map('first')|list }}|"
    "{{ messages|tojson }}|{{ messages|tojson(indent=2) }}|{{ {'b': [], 'a': {}, 'c': 1.5, 'd': none, 'e': true}|tojson }}|{{ 'a\nb\n\nc'|indent(2) }}|{{ 'abc'|reverse }}|{{ '12'|int + 1 }}|{{ 'x'|int(7) }}|"
    "{{ '1.5'|float }}|{{ [1, 0, 2]|select|list }}|{{ ['a', 'B']|map('upper')|join }}|{{ 'aXbX'|replace('X', '-') }}|{{ ''|default('d', true) }}|{{ 'a b  c'.split() }}|{{ 'xxaxx'.strip('x') }}|"
    "{{ 'abc'.find('c') }}|{{ 'ÄÖ'|lower }}|{{ 'a.b'.startswith(('x', 'a')) }}|{{ '-'.join(['a', 'b']) }}|{{ 'aaa'.replace('a', 'b', 2) }}|{{ 'abc'.count('b') }}|{{ {'a': 1}.get('z', 'none') }}|{{ {'a': 1}.keys()|list }}",
    "ours: statements": "{% set a, b = 1, 'two' %}{% set ns = namespace(found=false, n=0) %}{% for m in messages if m.role != 'system' %}{% set a = 'inner' %}{{ loop.index }}/{{ loop.length }}"
    "{{ loop.first }}{{ loop.last }}{{ loop.revindex0 }}{% if loop.previtem is defined %}<{{ loop.previtem.role }}{% endif %}{% if loop.nextitem is defined %}>{{ loop.nextitem.role }}{% endif %};"
    "{% set ns.n = ns.n + 1 %}{% if ns.n == 3 %}{% break %}{% endif %}{% if m.role == 'tool' %}{% continue %}{% endif %}{{ m.content }}{% else %}no messages{% endfor %}{{ a }}{{ b }}{{ ns.n }}"
    "{% macro show(x, y='def', z=b) %}[{{ x }}-{{ y }}-{{ z }}{% if w is defined %}!{% endif %}]{% endmacro %}{{ show(1) }}{{ show(1, z=2, y=3) }}{{ show() }}{% set block %}in {{ a }}{% endset %}"
    "{{ block }}{% for k, v in {'x': 1, 'y': 2}.items() %}{{ k }}={{ v }},{% endfor %}{% for i in range(3) %}{% for j in range(i, 5, 2) %}{{ i }}{{ j }} {% endfor %}{% endfor %}"
    "{% for c in 'äb' %}{{ c }}.{% endfor %}{% for x in missing %}never{% else %}nothing{% endfor %}",
    "ours: generation": "{% for m in messages %}{% if m.role == 'assistant' %}A: {% generation %}{% set own = 'x' %}{{ m.content }}{{ eos_token }}{% endgeneration %}{{ own }}\n{% else %}{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}",
    "ours: an error": "{% for m in messages %}\n{{ m.content }}\n{% if m.role == 'tool' %}\n{{ m.nothing.more }}\n{% endif %}\n{% if m.content == '' %}{{ 'a' + none }}{% endif %}{% endfor %}",
    "ours: no such filter": "{{ messages|nothing }}",
    "ours: not closed": "{% if true %}\n{{ 1 }}",
}


U, A, S, T = [(lambda r: lambda c: {"role": r, "content": c})(r) for r in ("user", "assistant", "system", "tool")]
CONVERSATIONS = [
    [U("Hello?")],
    [U("Hi"), A("Hello!")],
    [S("Be brief."), U("What is 2+2?"), A("4")],
    [S("  You are\n\na *pirate*.  "), U(" Where? "), A("\n Here, matey! \n"), U("There?\n"), A("Nay.  ")],
    [U("one"), A("1"), U("two"), A("2"), U("three"), A("3")],
    [U("line\nbreaks\r\nand\ttabs\n\n"), A("\u00a0non-breaking\u00a0\u2003em\u3000wide\x1c\x85")],
    [U("Grüße, 你好 👩‍👩‍👧‍👦 e\u0301 שלום"), A("नमस्ते 🏳️‍🌈 \U0001d4d7")],
    [U("{{ messages }} {% if true %}x{% endif %} {# comment #} {{'{{'}}"), A("}} %} #} { } \\n \\ ' \" `")],
    [U("ends my turn<|im_end|>\n<|im_start|>assistant\n"), A("<s>[INST] no [/INST]</s><|eot_id|>")],
    [U("")],
    [U("x"), A("")],
    [U("a"), U("b"), A("c")],
    [A("I begin."), U("No.")],
    [U("a"), A("b"), S("late system"), U("c")],
    [S("only the system")],
    [U("call"), A("calling"), T('{"result": [1, 2]}'), A("It is 1 and 2.")],
    [U("think"), A("<think>\nhm\n</think>\n\nDone."), U("again"), A("<think>\nno\n</think>\n\nNo.")],
    [S("s"), U("a"), A("b"), U("c"), A("d"), U("e")],
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def marks(template):
    return re.search(r"\{%-?\s*generation\s*-?%\}", template) is not None


def rendered(template, conversation, prompt):
    """A text, or None with what the template says against the conversation; and the spans of {% generation %} in characters."""
    try:
        _compile_jinja_template(template).environment.globals.pop("strftime_now", None)  # no text is to depend on the day
        marked = marks(template) and not prompt
        texts, spans = render_jinja_template([[dict(m) for m in conversation]], chat_template=template, return_assistant_tokens_mask=marked,
                                             add_generation_prompt=prompt, **TOKENS)
        return {"text": texts[0], "spans": spans[0] if marked else []}
    except (jinja2.TemplateError, TypeError, KeyError, ValueError, AttributeError) as e:
        return {"text": None, "error": type(e).__name__, "spans": []}


def templates(output, everything):
    names = sorted(f[:-6] for f in os.listdir(TRL) if f.endswith(".jinja")) if everything else SHARED
    sources = {n: open(os.path.join(TRL, n + ".jinja"), encoding="utf-8").read() for n in names}
    sources = {**PUBLISHED, **sources, **OURS}
    cases = []
    for name, source in sources.items():
        cases.append({"name": name, "template": source, "rendered": [
            {"conversation": i, "prompt": prompt, **rendered(source, c, prompt)} for i, c in enumerate(CONVERSATIONS) for prompt in (False, True)]})
    write(output, {"made with": made_with(), "tokens": TOKENS, "conversations": CONVERSATIONS, "templates": cases})


def made_with():
    return {p: version(p) for p in ("transformers", "trl", "jinja2", "tokenizers")}


def write(output, value):
    """One element of each list a line."""
    with open(output, "w", encoding="utf-8") as f:
        f.write("{\n")
        for i, (k, v) in enumerate(value.items()):
            f.write(json.dumps(k) + ": ")
            if isinstance(v, list):
                f.write("[\n" + ",\n".join(json.dumps(x, ensure_ascii=True, separators=(",", ":")) for x in v) + "]")
            else:
                f.write(json.dumps(v, ensure_ascii=True))
            f.write(",\n" if i + 1 < len(value) else "\n}\n")


def trl_source(name):
    return {**PUBLISHED, **OURS}.get(name) or open(os.path.join(TRL, name + ".jinja"), encoding="utf-8").read()


class Masks:
    """Cases with one tokenizer and one chat template."""

    def __init__(self, tokenizer, name, template):
        self.t, self.name, self.template = tokenizer, name, template
        self.t.chat_template = trl_source(template)
        self.cases = []

    def add(self, kind, example, ids, counts, **more):
        self.cases.append({"kind": kind, "tokenizer": self.name, "template": self.template, "example": example, "ids": list(ids),
                           "counts": "".join("01"[bool(c)] for c in counts), **more})

    def trainer(self, rows, **config):
        """What SFTTrainer makes of rows."""
        if not rows:
            return []
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(self.t), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                                                      num_attention_heads=1, eos_token_id=self.t.eos_token_id))
        with tempfile.TemporaryDirectory() as folder:
            c = trl.SFTConfig(output_dir=folder, max_length=None, report_to=[], use_cpu=True, bf16=False, shuffle_dataset=False, **config)
            import datasets
            s = trl.SFTTrainer(model=model, args=c, train_dataset=datasets.Dataset.from_list(rows), processing_class=self.t)
            return [(x["input_ids"], [v != -100 for v in x["labels"]]) for x in s.train_dataset]

    def taken(self, m):
        """Whether the template takes a conversation."""
        try:
            return self.t.apply_chat_template(m, tokenize=False) != ""
        except jinja2.TemplateError:
            return False

    def conversations(self, all):
        all = [m for m in all if self.taken(m)]
        if marks(self.t.chat_template):
            for m, (ids, counts) in zip(all, self.trainer([{"messages": m} for m in all], assistant_only_loss=True)):
                self.add("response", {"messages": m}, ids, counts, by="TRL, assistant_only_loss")
        else:
            for m in all:
                self.add("response", {"messages": m}, *self.by_offsets(m), by="offsets")
        # {% generation %} of Qwen's training template begins one token before where the completion begins: the two of TRL's do not agree.
        last = [m for m in all if m[-1]["role"] == "assistant" and not marks(self.t.chat_template)]
        for m, (ids, counts) in zip(last, self.trainer([{"prompt": m[:-1], "completion": m[-1:]} for m in last], completion_only_loss=True)):
            self.add("last", {"messages": m}, ids, counts, by="TRL, completion_only_loss")
        for m, (ids, counts) in zip(all, self.trainer([{"messages": m} for m in all])):
            self.add("all", {"messages": m}, ids, counts, by="TRL")

    def by_offsets(self, m):
        """Tokens that reach into an answer: the difference of the texts before and after it."""
        text = self.t.apply_chat_template(m, tokenize=False)
        spans = []
        for i, x in enumerate(m):
            if x["role"] == "assistant":
                before = self.t.apply_chat_template(m[:i], tokenize=False, add_generation_prompt=True)
                upto = self.t.apply_chat_template(m[:i + 1], tokenize=False)
                assert text.startswith(before) and text.startswith(upto)
                spans.append((len(before), len(upto)))
        out = self.t(text, add_special_tokens=False, return_offsets_mapping=True)
        return out["input_ids"], [any(a < e and b > s for s, e in spans) for a, b in out["offset_mapping"]]

    def pairs(self, all, limits):
        """qlora.py's DataCollatorForCausalLM: the two texts apart, each cut on its right. Made right: the beginning is what the tokenizer puts before
        a text, and not "None" where there is none; a target that is cut keeps the end of sequence; the whole is cut, too."""
        for prompt, response in all:
            for source_max, target_max, most in limits:
                source = self.t(prompt)["input_ids"][:source_max or None]
                target = self.t(response + self.t.eos_token, add_special_tokens=False)["input_ids"]
                room = min(target_max or len(target), (most or 1 << 30) - len(source))
                if room < 2 and room < len(target):
                    continue
                if room < len(target):
                    target = target[:room - 1] + [self.t.eos_token_id]
                self.add("pair", {"prompt": prompt, "response": response}, source + target, [False] * len(source) + [True] * len(target), by="qlora.py",
                         limits=[source_max, target_max, most])


def small(archive):
    """Tokenizers of the archive with templates that fit them."""
    z = zipfile.ZipFile(archive)
    for name, template, bos, eos in [("smollm2", "smollm2", "<|im_start|>", "<|im_end|>"), ("smollm2", "chatml", "<|im_start|>", "<|im_end|>"),
                                     ("qwen2", "qwen2_5_training", None, "<|im_end|>"), ("qwen2", "qwen2_5", None, "<|im_end|>"),
                                     ("llama3", "llama3_training", "<|begin_of_text|>", "<|eot_id|>"), ("llama3", "llama3", "<|begin_of_text|>", "<|eot_id|>"),
                                     ("llama2-prepend", "llama2", "<s>", "</s>"), ("llama2-first", "mistral", "<s>", "</s>")]:
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "tokenizer.json")
            open(file, "wb").write(z.read(name + "/tokenizer.json"))
            yield Masks(transformers.PreTrainedTokenizerFast(tokenizer_file=file, bos_token=bos, eos_token=eos, pad_token=eos), name, template)


def made_up():
    r = random.Random(1)
    words = "the quick brown fox jumps over lazy dog and says Hello World to everyone in 1234 houses naïve 你好 😀 \n\n  code() {x}".split(" ")
    text = lambda n: " ".join(r.choice(words) for _ in range(r.randint(1, n)))
    pairs = [(text(12), text(8)) for _ in range(4)] + [("", "No prompt."), ("Ends in a space: ", " begins with one")]
    talks = [[U(text(6)), A(text(6))], [S(text(5)), U(text(6)), A(text(5)), U(text(4)), A(text(6))], [U("Hi\n"), A("\nHo"), U(" a "), A(" b ")]]
    return pairs, talks


def real(folder, template, file, number):
    """Rows of question and answer, or trees of Open-Assistant's export."""
    t = transformers.AutoTokenizer.from_pretrained(folder)
    if t.pad_token is None:
        t.pad_token = t.eos_token
    pairs, talks = [], []
    for line in open(file, encoding="utf-8"):
        row = json.loads(line)
        if "question" in row:
            pairs.append((row["question"], row["answer"]))
            talks.append([U(row["question"]), A(row["answer"])])
        elif "prompt" in row and isinstance(row["prompt"], dict):
            talk, node = [], row["prompt"]
            while node:
                talk.append((U if node["role"] == "prompter" else A)(node["text"]))
                node = node["replies"][0] if node.get("replies") else None
            talk = talk[:len(talk) // 2 * 2]
            if talk:
                talks.append(talk)
                pairs.append((talk[0]["content"], talk[1]["content"]))
        if len(talks) == number:
            break
    return Masks(t, os.path.abspath(folder), template), pairs, talks


def orders():
    """TRL's packing of given lengths, and transformers' grouping of given permutations."""
    import pyarrow as pa
    from transformers.trainer_pt_utils import get_length_grouped_indices
    from trl.data_utils import _pack_bfd

    r = random.Random(2)
    packed, grouped = [], []
    for n, room, longest in [(1, 5, 5), (10, 10, 10), (40, 32, 20), (200, 64, 64), (300, 1000, 30), (100, 7, 3)]:
        lengths = [r.randint(1, longest) for _ in range(n)]
        table = _pack_bfd(pa.table({"input_ids": [[i] * k for i, k in enumerate(lengths)]}), room)
        bins = [list(dict.fromkeys(ids)) for ids in table["input_ids"].to_pylist()]
        packed.append({"lengths": lengths, "room": room, "bins": bins})
    for n, batch, longest in [(1, 4, 9), (10, 4, 9), (50, 2, 30), (500, 2, 100), (300, 16, 8)]:
        lengths = [r.randint(1, longest) for _ in range(n)]
        order = list(range(n))
        r.shuffle(order)
        original, torch.randperm = torch.randperm, lambda n, generator=None: torch.tensor(order)
        try:
            result = get_length_grouped_indices(lengths, batch)
        finally:
            torch.randperm = original
        grouped.append({"lengths": lengths, "order": order, "batch": batch, "result": [int(i) for i in result]})
    return packed, grouped


def masks(output, arguments):
    sources, cases = {}, []
    if arguments and arguments[0] == "rows":
        made = [real(arguments[1], arguments[2], arguments[3], int(arguments[4]) if len(arguments) > 4 else 200)]
        limits = [(0, 0, 0), (384, 128, 0), (0, 0, 256)]
    else:
        archive = arguments[0] if arguments else os.path.join(os.path.dirname(__file__), "../../cmd/qlora/internal/tokenizer/testdata/small.zip")
        made = ((m, *made_up()) for m in small(archive))
        limits = [(0, 0, 0), (8, 5, 0), (0, 0, 20)]
    for m, pairs, talks in made:
        m.pairs(pairs, limits)
        m.conversations(talks)
        sources[m.template] = m.t.chat_template
        for c in m.cases:
            c["bos"], c["eos"] = m.t.bos_token, m.t.eos_token
        cases += m.cases
    packed, grouped = orders()
    write(output, {"made with": made_with(), "templates": sources, "packed": packed, "grouped": grouped, "cases": cases})
    kinds = {}
    for c in cases:
        kinds[c["kind"], c["by"]] = kinds.get((c["kind"], c["by"]), 0) + 1
    print(kinds)


if __name__ == "__main__":
    command, output = sys.argv[1:3]
    if command == "templates":
        templates(output, sys.argv[3:] == ["all"])
    else:
        masks(output, sys.argv[3:])
