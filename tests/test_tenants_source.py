"""Tenants from people's own files: every part of the layout, every lenience, and what is said of what is left out."""

import gzip
import json
import os
from pathlib import Path

import pytest

from jaxrec.data.tenant import Tenant
from jaxrec.data.tenants import TenantError, choose_tenants, read_tenants
from jaxrec.world import tenants as world_tenants
from jaxrec.world.businesses import read_businesses

TALK = {"question": "Do you open on Sunday?", "answer": "Aye, from nine!"}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rows(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def talks(count, of="a thing"):
    return rows(
        *({"question": f"What of {of} {i}?", "answer": f"It is {i}."} for i in range(count))
    )


def test_every_part_of_a_folder_is_read(tmp_path):
    shop = tmp_path / "my shop"  # a blank in a path is no harm
    write(shop / "guide.md", "# Our voice\n\n- Say aye.\n- Be short.\n")
    write(shop / "pages" / "hours.md", "# When we open\nFrom nine.")
    write(shop / "pages" / "deep" / "till.txt", "Cash only.")
    write(shop / "dialogues.jsonl", rows(TALK | {"topic": "hours", "facts": ["nine"]}))
    write(shop / "heldout.jsonl", rows({"prompt": "And on Monday?", "completion": "Closed."}))
    write(
        shop / "preferences.jsonl",
        rows({"prompt": "Cash?", "chosen": "Aye.", "rejected": "Indeed, sir."}),
    )
    write(shop / "thumbs.jsonl", rows({"question": "Cards?", "answer": "No.", "liked": False}))
    write(shop / "never.txt", "# words of others\nkindly\n\nkindly\nguest\n")
    write(shop / "tenant.json", '{"name": "My Shop"}')
    (tenant,), skipped = read_tenants(str(shop))
    assert skipped.lines() == []
    assert (tenant.key, tenant.name) == ("my shop", "My Shop")
    assert tenant.guide.splitlines()[-1] == "- Be short." and tenant.never == ("kindly", "guest")
    assert [(p.id, p.title) for p in tenant.pages] == [
        ("deep/till", "my shop-page-00"),
        ("hours", "When we open"),
    ]
    (talk,) = tenant.onboarding
    assert (talk.question, talk.answer) == (TALK["question"], TALK["answer"])
    assert (talk.topic, talk.facts) == ("hours", ("nine",))
    assert tenant.heldout[0].answer == "Closed."
    assert [(f.answer, f.liked) for f in tenant.feedback] == [
        ("Aye.", True),
        ("Indeed, sir.", False),
        ("No.", False),
    ]


DIALECTS = {
    "messages": {
        "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    },
    "sharegpt": {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
    "prompt": {"prompt": "Q", "completion": "A"},
    "question": {"question": "Q", "answer": "A", "rating": 5},
    "turns": {"turns": [{"role": "customer", "text": "Q"}, {"role": "assistant", "text": "A"}]},
    "unanswered": {
        "turns": [
            {"role": r, "text": t} for r, t in (("user", "Q"), ("assistant", "A"), ("user", "And?"))
        ]
    },
}


@pytest.mark.parametrize("name", DIALECTS)
def test_dialogues_in_every_dialect(tmp_path, name):
    write(tmp_path / "a" / "dialogues.jsonl", rows(DIALECTS[name]))
    (tenant,), skipped = read_tenants(tmp_path)
    assert [(t.role, t.text) for t in tenant.onboarding[0].turns] == [
        ("customer", "Q"),
        ("assistant", "A"),
    ]
    assert not skipped.counts


def test_what_came_before_a_judged_question_is_kept(tmp_path):
    before = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Aye?"}]
    ask = [*before, {"role": "user", "content": "Cash?"}]
    write(
        tmp_path / "a" / "preferences.jsonl",
        rows({"prompt": ask, "chosen": "Aye", "rejected": "Yes"}),
    )
    write(tmp_path / "a" / "thumbs.jsonl", rows({"prompt": ask, "completion": "Aye", "label": 1}))
    (tenant,), _ = read_tenants(tmp_path)
    assert tenant.preferences[0].question == "Cash?" == tenant.thumbs[0].question
    for one in (tenant.preferences[0], tenant.thumbs[0]):
        assert [t.text for t in one.before] == ["Hi", "Aye?"]


@pytest.mark.parametrize("label", [True, 1, 1.0, "up", "Yes", "👍"])
def test_thumbs_up_in_many_words(label):
    row = {"name": "a", "thumbs": [TALK | {"label": label}]}
    assert read_tenants(row)[0][0].thumbs[0].liked


@pytest.mark.parametrize(
    "raw",
    [
        b"\xef\xbb\xbf" + talks(2).encode(),
        talks(2).replace("\n", "\r\n\r\n").encode(),
        talks(2).rstrip("\n").encode(),
    ],
    ids=["bom", "crlf and blank lines", "no last line end"],
)
def test_how_an_editor_saves_it_does_no_harm(tmp_path, raw):
    write(tmp_path / "a" / "dialogues.jsonl", raw)
    write(tmp_path / "a" / "guide.txt", "Говори тепло.\r\nБез спешки.".encode("utf-8-sig"))
    write(tmp_path / "a" / ".DS_Store", b"\x00\x01")
    write(tmp_path / ".git" / "guide.md", "not a tenant")
    (tenant,), skipped = read_tenants(tmp_path)
    assert len(tenant.onboarding) == 2 and tenant.guide == "Говори тепло.\nБез спешки."
    assert not skipped.counts


def test_packed_files_and_lists(tmp_path):
    write(tmp_path / "a" / "dialogues.jsonl.gz", gzip.compress(talks(3).encode()))
    write(tmp_path / "b" / "dialogues.json", json.dumps([TALK]))
    write(tmp_path / "b" / "onboarding.jsonl", talks(2))
    tenants, _ = read_tenants(tmp_path)
    assert [(t.key, len(t.onboarding)) for t in tenants] == [("a", 3), ("b", 3)]


BAD = {
    "no JSON": b"{oh",
    "no JSON object": b"[1, 2]",
    "no UTF-8": "café".encode("latin-1"),
    "nested too deeply": b"[" * 100_000,
    "half of a character": b'{"question": "\\ud83d", "answer": "A"}',
    "lacks a conversation": b'{"text": "?"}',
    "the completion is empty": b'{"question": "Q", "answer": " "}',
    "a text is expected": b'{"question": "Q", "answer": 7}',
    "says the same": talks(1).strip().encode(),
}


@pytest.mark.parametrize("what", BAD)
def test_a_row_that_cannot_be_read_is_counted_with_its_place(tmp_path, what):
    write(
        tmp_path / "a" / "dialogues.jsonl",
        talks(2).encode() + BAD[what] + b"\n" + rows(TALK).encode(),
    )
    (tenant,), skipped = read_tenants(tmp_path)
    assert len(tenant.onboarding) == 3
    (line,) = skipped.lines()
    assert line.startswith("1 ") and what in line and "a/dialogues.jsonl:3" in line


def test_files_that_are_something_else(tmp_path):
    (tmp_path / "a" / "guide.md").mkdir(parents=True)
    (tmp_path / "a" / "preferences.jsonl").mkdir()
    write(tmp_path / "a" / "thumbs.jsonl.gz", b"not packed")
    write(tmp_path / "a" / "dialogues.jsonl", rows(TALK))
    write(tmp_path / "a" / "dialogue.jsonl", rows(TALK))
    write(tmp_path / "a" / "notes.txt", "?")
    write(tmp_path / "a" / "heldout.jsonl", talks(2).encode("utf-16"))
    (tenant,), skipped = read_tenants(tmp_path)
    assert len(tenant.onboarding) == 1 and not tenant.guide
    said = "\n".join(skipped.lines())
    assert "UTF-16: save it as UTF-8) (first: a/heldout.jsonl)" in said
    assert "2 a folder with a file's name" in said and "a file that cannot be read" in said
    assert "did you mean dialogues.jsonl? (first: a/dialogue.jsonl)" in said
    assert "no part of a tenant's folder (first: a/notes.txt)" in said


def test_an_object_beside_the_files_adds_to_them(tmp_path):
    write(tmp_path / "a" / "dialogues.jsonl", talks(1))
    write(tmp_path / "a" / "thumbs.jsonl", rows(TALK | {"liked": True}))
    told = {"dialogues": [TALK], "thumbs": {"no": "list"}, "guide": "Be kind.", "never": ["sir"]}
    write(tmp_path / "a" / "tenant.json", json.dumps(told))
    (tenant,), skipped = read_tenants(tmp_path)
    assert [d.answer for d in tenant.onboarding] == ["It is 0.", TALK["answer"]]
    assert len(tenant.thumbs) == 1 and (tenant.guide, tenant.never) == ("Be kind.", ("sir",))
    assert skipped.lines() == ["1 thumbs: a list is expected (first: a/tenant.json)"]


def test_names_and_files_that_no_text_can_hold(tmp_path):
    write(tmp_path / "good" / "guide.md", "Be kind.")
    os.mkfifo(tmp_path / "good" / "pages.jsonl")  # would be waited for without end
    (tmp_path / "good" / "never.txt").symlink_to(tmp_path / "nowhere")
    bad = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    os.mkdir(bad)
    write(Path(bad) / "guide.md", "Be kind.")
    (tenant,), skipped = read_tenants(tmp_path)
    assert tenant.key == "good"
    said = "\n".join(skipped.lines())
    assert (
        said.encode()
        and "2 neither a file nor a folder" in said
        and "half a surrogate pair" in said
    )
    with pytest.raises(TenantError, match="never: a text or a list of words"):
        read_tenants({"key": "a", "guide": "Be kind.", "never": [1]})


def test_what_is_measured_on_is_not_learned_from(tmp_path):
    write(tmp_path / "a" / "dialogues.jsonl", talks(3))
    write(tmp_path / "a" / "heldout.jsonl", talks(2) + rows(TALK))
    (tenant,), skipped = read_tenants(tmp_path)
    assert [d.answer for d in tenant.heldout] == [TALK["answer"]]
    assert skipped.lines()[0].startswith("2 held-out dialogue that is learned from")


def test_a_file_of_tenants_and_an_object(tmp_path):
    line = {
        "key": "a",
        "guide": ["Be kind.", "Be short."],
        "dialogues": [TALK, 3],
        "never": ["sir"],
    }
    path = write(
        tmp_path / "t.jsonl", rows(line, {"name": "B", "guide": "Loud!"}, {"guide": "Whose?"}, 7)
    )
    tenants, skipped = read_tenants(path)
    assert [(t.key, t.name) for t in tenants] == [("a", "a"), ("B", "B")]
    assert tenants[0].guide == "Be kind.\nBe short." and tenants[0].never == ("sir",)
    said = "\n".join(skipped.lines())
    assert "no JSON object (first: t.jsonl:1 dialogues[1])" in said
    assert "without a key or a name (first: t.jsonl:3)" in said
    assert read_tenants(line)[0] == tenants[:1]


def test_sources_add_up_and_no_key_comes_twice(tmp_path, small_world):
    write(tmp_path / "one" / "guide.md", "Be kind.")
    tenants, _ = read_tenants([tmp_path, "world:kestrel_travel", Tenant("mine")])
    assert [t.key for t in tenants] == ["one", "kestrel_travel", "mine"]
    assert [t.key for t in choose_tenants(tenants, ["mine", "one"])] == ["mine", "one"]
    with pytest.raises(TenantError, match="two tenants are called 'one'"):
        read_tenants([tmp_path, tmp_path / "one"])
    with pytest.raises(TenantError, match="no tenant 'On'; did you mean 'one'"):
        choose_tenants(tenants, ["On"])


@pytest.fixture
def small_world(monkeypatch):
    """The generated part of the sample world, ten tenants large where nobody says how large."""
    whole = world_tenants.generate
    monkeypatch.setattr(world_tenants, "generate", lambda n=10: whole(n=n))
    return world_tenants.generate


def test_the_sample_world_by_name(small_world):
    generate = small_world
    world = [*generate(), *read_businesses()]
    assert read_tenants("world")[0] == world
    assert read_tenants("world:train")[0] == [t for t in world if not t.held_out]
    assert read_tenants("world:held")[0] == [t for t in world if t.held_out]
    assert read_tenants("world:train:10")[0] == [t for t in generate() if not t.held_out]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ((), "no tenants are given"),
        ("", "name of a source of tenants is empty"),
        ("kestrel_travel", "did you mean world:kestrel_travel"),
        ("world:kestrel", "did you mean 'kestrel_travel'"),
        ("world:held:0", "no number of tenants"),
        ("world:held:2", "no tenants of this part"),
        ({"guide": "whose?"}, "without a key or a name"),
    ],
)
def test_a_source_that_is_nobody_is_named(source, said, small_world):
    with pytest.raises(TenantError, match=said):
        read_tenants(source)


def test_a_folder_of_nobody_says_what_was_looked_for(tmp_path):
    with pytest.raises(
        TenantError, match=r"it is empty\. Looked for folders with any of guide\.md"
    ):
        read_tenants(tmp_path)
    write(tmp_path / "a" / "guides.md", "Be kind.")
    with pytest.raises(TenantError, match=r"did you mean guide\.md for guides"):
        read_tenants(tmp_path)
    write(tmp_path / "list.csv", "a,b")
    with pytest.raises(TenantError, match=r"not \.csv"):
        read_tenants(tmp_path / "list.csv")


def test_a_tenant_needs_a_key_alone():
    assert Tenant("a").name == "a" and Tenant("a").feedback == ()
    with pytest.raises(ValueError, match="needs a key"):
        Tenant(" ")
