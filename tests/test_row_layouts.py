"""Rows as strangers' files have them: read in whatever layout they come in, or refused by name; none ends a run."""

import gzip
import json

import pytest

from jaxrec.data.chat import OwnChat
from jaxrec.data.instructions import InstructionError, json_lines, read_instructions
from jaxrec.data.message import ChatMessage, context_of, fields_of
from jaxrec.data.pairs import pair_rows, read_pairs
from jaxrec.data.row_layouts import messages_of
from jaxrec.data.text import train_tokenizer

ASKED = (("user", "Two and two?"), ("assistant", "Four."))
GUIDED = (("system", "Be short."), *ASKED)
q, r = "Two and two?", "Four."
said = lambda role, content, **more: {"role": role, "content": content, **more}
talk = lambda question, answer: [said("user", question), said("assistant", answer)]
share = lambda *says: [{"from": who, "value": said} for who, said in says]
parts = lambda *says: [{"type": "text", "text": said} for said in says]
CALL = {"name": "track", "arguments": {"id": 7}}

READ = {
    "sharegpt": ({"conversations": share(("system", "Be short."), ("human", q), ("gpt", r))}, GUIDED),
    "vicuna": ({"conversation": share(("Human", q), ("CHATGPT", r))}, ASKED),
    "dialog": ({"dialog": [{"role": "user", "text": q}, {"role": "bot", "text": r}]}, ASKED),
    "gemini": ({"messages": [{"role": "user", "content": q}, {"role": "model", "content": r}]}, ASKED),
    "system beside": ({"conversations": share(("human", q), ("gpt", r)), "system": "Be short."}, GUIDED),
    "json column": ({"messages": json.dumps(talk(q, r))}, ASKED),
    "sgd": ({"turns": [{"speaker": "USER", "utterance": q}, {"speaker": "SYSTEM", "utterance": r}]}, ASKED),
    "prompt response": ({"prompt": q, "response": r, "id": 7}, ASKED),
    "question answer": ({"question": q, "answer": r}, ASKED),
    "orca": ({"system_prompt": "Be short.", "question": q, "response": r}, GUIDED),
    "query positive": ({"query": q, "positive": [r], "negative": ["Five."]}, ASKED),
    "input output": ({"input": q, "output": r}, ASKED),
    "alpaca": ({"instruction": "Add.", "input": "2 2", "output": r}, (("user", "Add.\n\n2 2"), ("assistant", r))),
    "alpaca without input": ({"instruction": q, "input": "", "output": r}, ASKED),
    "history": ({"instruction": q, "output": r, "history": [["Hi", "Hello"]]},
                (("user", "Hi"), ("assistant", "Hello"), *ASKED)),
    "dolly": ({"instruction": "Add.", "context": "2 2", "response": r}, (("user", "Add.\n\n2 2"), ("assistant", r))),
    "parts": ({"messages": talk(parts("Two", "and two?"), parts(r))},
              (("user", "Two\nand two?"), ("assistant", r))),
    "nobody answered": ({"messages": [*talk(q, r), said("user", "?")]}, ASKED),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_layouts_are_read(name):
    row, wanted = READ[name]
    found = messages_of(row)
    assert found == wanted and not any(isinstance(one, ChatMessage) for one in found)


image = [{"type": "image_url", "image_url": {"url": "x"}}]
REFUSED = {
    "its keys are ['text']": {"text": "x"},
    "its keys are ['labels', 'sentence']": {"sentence": "x", "labels": 1},
    "completion (its keys": {"prompt": q},
    "prompt (its keys": {"completion": r},
    "which of them is the completion": {"question": q, "answer": r, "response": "5"},
    "which of them is the prompt": {"question": q, "query": q, "answer": r},
    "which of them is the conversation": {"messages": [], "conversations": []},
    "role 'wizard'": {"messages": [said("wizard", "x")]},
    "role None": {"messages": [said(None, "x")]},
    "role 3": {"messages": [said(3, "x")]},
    "not NoneType": {"messages": [said("user", None), said("assistant", r)]},
    "not int": {"prompt": 3, "completion": r},
    "not dict": {"messages": [said("user", {"parts": ["x"]}), said("assistant", r)]},
    "part of type 'image_url'": {"messages": [said("user", image), said("assistant", r)]},
    "part of type 'tool_use'": {"messages": [said("user", q), said("assistant", [{"type": "tool_use"}])]},
    "'images'": {"messages": [said("user", q), said("assistant", r)], "images": ["a.png"]},
    "'image' in a message": {"messages": [said("user", q, image="a.png"), said("assistant", r)]},
    "who says it": {"dialog": ["Two and two?", "Four."]},
    "with the keys ['assistant', 'user']": {"messages": [{"user": q, "assistant": r}]},
    "a list of messages": {"messages": {"user": q}},
    "nothing is said": {"messages": [said("user", q)]},
    "without a prompt": {"messages": [said("assistant", r)]},
    "is empty": {"messages": [said("user", q), said("assistant", " ")]},
    "tools: a list of objects": {"prompt": q, "completion": r, "tools": [3]},
    "tools: a text that is no JSON": {"prompt": q, "completion": r, "tools": "none"},
    "function_call that is no JSON": {"conversations": share(("human", q), ("function_call", "track"))},
    "without the name": {"conversations": share(("human", q), ("function_call", "{}"))},
    "several": {"query": q, "positive": ["a", "b"]},
    "history": {"instruction": q, "output": r, "history": "Hi"},
    "half of a character": {"prompt": "\ud83d", "completion": r},
    "no JSON object": ["x"],
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_not_known_is_refused_by_name(why):
    with pytest.raises((KeyError, TypeError, ValueError)) as told:
        messages_of(REFUSED[why])
    assert why in str(told.value) or why == "several"


def test_calls_thoughts_and_schemas_go_with_their_messages():
    tools = [{"type": "function", "function": {"name": "track"}}]
    row = {
        "messages": [
            said("user", q),
            said("assistant", None, tool_calls=[CALL], name=None),
            said("tool", "in Ghent", name="track"),
            said("assistant", r, reasoning_content="hm"),
        ],
        "tools": json.dumps(tools),
        "functions": [{"name": "old"}],
        "documents": [{"title": "x", "text": "y"}],
    }
    found = messages_of(row)
    assert [role for role, _ in found] == ["user", "assistant", "tool", "assistant"]
    assert fields_of(found[1]) == {"tool_calls": [CALL], "content": None} and found[1][1] == ""
    assert fields_of(found[2]) == {"name": "track"}
    assert fields_of(found[3]) == {"reasoning_content": "hm"}
    old = {"type": "function", "function": {"name": "old"}}
    assert context_of(found)["tools"] == [*tools, old]
    assert context_of(found[:-1])["documents"] == row["documents"]
    assert found[0] != ("user", q) and hash(found[0]) == hash(("user", q))
    calls = share(
        ("human", q), ("function_call", json.dumps(CALL)), ("observation", "x"), ("gpt", r)
    )
    second = messages_of({"conversations": calls})[1]
    assert fields_of(second)["tool_calls"] == [{"type": "function", "function": CALL}]


def test_formats_without_a_template_refuse_what_they_cannot_write():
    chat = OwnChat(train_tokenizer(["The x shop of v opens at 7 and closes late."], 274))
    rows = [
        {"prompt": q, "completion": r},
        {"prompt": q, "completion": r, "tools": [CALL]},
        {"messages": [said("user", q), said("assistant", "", tool_calls=[CALL])]},
        {"messages": [said("user", q), said("assistant", r, thinking="hm")]},
        {"messages": [said("developer", "Be short."), said("user", q), said("assistant", r, id=3)]},
    ]
    for plain in (False, True):
        one = OwnChat(chat.tok, plain)
        kept = [n for n, row in enumerate(rows) if not _refused(one, row)]
        assert kept == [0, 4]


def _refused(chat, row):
    from jaxrec.data.chat import ChatError

    try:
        chat.example(messages_of(row))
    except ChatError as error:
        return "no place for" in str(error)
    return False


# ---------------------------------------------------------------------------------------------- files

GOOD = {"prompt": q, "completion": r}
LINES = {  # bad lines, each in a file of good ones
    "no UTF-8 text": b'{"prompt": "caf\xe9", "completion": "x"}',
    "half of a character": b'{"prompt": "x", "completion": "Yes \\ud83d"}',
    "nested too deeply": b"[" * 200_000,
    "no JSON": b'{"prompt": "x", "compl',
    "no JSON object": b"[1]",
    "Exceeds the limit": b'{"prompt": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("why", LINES)
def test_one_bad_line_is_counted_and_the_others_are_read(tmp_path, why):
    good = json.dumps(GOOD).encode()
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([good, LINES[why], good]) + b"\n")
    found, skipped = read_instructions(str(tmp_path / "a.jsonl"))
    assert [one.where for one in found] == ["a.jsonl:1", "a.jsonl:3"]
    ((reason, where),) = skipped.first.items()
    assert why in reason and where == "a.jsonl:2"
    with pytest.raises(InstructionError, match=r"a\.jsonl:2: "):
        read_instructions(str(tmp_path / "a.jsonl"), strict=True)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_marks_of_byte_order_and_line_ends_are_no_part_of_a_row(tmp_path, end):
    rows = [{"prompt": "Café\u2028?", "completion": r}] * 3
    text = end.join("\ufeff" + json.dumps(row, ensure_ascii=False) for row in rows)  # joined files
    (tmp_path / "w.jsonl").write_bytes(text.encode())
    (tmp_path / "w.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("w.jsonl", "w.jsonl.gz"):
        found, skipped = read_instructions(str(tmp_path / name))
        assert len(found) == 3 and not skipped.counts
    (tmp_path / "u.jsonl").write_bytes(text.encode("utf-16"))
    with pytest.raises(InstructionError, match="UTF-16"):
        read_instructions(str(tmp_path / "u.jsonl"))


def test_a_json_file_holds_one_list_or_lines_and_tables_are_refused(tmp_path):
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps([GOOD, 3, GOOD], indent=1))
    found, skipped = read_instructions(str(tmp_path / "a.json"))
    assert [one.where for one in found] == ["a.json[0]", "a.json[2]"] and len(skipped.counts) == 1
    (tmp_path / "b.json").write_text("\n".join([json.dumps(GOOD)] * 2))
    assert len(read_instructions(str(tmp_path / "b.json"))[0]) == 2
    for name in ("a.csv", "a.parquet"):
        (tmp_path / name).write_bytes(b"PAR1")
        with pytest.raises(InstructionError, match="is not read"):
            list(json_lines(tmp_path / name))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 999)[:-9])
    with pytest.raises(InstructionError, match="cannot be read"):
        list(json_lines(tmp_path / "cut.jsonl.gz"))


def test_pairs_take_the_same_layouts_and_one_bad_row_ends_nothing(tmp_path):
    answers = {"chosen": r, "rejected": "Five."}
    message = lambda text: {"from": "gpt", "value": text}
    rows = [
        {"prompt": q, **answers},
        {"question": q, **answers},
        {"conversations": share(("human", q)), "chosen": message(r), "rejected": message("Five.")},
        {"messages": [said("user", parts(q))], **answers},
        {"prompt": "\ud83d", **answers},
        {"prompt": q, "chosen": [said("assistant", r, tool_calls=[CALL])], "rejected": [said("assistant", "5")]},
        {"prompt": q, "images": ["x"], **answers},
        {"prompt": q, "chosen": r},
    ]  # fmt: skip
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, skipped = read_pairs(str(path))
    assert [(one.prompt, one.chosen) for one in found] == [((("user", q),), r)] * 4
    assert sum(skipped.counts.values()) == 4
    reasons = " ".join(skipped.counts)
    assert "half of a character" in reasons and "tool_calls" in reasons and "images" in reasons
    chat = OwnChat(train_tokenizer(["The x shop of v opens at 7 and closes late."], 274))
    assert len(pair_rows(chat, found, 64)[1]) == 4
