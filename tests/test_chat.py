"""The chat as it is used: piped, by command, at a pseudo-terminal; what is away or broken is one line each time."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from chat_server import serving

pytest.importorskip("openai")

from jaxrec.chat.keeping import Kept
from jaxrec.chat.lines import answer_lines
from jaxrec.chat.opening import open_session
from jaxrec.chat.orders import HELP, OrderError, follow, is_order
from jaxrec.chat.settings import ChatConfig
from jaxrec.config import ConfigError, RunError
from jaxrec.dialogue.state import DialogueState, StateError

ROOT = Path(__file__).resolve().parent.parent
quiet = lambda line: None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tenant's folder as somebody keeps it, and documents beside it."""
    at = tmp_path_factory.mktemp("chat")
    mill = at / "mill"
    (mill / "pages").mkdir(parents=True)
    (mill / "guide.md").write_text("We are brief. We greet with Hello.")
    (mill / "pages" / "hours.md").write_text(
        "# Hours\n\nThe mill opens at 8 and shuts at 17 on weekdays."
    )
    (mill / "never.txt").write_text("splendid\n")
    said = [
        {"question": f"Do you sell flour {i}?", "answer": f"Hello! Yes, {i}."} for i in range(3)
    ]
    (mill / "dialogues.jsonl").write_text("\n".join(map(json.dumps, said)))
    (at / "docs").mkdir()
    (at / "docs" / "parcels.md").write_text(
        "# Parcels\n\nParcels to Norway go by sea and take 10 days."
    )
    return at


def settings(folder, url, **more):
    known = {"tenant": str(folder / "mill"), "endpoint": url, "encoder": "words", "new": 20}
    return ChatConfig(**known | more)


def piped(session, *lines):
    out: list[str] = []
    raw = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    count = answer_lines(session, io.BytesIO(raw + b"\n"), out.append)
    return count, [json.loads(line) for line in out]


def test_lines_in_json_out(folder, capsys):
    with serving("We open at 8 [1].") as server:
        session = open_session(settings(folder, server.url, documents=str(folder / "docs")), quiet)
        assert "2 documents" in " ".join(session.notes)
        count, rows = piped(
            session,
            "When does the mill open?",
            "",
            "/sources",
            '{"message": "How long do parcels to Norway take?"}',
            '{"text": 3}',
            b"caf\xe9 opens when?",
            "/nope",
            "x " * 500_000,
            "/etc/hosts is what?",
        )
        sent = server.asked
    assert count == 5 and len(rows) == 8
    first = rows[0]
    assert (
        first["reply"] == "We open at 8 [1]."
        and first["action"] == "pass"
        and first["cited"] == [0]
    )
    assert first["sources"][0]["document"] == "hours" and first["seconds"]["retrieve"] >= 0
    assert rows[1]["text"].startswith("[1] Hours (hours, ") and "<- cited" in rows[1]["text"]
    assert (
        rows[2]["sources"][0]["document"] == "parcels.md"
        and "10 days" in rows[2]["sources"][0]["text"]
    )
    assert 'has a "message"' in rows[3]["error"] and "\ufffd" in rows[4]["message"]
    assert "did you mean" in rows[5]["error"] or "there are" in rows[5]["error"]
    assert "the budget is" in rows[6]["error"] and len(rows[6]["message"]) < 600
    assert "reply" in rows[7]  # no command
    system = sent[0]["messages"][0]["content"]
    assert "Write as this guide says: We are brief." in system and "The mill opens at 8" in system
    assert [m["role"] for m in sent[0]["messages"]] == [
        "system",
        *["user", "assistant"] * 2,
        "user",
    ]
    assert "note: " in capsys.readouterr().err


def test_what_can_be_asked_about_an_answer(folder, tmp_path):
    keep = str(tmp_path / "kept")
    with serving("A splendid day. We open at 8.") as server:
        session = open_session(settings(folder, server.url, keep=keep, user="Ada"), quiet)
        with pytest.raises(OrderError, match="nothing was answered yet"):
            follow(session, "/why")
        assert session.say("When does it open?").text == "We open at 8."
        why = follow(session, "/why")
        assert why.startswith("micro_edit: style") and "the model wrote: A splendid" in why
        assert "head" in why and "tokens (guessed)" in why and "example: Do you sell" in why
        assert "thumbs.jsonl" in follow(session, "/dislike")
        with pytest.raises(OrderError, match="no places"):
            follow(session, "/like 2")
        with pytest.raises(OrderError, match="stands alone"):
            follow(session, "/why me")
        profile = follow(session, "/profile")
        assert (
            "1 pages, 3 dialogues" in profile
            and "you: Ada; 2 turns" in profile
            and "0 up, 1 down" in profile
        )
        assert set(follow(session, "/help").split()) > set(HELP)
        # Another start goes on; forgetting leaves no trace.
        again = open_session(settings(folder, server.url, keep=keep, user="Ada"), quiet)
        assert "goes on after 2 turns" in again.notes and again.state == session.state
        row = json.loads((tmp_path / "kept" / "thumbs.jsonl").read_text())
        assert row == {"question": "When does it open?", "answer": "We open at 8.", "liked": False}
        with pytest.raises(StateError, match="of Ada with mill, not that of Bob"):
            open_session(settings(folder, server.url, keep=keep, user="Bob"), quiet)
        assert "2 turns are forgotten; removed" in follow(again, "/forget")
    assert not list((tmp_path / "kept").iterdir()) and again.state.count == 0


def test_a_damaged_conversation_is_never_replaced_by_a_fresh_one(tmp_path):
    kept = Kept(str(tmp_path), "mill")
    kept.put(DialogueState("mill"))
    whole = (tmp_path / "state.json").read_text()
    (tmp_path / "state.json").write_text(whole[:20])
    with pytest.raises(StateError, match=r"state.json: .* damaged"):
        kept.state()
    assert kept.forget() and kept.state() == DialogueState("mill")


def test_a_private_chat_shows_the_model_placeholders(folder, monkeypatch):
    from jaxrec.privacy import filter as filters

    class Stub:
        def load(self):
            return self

        def conversation(self, tenant, owner):
            assert (tenant, owner) == ("mill", "Ada")
            return self

        def mask(self, text):
            return text.replace("Jane Roe", "[NAME_1_0a0b0c0d]")

        def unmask(self, text, reader):
            return text.replace("[NAME_1_0a0b0c0d]", "Jane Roe")

    monkeypatch.setattr(filters, "PrivacyFilter", Stub)
    with serving("Hello [NAME_1_0a0b0c0d], we open at 8.") as server:
        session = open_session(settings(folder, server.url, private=True, user="Ada"), quiet)
        told = []
        said = session.say("I am Jane Roe. When does the mill open?", told.append)
        assert said.text == "".join(told) == "Hello Jane Roe, we open at 8."
        assert "Jane" not in json.dumps(server.asked) and "Jane" not in session.state.to_json()
    with pytest.raises(ConfigError, match="leave out --keep"):
        open_session(settings(folder, "http://x", private=True, keep="x"), quiet)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"tenant": "mil", "tenants": "ROOT"}, "no tenant 'mil'; did you mean 'mill'"),
        ({"tenant": "ROOT"}, "holds nobody|holds 1|mill"),
        ({"tenant": "away"}, "there is no file or folder away"),
        ({"tenant": "world:nobody:5"}, "the sample world has no tenant"),
        ({"tenant": "world::5"}, "name one, as in --tenants world::5"),
        ({"documents": "away"}, "there is no folder away"),
        ({"endpoint": "", "model": "runs/away"}, "runs/away"),
        ({"endpoint": "http://127.0.0.1:9/v1"}, "nobody answers at http://127.0.0.1:9/v1"),
        ({"strategy": "fewshot"}, "one of zero_shot"),
        ({"role": "sals"}, "did you mean 'sales'"),
        ({"shop": "away.csv", "tenant": ""}, "away.csv"),
    ],
)
def test_what_is_not_there_is_one_line(folder, more, says, monkeypatch):
    monkeypatch.chdir(folder)
    more = {name: str(folder) if value == "ROOT" else value for name, value in more.items()}
    with serving("x") as server:
        cfg = settings(folder, server.url, **more)
        if more.get("tenant") == str(folder):
            assert open_session(cfg, quiet).tenant.key == "mill"  # a folder of one tenant
            return
        with pytest.raises(RunError, match=says) as caught:
            open_session(cfg, quiet)
    assert "\n" not in str(caught.value)


def test_an_endpoint_that_goes_away_costs_one_answer(folder):
    with serving("We open at 8.") as server:
        session = open_session(settings(folder, server.url), quiet)
        session.pipeline.completion._client.max_retries = 0
        piped(session, "When does the mill open?")
        before = session.state
    with pytest.raises(RunError, match="none of 1 lines could be answered: nobody answers"):
        piped(session, "And on Sunday?")
    count, rows = piped(session, "And on Sunday?", "/profile")
    assert count == 1 and "nobody answers" in rows[0]["error"] and session.state == before


def test_commands_are_words():
    assert (
        is_order(" /why ")
        and is_order("/like 2")
        and not is_order("/etc/hosts")
        and not is_order("/ 2")
    )


def test_nobody_to_talk_to_is_said():
    from jaxrec.chat.__main__ import main

    for cfg in (ChatConfig(), ChatConfig(tenant="a", shop="b")):
        with pytest.raises(ConfigError, match="say with whom"):
            main(cfg)


# ------------------------------------------------------------------------------------------ a shop

KINDS = {
    "coffee": ("Coffee mug", "Arabica beans", "Hand mill"),
    "garden": ("Green can", "Dill seeds", "Shears"),
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """People who each like one kind; titles with prices."""
    at = tmp_path_factory.mktemp("shop")
    items = [
        (f"{kind[0]}{i}", name, kind, 5 * i + 4)
        for kind, names in KINDS.items()
        for i, name in enumerate(names)
    ]
    rows = [
        (f"C{person}", items[3 * (person % 2) + i][0], f"2024-03-{person + 1:02d}")
        for person in range(20)
        for i in {person % 3, (person + 1) % 3}
    ]
    for name, head, content in (
        ("orders.csv", ["customer", "product", "when"], rows),
        ("titles.csv", ["product", "title", "category", "price"], items),
    ):
        with (at / name).open("w", newline="") as file:
            csv.writer(file).writerows([head, *content])
    return at


@pytest.fixture(scope="module")
def opened(shop, tmp_path_factory):
    cfg = ChatConfig(
        shop=str(shop / "orders.csv"),
        items=str(shop / "titles.csv"),
        user="C0",
        encoder="words",
        k=2,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield open_session(cfg, quiet)


def test_a_thumb_changes_the_next_list_at_once(opened):
    with pytest.raises(OrderError, match="no list yet"):
        follow(opened, "/like")
    first = opened.say("something for the kitchen").told["items"]
    assert first and opened.found[0].item == first[0]["item"]
    taken = {event.item for one in opened.found for event in one.evidence}
    assert not taken or "you took" in follow(opened, "/sources")
    if len(opened.found) > 1:
        with pytest.raises(OrderError, match="which of the"):
            follow(opened, "/dislike")
    gone = opened.found[0].item
    assert "disliked" in follow(opened, "/dislike 1")
    opened.say("show me more")
    assert gone not in [one.item for one in opened.found]
    assert "disliked: " in follow(opened, "/profile") and "2 events" in follow(opened, "/profile")
    with pytest.raises(OrderError, match="places 1 to"):
        follow(opened, "/like 9")
    follow(opened, "/like 1")
    taken = opened._taken()
    opened.say("show me more")
    assert taken and not taken & {one.item for one in opened.found}
    why = follow(opened, "/why")
    assert why.startswith("recommend") and "ms" in why
    assert "turns are forgotten" in follow(opened, "/forget") and "disliked" not in follow(
        opened, "/profile"
    )


def test_bounds_and_words_are_obeyed(opened):
    made = opened.say("coffee or garden things under 10").told
    prices = {item["title"]: item for item in made["items"]}
    assert (
        made["action"] in ("list", "ask") and "Shears" not in prices and "Hand mill" not in prices
    )
    follow(opened, "/forget")
    made = opened.say("coffee things without beans").told
    assert all("beans" not in item["title"] for item in made["items"])
    follow(opened, "/forget")
    assert opened.say("hello").told["action"] == "greet"


# ------------------------------------------------------------------------------------------ a process


@pytest.mark.slow
def test_at_a_terminal_one_talks_and_asks_why(folder):
    """By a pseudo-terminal: a question, a command, a mistake, Ctrl-D."""
    import os
    import pty
    import select
    import time

    with serving("We open at 8 [1].") as server:
        words = [
            sys.executable,
            "-m",
            "jaxrec.chat",
            "--tenant",
            str(folder / "mill"),
            "--endpoint",
            server.url,
            "--encoder",
            "words",
        ]
        main, side = pty.openpty()
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            stdin=side,
            stdout=side,
            stderr=side,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        )
        os.close(side)
        heard = b""

        def until(mark: bytes, limit: float = 120) -> None:
            nonlocal heard
            end, begun = time.monotonic() + limit, len(heard)
            while mark not in heard[begun:]:
                assert time.monotonic() < end, heard
                if select.select([main], [], [], 1)[0]:
                    heard += os.read(main, 65536)

        until(b"Ctrl-D ends")
        os.write(main, b"When does the mill open?\r")
        until(b"from [1] Hours")
        os.write(main, b"/whi\r")
        until(b"did you mean /why")
        os.write(main, b"/why\r")
        until(b"pass: no label")
        os.write(main, b"\x04")
        assert process.wait(60) == 0
        os.close(main)
    assert b"We open at 8 [1]." in heard


@pytest.mark.slow
def test_piped_into_the_command(folder):
    with serving("We open at 8.") as server:
        words = [
            sys.executable,
            "-m",
            "jaxrec",
            "chat",
            "--tenant",
            str(folder / "mill"),
            "--encoder",
            "words",
        ]
        asked = b"When does the mill open?\n"
        done = subprocess.run(
            [*words, "--endpoint", server.url], cwd=ROOT, input=asked, capture_output=True
        )
        assert done.returncode == 0 and json.loads(done.stdout)["reply"] == "We open at 8."
    done = subprocess.run(
        [*words, "--endpoint", server.url], cwd=ROOT, input=asked, capture_output=True
    )
    assert (
        done.returncode == 1 and done.stderr.count(b"\n") == 1 and b"nobody answers" in done.stderr
    )


@pytest.mark.slow
def test_a_personal_model_speaks_in_the_tenants_own_voice(tmp_path):
    import tiny_assistant

    tiny_assistant.make(tmp_path)
    cfg = ChatConfig(tenant="trained", model=str(tmp_path), new=6, encoder="words")
    session = open_session(cfg, quiet)
    told: list[str] = []
    said = session.say("is it red?", told.append)
    assert said.told["tokens"]["prompt"] > 0 and "".join(told).strip() == said.text
    assert session.last.prompt.messages == (("user", "is it red?"),)  # it was trained without pages
    whole = session.pipeline.completion.assistant.answer("is it red?", "trained")
    assert session.last.written.strip() == whole
    assert any("strategy bare" in note for note in session.notes)
    for wrong, says in (
        ({"tenant": "Traind"}, "did you mean 'trained'"),
        ({"strategy": "cot"}, "asked as it was trained"),
    ):
        with pytest.raises(RunError, match=says):
            open_session(
                ChatConfig(
                    **{"tenant": "trained", "model": str(tmp_path), "encoder": "words"} | wrong
                ),
                quiet,
            )
