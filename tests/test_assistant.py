"""The assistant on a model of toy size: tenants onboarded in every way, asked, saved and found; and its command."""

import dataclasses
import io
import json
import shutil

import jax
import numpy as np
import pytest
import tiny_assistant
from tiny_assistant import TALKS

import jaxrec.answer as command
from jaxrec import config, mesh
from jaxrec.assistant import Assistant
from jaxrec.assistant import assistant as library
from jaxrec.config import RunError
from jaxrec.data.tenant import Turn
from jaxrec.delta import DeltaConfig, materialise
from jaxrec.models.personal.profile_folder import find_personal
from jaxrec.training.optimizer import OptConfig

SHOP = {"key": "shop", "guide": "Say aye. Be short.", "dialogues": TALKS}
JUDGED = {
    "key": "judged",
    "thumbs": [
        {"question": "is it red?", "answer": "aye!", "liked": True},
        {"question": "is it red?", "answer": "no, it is blue.", "liked": False},
    ],
}
GUIDE = {"key": "guide", "guide": "Be short."}


@pytest.fixture(scope="module")
def one_device():
    return mesh.make(mesh.MeshConfig(), jax.devices()[:1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A personal model of random weights, as a universal stage's OUT."""
    at = tmp_path_factory.mktemp("universal")
    tiny_assistant.make(at)
    return at


@pytest.fixture(scope="module")
def assistant(folder, one_device):
    return Assistant.load(folder, devices=one_device, rows=2, limit=6)


@pytest.fixture(scope="module")
def saved(assistant, tmp_path_factory):
    """Everybody onboarded, each in another way, and where they were saved."""
    few = {"steps": 2, "question": 24, "answer": 24, "piece": 16}
    assert assistant.onboard([SHOP, GUIDE], **{k: few[k] for k in ("piece",)}) == ["shop", "guide"]
    inferred = assistant.voice("shop").p_E
    assert assistant.onboard([SHOP | {"key": "fitted"}, JUDGED], "gradient", **few) == [
        "fitted",
        "judged",
    ]
    assistant.onboard(
        SHOP | {"key": "own"}, "lora", own_delta=DeltaConfig(lora_rank=2, lora_sites="q"), **few
    )
    fitted = assistant.voice("fitted").p_E
    np.testing.assert_allclose(assistant.voice("own").p_E, inferred, atol=1e-5)
    assert np.abs(fitted - inferred).max() > 1e-3  # one started where the other stayed
    at = tmp_path_factory.mktemp("mine")
    assistant.save(at)
    return at


def test_whoever_was_onboarded_is_found_again_and_says_the_same(
    assistant, saved, folder, one_device
):
    again = Assistant.load(saved, devices=one_device, rows=2, limit=6)
    assert again.onboarded == ("shop", "guide", "fitted", "judged", "own")
    assert again.tenants == assistant.tenants == (*again.onboarded, "trained")
    questions = ["is it red?", "is it blue?", "is it old?"]
    for whose in ("fitted", ["shop", "own", "judged"], None, "trained"):
        assert again.answers(questions, whose) == assistant.answers(questions, whose)
    beside = Assistant.load(folder, profile=saved, devices=one_device)
    np.testing.assert_array_equal(beside.voice("own").p_E, assistant.voice("own").p_E)
    assert beside.voice("own").delta is not None


@pytest.mark.slow
def test_a_delta_of_ones_own_may_begin_as_what_p_makes(assistant):
    """Fitted at a rate of 0 it is A(p) of the inferred p, in A(p)'s layout; at another it has moved."""
    few = {"steps": 1, "question": 24, "answer": 24, "piece": 16, "from_p": True}
    made = {}
    for key, rate in (("still", 0.0), ("moved", 0.01)):
        assistant.onboard([SHOP | {"key": key}], "lora", opt=OptConfig(lr=rate), **few)
        made[key] = assistant.voice(key)
    lm, params = assistant.model.lm, assistant.model.params
    wanted = jax.jit(lambda p: materialise(lm.personal(params, p[None])))(made["still"].p_E)
    assert made["still"].spec == lm.spec
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), made["still"].delta, wanted
    )
    away = jax.tree.map(lambda a, b: np.abs(a - b).max(), made["moved"].delta, wanted)
    assert max(jax.tree.leaves(away)) > 1e-3
    with pytest.raises(RunError, match="it goes with --by lora"):
        assistant.onboard([SHOP], "gradient", **few)


def test_a_stream_is_the_answer_in_pieces(assistant, saved):
    for whose in ("fitted", "own", None):
        pieces = list(assistant.stream("is it red?", whose))
        assert "".join(pieces).strip() == assistant.answer("is it red?", whose)


def test_a_conversation_in_every_form_is_the_same_conversation(assistant, saved):
    told = [("customer", "is it red?"), ("assistant", "aye."), ("customer", "and blue?")]
    forms = [
        told,
        [{"role": "user" if r == "customer" else r, "content": said} for r, said in told],
        [Turn(role, said) for role, said in told],
    ]
    assert len({assistant.answer(form, "fitted") for form in forms}) == 1
    assert len({tuple(library.as_turns(form)) for form in forms}) == 1


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda a: a.answer(" ", None), "the question is empty"),
        (lambda a: a.answer([], None), "the question is empty"),
        (lambda a: a.answer("half \ud83d", None), "surrogate"),
        (lambda a: a.answer([{"role": "user"}], None), "a turn of a conversation is"),
        (lambda a: a.answer("is it red?", "Traind"), "no tenant 'Traind'; did you mean 'trained'"),
        (lambda a: a.onboard(GUIDE, "gradient"), "guide has neither dialogues nor thumbs"),
        (lambda a: a.onboard(JUDGED, "lora"), "judged has no dialogue to learn from"),
        (
            lambda a: a.onboard(SHOP | {"guide": ""}, examples=0),
            "neither guide, dialogues nor thumbs",
        ),
        (lambda a: Assistant(a.model, a.devices).save("x"), "nobody was onboarded"),
    ],
)
def test_what_cannot_be_is_said_in_words(assistant, ask, said):
    with pytest.raises(RunError, match=said):
        ask(assistant)


def test_a_folder_that_is_something_else(folder, tmp_path):
    for place, said in (
        (tmp_path / "none", "no such folder"),
        (tmp_path, "and no profile/ or model/ as a run writes them: it holds nothing"),
        (folder / "backbone", "it is a language model"),
    ):
        with pytest.raises(RunError, match=said):
            find_personal(place)


# ---------------------------------------------------------------------------------------------- the command


@pytest.fixture
def run(saved, monkeypatch, capsys, one_device):
    """Runs the command on what stands in standard input: (lines of output, what is said beside them, status)."""
    monkeypatch.setattr(mesh, "make", lambda *_: one_device)

    def run(stdin: bytes, *flags: str):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        argv = ["--model", str(saved), "--limit", "6", "--rows", "2", *flags]
        status = 0
        try:
            config.run(command.main, command.AnswerConfig, argv=argv)
        except SystemExit as stop:
            status = stop.code
        told = capsys.readouterr()
        return told.out.splitlines(), told.err, status

    return run


def test_questions_come_as_lines_and_as_json(run, assistant):
    stdin = b"\xef\xbb\xbfis it red?\r\n\n" + b"\n".join(
        json.dumps(row).encode()
        for row in (
            {"question": "is it old?", "id": 7},
            {"messages": [{"role": "user", "content": "is it blue?"}], "tenant": "own"},
            {"text": "?"},
        )
    )
    out, err, status = run(stdin, "--tenant", "fitted", "--json")
    rows = [json.loads(line) for line in out]
    assert status == 0 and "line 5: JSON without a question" in err
    assert [row["tenant"] for row in rows] == ["fitted", "fitted", "own"] and rows[1]["id"] == 7
    wanted = assistant.answers(
        ["is it red?", "is it old?", "is it blue?"], ["fitted", "fitted", "own"]
    )
    assert [row["answer"] for row in rows] == wanted
    plain, _, _ = run(b"is it red?", "--tenant", "fitted")
    assert plain == [" ".join(wanted[0].split())]


def test_a_model_trained_with_pages_is_given_the_name_and_a_found_page(
    folder, tmp_path, one_device
):
    """Onboarding keeps what pages are found by; an answer names its page; one's own system turn stays."""
    shutil.copytree(folder, tmp_path / "u")
    facts = tmp_path / "u" / "model" / "facts.json"
    told = json.loads(facts.read_text()) | {"pages": {"which": "right", "length": 30}}
    facts.write_text(json.dumps(told))
    assistant = Assistant.load(tmp_path / "u", devices=one_device, rows=2, limit=6)
    pages = [{"id": "red", "text": "It is red."}, {"id": "old", "text": "It is old."}]
    shop = SHOP | {"name": "Old Shop", "pages": pages}
    assistant.onboard([shop, GUIDE], piece=16)
    assistant.save(tmp_path / "saved")
    again = Assistant.load(tmp_path / "saved", devices=one_device, rows=2, limit=6)
    read = again.ground("is it red?", "shop")
    assert read == assistant.ground("is it red?", "shop") and read.pages == ("red",)
    assert read.turns[0].text == "You write for Old Shop. Answer from this page: It is red."
    assert again.ground("zebra", "shop").turns[0].text == "You write for Old Shop."
    assert again.ground("is it red?", None).turns == (Turn("user", "is it red?"),)
    own = [Turn("system", "Say no."), Turn("user", "is it red?")]
    assert again.ground(own, "shop").turns == tuple(own)
    asked = tuple(command.Request(text, "", {}) for text in ("is it old?", "zebra"))
    told = command._answered(command.AnswerConfig(), (again, "shop"), command.Batch(asked, (), 0))
    assert told["rows"][0]["pages"] == ["old"] and "pages" not in told["rows"][1]
    by_hand = [again.ground(one.question, "shop").turns for one in asked]
    assert [row["answer"] for row in told["rows"]] == again.answers(by_hand, "shop")


def test_a_file_of_answers_goes_on_where_it_was_stopped(run, tmp_path, monkeypatch):
    stdin = b"\n".join(b"is it %d?" % i for i in range(5))
    flags = ("--tenant", "fitted", "--out", str(tmp_path / "answers.jsonl"))
    plain, _, _ = run(stdin, "--tenant", "fitted", "--json")
    answered, asked = command._answered, []

    def stopped(cfg, loaded, batch):
        if batch.first == 4:
            raise KeyboardInterrupt
        return answered(cfg, loaded, batch)

    monkeypatch.setattr(command, "_answered", stopped)
    assert run(stdin, *flags)[2] == 130
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl.parts"]
    _, err, status = run(stdin + b"?", *flags)
    assert status == 1 and "holds shards of another job" in err
    monkeypatch.setattr(command, "_answered", lambda *a: asked.append(a[2].first) or answered(*a))
    out, err, status = run(stdin, *flags)
    assert (out, status, asked) == ([], 0, [4]) and "answers.jsonl: 5 answers" in err
    assert (tmp_path / "answers.jsonl").read_text().splitlines() == plain
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]


@pytest.mark.parametrize(
    ("stdin", "flags", "said"),
    [
        (b" \n\n", ("--tenant", "shop"), "error: there is no question in standard input"),
        (b"{}\n", ("--tenant", "shop"), "no question in standard input; 1 left out"),
        (b"?", ("--tenant", "shpo"), "did you mean 'shop'?"),
        (b"?", (), "say who answers with --tenant; there are: shop, guide"),
        (b"?", ("--tenant", "shop", "--questions", "none.txt"), "no file of questions none.txt"),
    ],
)
def test_a_mistake_is_one_line(run, stdin, flags, said):
    out, err, status = run(stdin, *flags)
    assert out == [] and status == 1 and said in err.splitlines()[-1], err


def test_no_more_is_read_than_the_backbone_can(assistant):
    lm = assistant.model.lm
    short = dataclasses.replace(lm.backbone.cfg, max_positions=20, cuts=(1,))
    inside = dataclasses.replace(
        lm,
        backbone=lm.backbone.clone(cfg=short),
        cfg=dataclasses.replace(lm.cfg, person="backbone"),
    )
    for limit, read in ((8, 11), (30, None)):
        model = dataclasses.replace(assistant.model, lm=inside)
        other = Assistant(model, assistant.devices, limit=limit)
        if read is None:
            with pytest.raises(
                RunError, match="the backbone reads 20 tokens: set a limit below 30"
            ):
                other.answer("is it red?", None)
        else:
            assert [len(row.ids) for row in other._asked(["is it red? " * 40], [None])[0]] == [read]
