"""Instructions as token rows: what is learned, what is cut, what is left out; and the three ways to make batches."""

import json

import numpy as np
import pytest

from jaxrec.data import instruction_batches as ib
from jaxrec.data.chat import ChatError, OwnChat, PlainChat, TemplateChat
from jaxrec.data.instructions import (
    Instruction,
    InstructionError,
    encode_instructions,
    read_instructions,
    shorten,
)
from jaxrec.data.text import Example, train_tokenizer
from jaxrec.hub import Tokenizer
from jaxrec.world import tenants

TALK = (("user", "Are you open?"), ("assistant", "Yes, until six."))
LONGER = (*TALK, ("user", "And on Sunday?"), ("assistant", "No, never."))
QWEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# shows only the last message's thoughts, as reasoning models do: earlier answers change when more follows
FORGETFUL = QWEN.replace("{{ m.content }}", "{{ m.content if loop.last else m.content[:2] }}")


@pytest.fixture(scope="module")
def tok():
    words = [f"The {a} of {b} opens at {i}." for i in range(12) for a in "xyzu" for b in "vwst"]
    return train_tokenizer([*words, *(said for _, said in LONGER)], 310)


@pytest.fixture(scope="module")
def own(tok):
    return OwnChat(tok)


def hub_folder(folder, tok, template):
    tok.save(folder / "tokenizer.json")
    saved = json.loads((folder / "tokenizer.json").read_text())
    start = max(t["id"] for t in saved["added_tokens"]) + 0
    for name in ("<|im_start|>", "<|im_end|>"):
        start = tok.size if name == "<|im_start|>" else tok.size + 1
        saved["added_tokens"].append(
            {**saved["added_tokens"][0], "id": start, "content": name, "special": True}
        )
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    settings = {"eos_token": "<|im_end|>", "pad_token": "<pad>", "bos_token": "<bos>"}
    settings |= {"chat_template": template} if template else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return Tokenizer(folder)


@pytest.fixture
def qwen(tmp_path, tok):
    return hub_folder(tmp_path, tok, QWEN)


def said(chat, example):
    """The learned tokens as text."""
    return chat.decode([i for i, w in zip(*example, strict=True) if w])


# ------------------------------------------------------------------------------------------------ formats


@pytest.mark.parametrize("kind", ["own", "own plain", "template", "plain"])
def test_only_answers_are_learned_and_the_opening_is_how_the_example_begins(kind, own, qwen):
    formats = {"own": own, "template": TemplateChat(qwen), "plain": PlainChat(qwen)}
    chat = formats.get(kind) or OwnChat(own.tok, plain=True)
    last, every = chat.example(LONGER), chat.example(LONGER, learn="all")
    assert last.ids == every.ids and last.loss[0] == every.loss[0] == 0
    assert said(chat, last) == "No, never."
    if "plain" in kind:
        assert said(chat, every) == "Yes, until six.\nNo, never."
    else:
        assert said(chat, every) == "Yes, until six.No, never."
    opening = chat.opening(LONGER[:-1])
    assert last.ids[: len(opening)] == opening
    assert not any(last.loss[: len(opening)]) and last.loss[len(opening)] == 1
    ends = [i for i, (t, w) in enumerate(zip(*last, strict=True)) if w and t in chat.eos_ids]
    assert len(ends) == 1 and not any(last.loss[ends[0] + 1 :])  # the end token is learned, no more


def test_template_ids_are_those_of_the_whole_text(qwen):
    chat = TemplateChat(qwen)
    text = qwen.chat([{"role": r, "content": c} for r, c in LONGER], answer_next=False)
    assert chat.example(LONGER).ids == qwen.encode(text, special=False)
    assert (
        text.count("<|im_end|>") == 4
        and chat.example(LONGER, "all").ids.count(qwen.eos_ids[0]) == 4
    )


def test_a_template_that_rewrites_earlier_answers_is_told(tmp_path, tok):
    chat = TemplateChat(hub_folder(tmp_path, tok, FORGETFUL))
    with pytest.raises(ChatError, match="rewrites message 1"):
        chat.example(LONGER, learn="all")
    with pytest.raises(ChatError, match="ends with what the assistant says"):
        chat.example(LONGER[:-1])
    with pytest.raises(ChatError, match="all of the assistant's answers, or the last"):
        chat.example(LONGER, learn="some")


def test_plain_prompt_and_completion_meet_without_anything_between(qwen, own):
    for chat in (PlainChat(qwen), OwnChat(own.tok, plain=True)):
        example = chat.example((("user", "x opens"), ("assistant", " at 7.")))
        assert chat.decode(example.ids) == "x opens at 7."
        assert example.ids[0] == qwen.bos_id and example.ids[-1] == chat.eos_ids[0]
        assert chat.opening((("user", "x opens"),)) == example.ids[: example.loss.index(1.0)]


# ------------------------------------------------------------------------------------------------ reading


ROWS = [
    {"prompt": "Are you open?", "completion": "Yes, until six."},
    {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
    {"turns": [{"speaker": "USER", "utterance": "x"}, {"speaker": "SYSTEM", "utterance": "y"},
               {"speaker": "USER", "utterance": "thanks"}]},
]  # fmt: skip
BAD = {
    "lacks": {"text": "x"},
    "empty": {"prompt": "x", "completion": " "},
    "role 'wizard'": {"messages": [{"role": "wizard", "content": "x"}]},
    "nothing is said by the assistant": {"messages": [{"role": "user", "content": "x"}]},
    "without a prompt": {"messages": [{"role": "assistant", "content": "x"}]},
    "a text is expected, not int": {"prompt": 3, "completion": "x"},
}


def test_the_three_layouts_and_sgd_turns(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    found, skipped = read_instructions(str(path))
    assert [one.where for one in found] == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3"]
    assert found[0].messages == TALK and found[0].answer == "Yes, until six."
    assert found[1].messages == found[2].messages == (("user", "x"), ("assistant", "y"))
    assert not skipped.counts


def test_malformed_rows_are_counted_with_file_and_line_and_strict_stops(tmp_path):
    path = tmp_path / "b.jsonl"
    lines = [json.dumps(ROWS[0]), *map(json.dumps, BAD.values()), "{no json", "[1]"]
    path.write_text("\n".join(lines))
    found, skipped = read_instructions(str(path))
    assert len(found) == 1 and sum(skipped.counts.values()) == len(BAD) + 2
    for line, why in enumerate([*BAD, "no JSON", "no JSON object"], 2):
        reason = next(
            r for r in skipped.counts if why in r and skipped.first[r] == f"b.jsonl:{line}"
        )
        assert skipped.counts[reason] == 1
    with pytest.raises(InstructionError, match=r"b\.jsonl:2: lacks"):
        read_instructions(str(path), strict=True)
    path.write_text("\n".join(lines[1:]))
    with pytest.raises(InstructionError, match="not one usable row"):
        read_instructions(str(path))
    with pytest.raises(InstructionError, match="no file here"):
        read_instructions(str(tmp_path / "none.jsonl"))


def test_the_sample_world_is_a_source_without_held_out_tenants(monkeypatch):
    whole = tenants.generate
    monkeypatch.setattr(tenants, "generate", lambda: whole(n=10))
    found, skipped = read_instructions("world")
    assert len(found) > 800 and not skipped.counts
    assert not any("kestrel_travel" in one.where for one in found)


# ------------------------------------------------------------------------------------------------ cutting


def test_the_prompt_is_cut_from_its_left_then_the_answer_from_its_right():
    example = Example(list(range(10)), [0.0] * 6 + [1.0] * 4)
    assert shorten(example, 8) == Example([0, 3, 4, 5, 6, 7, 8, 9], [0.0] * 4 + [1.0] * 4)
    assert shorten(example, 6).ids == [0, 5, 6, 7, 8, 9]
    assert shorten(example, 4) == Example([0, 5, 6, 7], [0.0, 0.0, 1.0, 1.0])
    two = Example(list(range(10)), [0.0, 1, 1, 0, 0, 0, 0, 0, 1, 1])
    assert shorten(two, 6).ids == [0, 5, 6, 7, 8, 9]


def test_long_and_fully_masked_rows_are_counted_and_named(own):
    long = (("user", "Are you open? " * 9), ("assistant", "Yes."))
    given = [Instruction(TALK, "f:1"), Instruction(long, "f:2"), Instruction(long, "f:3")]
    kept, skipped = encode_instructions(own, given, 24)
    assert [len(e.ids) for e in kept][1:] == [24, 24] and kept[1].ids[0] == own.tok.special["<bos>"]
    assert said(own, kept[1]) == "Yes." and skipped.first == {
        "longer than 24 tokens, cut at the left": "f:2"
    }
    kept, skipped = encode_instructions(own, given, 24, too_long="drop")
    assert len(kept) == 1 and list(skipped.counts.values()) == [2]
    kept, skipped = encode_instructions(own, given, 24, too_long="right")
    assert len(kept) == 1
    masked = next(r for r in skipped.counts if "all masked" in r)
    assert skipped.counts[masked] == 2 and skipped.first[masked] == "f:2"
    assert "2 all masked: no token of the completion is left (first: f:2)" in skipped.lines()
    with pytest.raises(InstructionError, match="none of 2 instructions"):
        encode_instructions(own, given[1:], 24, too_long="right")


# ------------------------------------------------------------------------------------------------ batches


def examples(count=37, longest=20, seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(3, longest + 1, count)
    return [Example([100 + i] * n, [0.0] + [1.0] * (n - 1)) for i, n in enumerate(sizes)]


def epoch_of(made, rows):
    """Every (example's number, tokens) that an epoch's batches hold."""
    state, seen, shapes = made.source.init(), [], set()
    while int(state["epoch"]) == 0:
        batch, state = made.source(0, None, state)
        shapes.add(batch.ids_BL.shape)
        for row, segments in zip(batch.ids_BL, batch.segments_BL, strict=True):
            seen += [(int(row[segments == s][0]) - 100, int((segments == s).sum()))
                     for s in range(1, segments.max() + 1)]  # fmt: skip
    return seen, shapes


@pytest.mark.parametrize("how", ["padded", "bucketed", "packed"])
def test_every_example_comes_once_an_epoch_whole(how):
    given = examples()
    made = ib.batches(given, how, length=24, rows=1 if how == "packed" else 4)
    seen, shapes = epoch_of(made, 4)
    if how == "padded":  # 37 rows in batches of 4: the last one begins the next epoch
        seen = list(dict.fromkeys(seen))
    assert sorted(seen) == [(i, len(e.ids)) for i, e in enumerate(given)]
    assert len(shapes) == made.programs == (3 if how == "bucketed" else 1)
    floor = {"padded": 0.4, "bucketed": 0.7, "packed": 0.8}[how]
    assert floor < made.fill <= 1


def test_bucket_batches_resume_reshuffle_and_share():
    given = examples()
    made = ib.batches(given, "bucketed", length=24, rows=4, buckets=(8, 24))
    state, first = made.source.init(), []
    for _ in range(2 * int(made.per_epoch)):
        batch, state = made.source(0, None, state)
        first.append(batch.ids_BL)
    half = int(made.per_epoch)
    assert not all(
        a.shape == b.shape and (a == b).all()
        for a, b in zip(first[:half], first[half:], strict=True)
    )
    again = ib.batches(given, "bucketed", length=24, rows=4, buckets=(8, 24), share=slice(2, 4))
    state = {"seed": np.asarray(0), "epoch": np.asarray(0), "position": np.asarray(3)}
    for i in (3, 4, 5):
        batch, state = again.source(0, None, state)
        np.testing.assert_array_equal(batch.ids_BL, first[i][2:])


def test_bad_batches_are_refused():
    with pytest.raises(ib.BatchError, match="rows have 10"):
        ib.batches(examples(), "packed", length=10, rows=4)
    with pytest.raises(ib.BatchError, match="largest must lie between"):
        ib.batches(examples(), "bucketed", length=24, rows=4, buckets=(8, 12))
