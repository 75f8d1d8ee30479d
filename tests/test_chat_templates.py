"""Chat templates in the style of the real families: the text and the marks are transformers', the answers are found."""

import json

import pytest
import tiny_models as tiny

from jaxrec.data.chat import ChatError, TemplateChat
from jaxrec.data.instructions import Instruction, encode_instructions
from jaxrec.data.pairs import Pair, pair_rows
from jaxrec.data.row_layouts import messages_of
from jaxrec.data.text import train_tokenizer
from jaxrec.hub import Tokenizer

CALL = {"type": "function", "function": {"name": "track", "arguments": {"id": 7}}}
TOOL = {"type": "function", "function": {"name": "track", "parameters": {"type": "object"}}}
_HEAD = "<|im_start|>{{ m.role }}\n"
_OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CHATML = "{% for m in messages %}" + _HEAD + "{{ m.content }}<|im_end|>\n{% endfor %}" + _OPEN
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
)
CALLS = (
    "{% if m.tool_calls %}{% for c in m.tool_calls %}<call>{{ c.function | tojson }}</call>"
    "{% endfor %}{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "qwen 2.5": DEFAULT_SYSTEM
    + "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    + CHATML.replace("{{ m.content }}", "{{ m.content or '' }}" + CALLS),
    "qwen 3": "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}"
    + _HEAD
    + "{% if m.role == 'assistant' %}{% set said = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{% if loop.index0 > ns.last %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}"
    "{{ said }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}" + _OPEN,
    "llama 2": "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content | trim }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }} </s>"
    "{% else %}{{ raise_exception('Only user and assistant roles!') }}{% endif %}{% endfor %}",
    "llama 3": "{{- '<|begin|>' }}{%- for m in messages %}{{- '<|head|>' + m.role + '<|tail|>\n\n' }}"
    "{{- m.content | trim + '<|eot|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|head|>assistant<|tail|>\n\n' }}{%- endif %}",
    "gemma": "<s>{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}",
    "gemma 3": tiny.GEMMA3.replace("start_of_turn", "turn").replace("end_of_turn", "end"),
    "phi 3": "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
    "zephyr": "{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>\n' + m.content + eos_token }}"
    "{% elif m.role == 'assistant' %}{{ '<|assistant|>\n' + m.content + eos_token }}{% else %}"
    "{{ '<|system|>\n' + m.content + eos_token }}{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}{% endfor %}",
    "command r": "<s>{% if messages[0].role == 'system' %}{% set talk = messages[1:] %}"
    "{% set guide = messages[0].content %}{% else %}{% set talk = messages %}{% set guide = 'Help.' %}{% endif %}"
    "<turn>system{{ guide }}<end>{% for m in talk %}<turn>{{ m.role }}{{ m.content.strip() }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant{% endif %}",
    "deepseek": "<s>{% set ns = namespace(guide='') %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% set ns.guide = m.content %}{% endif %}{% endfor %}{{ ns.guide }}{% for m in messages %}"
    "{% if m.role == 'system' %}{% continue %}{% endif %}<|{{ m.role }}|>"
    "{{ m.content.split('</think>')[-1] if m.role == 'assistant' else m.content }}"
    "{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}",
    "no opening": "{% for m in messages %}" + _HEAD + "{{ m.content }}<|im_end|>\n{% endfor %}",
    "parts": "{% for m in messages %}"
    + _HEAD
    + "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    + _OPEN,
    "marked": "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n{% else %}"
    + _HEAD
    + "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    + _OPEN,
    "dated": "{{ strftime_now('%Y') }}{% if tools is none and documents is none %}no tools{% endif %}"
    "{{ {'b': 1, 'a': 'é'} | tojson(indent=1, sort_keys=True, ensure_ascii=True, separators=(',', ':')) }}"
    + CHATML,
}
TOKENS = ("<s>", "</s>", "<turn>", "<end>", "<|eot|>", "<|im_start|>", "<|im_end|>", "<|head|>")
u = lambda said: {"role": "user", "content": said}
a = lambda said, **more: {"role": "assistant", "content": said, **more}
TWO = [u("Open on Sunday?"), a("Yes."), u("Until when?"), a(" Six. ")]
GUIDED = [{"role": "system", "content": "Be short."}, *TWO]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """tokenizer.json with the families' end tokens, once for all templates."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["The x shop of v opens at 7 and closes late."], 274).save(
        folder / "tokenizer.json"
    )
    saved = json.loads((folder / "tokenizer.json").read_text())
    first = saved["added_tokens"][0]
    saved["added_tokens"] += [
        {**first, "id": 274 + n, "content": token, "special": True}
        for n, token in enumerate(TOKENS)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    return folder


def folder_of(base, tmp_path, template, **more):
    (tmp_path / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    settings = {"eos_token": "</s>", "bos_token": "<s>", "chat_template": template, **more}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


def chat_with(base, tmp_path, template):
    return TemplateChat(Tokenizer(folder_of(base, tmp_path, template)))


def theirs(chat, talk, **more):
    from transformers import AutoTokenizer

    hf = AutoTokenizer.from_pretrained(str(chat.tok.folder))
    return hf.apply_chat_template(talk, **more)


def learned(chat, example):
    """The learned stretches as text."""
    runs, now = [], []
    for i, weight in [*zip(*example, strict=True), (0, 0.0)]:
        if weight:
            now.append(i)
        elif now:
            runs.append(chat.tok.decode(now, special=True))
            now = []
    return runs


# What is learned of TWO, where that is not the answers as they stand and their end.
LEARNED = {
    "qwen 3": ["Yes.<|im_end|>", "<think>\n\n</think>\n\n Six. <|im_end|>"],
    "llama 2": [" Yes. </s>", " Six. </s>"],
    "llama 3": ["Yes.<|eot|>", "Six.<|eot|>"],
    "gemma": ["Yes.<end>", "Six.<end>"],
    "gemma 3": ["Yes.<end>", "Six.<end>"],
    "phi 3": ["Yes.<end>", " Six. <end>"],
    "zephyr": ["\nYes.</s>", "\n Six. </s>"],
    "command r": ["Yes.<end>", "Six.<end>"],
    "deepseek": ["Yes.</s>", " Six. </s>"],
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_texts_are_those_of_transformers_and_every_answer_is_learned(base, tmp_path, name):
    chat = chat_with(base, tmp_path, TEMPLATES[name])
    part = lambda m: m | {"content": [{"type": "text", "text": m["content"]}]}
    for talk in (TWO, GUIDED, TWO[1:]):
        given = [part(m) for m in talk] if name == "parts" else talk
        messages = [(m["role"], m["content"]) for m in talk]
        try:
            right = theirs(chat, given, tokenize=False)
        except Exception:  # transformers lets through whatever the template raises
            with pytest.raises(ChatError, match="the chat template of"):
                chat.example(messages)
            continue
        gaps = []
        example = chat.example(messages, "all", gaps)
        assert chat.tok.decode(example.ids, special=True) == right
        default = ["Yes.<|im_end|>", " Six. <|im_end|>"]
        expected = list(LEARNED.get(name, default))
        if (
            talk[0]["role"] == "assistant"
        ):  # nothing opens it, and nothing predicts a text's first token
            expected[0] = expected[0].lstrip()
        assert learned(chat, example) == expected
        assert learned(chat, chat.example(messages)) == expected[-1:]
        assert len(gaps) == (name == "deepseek")  # asked behind <think>, taught without
        if name != "deepseek":
            opening = chat.opening(messages[:-1])
            assert example.ids[: len(opening)] == opening
    assert chat.eos_ids[0] == chat.tok.id_of("</s>")
    assert all(i in chat.eos_ids for i in (chat.tok.id_of(learned_end(chat, example)),))


def learned_end(chat, example):
    last = max(i for i, weight in enumerate(example.loss) if weight)
    return chat.tok.rust.id_to_token(example.ids[last])


def test_marks_of_generation_are_transformers_masks(base, tmp_path):
    chat = chat_with(base, tmp_path, TEMPLATES["marked"])
    found = theirs(chat, GUIDED, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    example = chat.example([(m["role"], m["content"]) for m in GUIDED], "all")
    assert example.ids == found["input_ids"]
    assert [int(weight) for weight in example.loss] == found["assistant_masks"]


def test_calls_and_schemas_reach_the_template_and_are_learned(base, tmp_path):
    talk = [u("Where is 7?"), a(None, tool_calls=[CALL]), {"role": "tool", "content": "in Ghent"},
            a("In Ghent.")]  # fmt: skip
    chat = chat_with(base, tmp_path, TEMPLATES["qwen 2.5"])
    example = chat.example(messages_of({"messages": talk, "tools": [TOOL]}), "all")
    right = theirs(chat, talk, tools=[TOOL], tokenize=False)
    assert chat.tok.decode(example.ids, special=True) == right and '"parameters"' in right
    call, answer = learned(chat, example)
    assert call == f"<call>{json.dumps(CALL['function'])}</call><|im_end|>"
    assert answer == "In Ghent.<|im_end|>"
    prompt = messages_of({"messages": talk, "tools": [TOOL]})[:-1]  # the schemas go with it
    opening = chat.opening(prompt)
    assert example.ids[: len(opening)] == opening


@pytest.mark.parametrize("lost", ["tools", "documents", "tool_calls", "reasoning_content"])
def test_what_a_template_has_no_place_for_is_refused_by_name(base, tmp_path, lost):
    chat = chat_with(base, tmp_path, CHATML)
    row = {"messages": [u("Where is 7?"), a("One moment.")]}
    if lost in ("tools", "documents"):
        row[lost] = [TOOL]
    else:
        row["messages"][-1][lost] = [CALL] if lost == "tool_calls" else "hm"
    with pytest.raises(ChatError, match=f"no place for {lost}"):
        chat.example(messages_of(row))


def test_thoughts_of_earlier_turns_are_left_out_and_the_last_ones_learned(base, tmp_path):
    chat = chat_with(base, tmp_path, TEMPLATES["qwen 3"])
    think = lambda said, thought: a(said, reasoning_content=thought)
    talk = [u("Open?"), think("Yes.", "hm"), u("Until?"), think("Six.", "well")]
    example = chat.example(messages_of({"messages": talk}), "all")
    assert learned(chat, example) == ["Yes.<|im_end|>", "<think>\nwell\n</think>\n\nSix.<|im_end|>"]
    inline = [u("Open?"), a("<think>\nhm\n</think>\n\nYes."), u("Until?"), a("Six.")]
    example = chat.example(messages_of({"messages": inline}), "all")
    assert learned(chat, example)[0] == "Yes.<|im_end|>"


def test_answers_of_weight_nothing_are_not_learned(base, tmp_path):
    chat = chat_with(base, tmp_path, CHATML)
    talk = [u("Open?"), a("No.", weight=0), u("Sure?"), a("Yes.", weight=1)]
    assert learned(chat, chat.example(messages_of({"messages": talk}), "all")) == ["Yes.<|im_end|>"]


BROKEN = {
    "raises": "{{ raise_exception('not\nlike this') }}",
    "syntax": "{% for m in messages %}",
    "no name": "{{ messages[0].nothing.at_all }}",
    "types": "{{ messages + 1 }}",
    "divides": "{{ 1 / 0 }}",
    "endless": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "unsafe": "{{ ''.__class__.__mro__ }}{{ messages.append(1) }}",
    "index": "{{ messages[9].content }}",
}


@pytest.mark.parametrize("name", BROKEN)
def test_whatever_a_template_does_wrong_is_one_line(base, tmp_path, name):
    chat = chat_with(base, tmp_path, BROKEN[name])
    talk = [("user", "x"), ("assistant", "y")]
    for write in (lambda: chat.example(talk), lambda: chat.opening(talk[:1])):
        with pytest.raises(ChatError, match="the chat template of") as told:
            write()
        assert "\n" not in str(told.value)


CLOUDED = {
    "cut": "{{ m.content[:2] if not loop.last else m.content }}",  # would teach to stop too early
    "counted": "{{ m.content }}{{ m.content | length }}",
    "twice": "{{ m.content }}{% if not loop.last %} ({{ m.content }}){% endif %}",
}


@pytest.mark.parametrize("name", CLOUDED)
def test_an_answer_that_cannot_be_told_is_left_unlearned_and_said(base, tmp_path, name):
    chat = chat_with(base, tmp_path, CHATML.replace("{{ m.content }}", CLOUDED[name]))
    messages, gaps = [(m["role"], m["content"]) for m in TWO], []
    example = chat.example(messages, "all", gaps)
    runs = learned(chat, example)
    assert runs[-1].startswith(" Six. ") and "Until" not in "".join(runs)
    if name == "cut":
        assert len(runs) == 1 and "rewrites message 1" in gaps[0]
        with pytest.raises(ChatError, match="rewrites message 1"):
            chat.example(messages, "all")


def test_named_templates_and_files_go_before_the_settings(base, tmp_path):
    two = {"default": CHATML, "tool_use": "T" + TEMPLATES["qwen 2.5"]}
    named = [{"name": name, "template": template} for name, template in two.items()]
    tok = Tokenizer(folder_of(base, tmp_path, named))
    assert tok.chat([u("x")], tools=[TOOL]).startswith("T") and tok.chat([u("x")])[0] != "T"
    (tmp_path / "chat_template.jinja").write_text("J" + CHATML)
    assert Tokenizer(tmp_path).chat([u("x")]).startswith("J")


def test_a_schema_is_never_cut(base, tmp_path):
    chat = chat_with(base, tmp_path, TEMPLATES["qwen 2.5"])
    talk = messages_of({"messages": TWO, "tools": [TOOL]})
    given = [Instruction(talk, "f:1"), Instruction(tuple(map(tuple, talk)), "f:2")]
    kept, skipped = encode_instructions(chat, given, 40)
    assert len(kept) == 1 and len(kept[0].ids) == 40
    assert skipped.first["longer than 40 tokens with its tools, dropped"] == "f:1"
    pairs = [Pair(one.prompt, one.answer, "No.", where=one.where) for one in given]
    rows, kept, skipped = pair_rows(chat, pairs, 40)
    assert [pair.where for pair in kept] == ["f:2"] and rows.chosen.ids_BL.shape == (1, 40)
    assert skipped.first["longer than 40 tokens with its tools"] == "f:1"
