"""What is private is masked before a model reads it, restored for its owner alone, and found without a network."""

import json
import random
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jaxrec.config import RunError
from jaxrec.eval.privacy import (
    PrivacyEvalConfig,
    awkward,
    found_rows,
    main,
    random_round_trips,
    random_spans,
)
from jaxrec.eval.privacy_texts import Planted, planted
from jaxrec.hub.published import folder_of
from jaxrec.privacy import documents
from jaxrec.privacy.filter import PrivacyConfig, PrivacyFilter
from jaxrec.privacy.masking import LONGEST, PLACEHOLDER, Conversation, tenant_key
from jaxrec.privacy.names import PACKAGES, names_finder
from jaxrec.privacy.spans import OVERLAP, WINDOW, PrivacyError, Span, merged, over_windows


def finds(*words: str, kind: str = "NAME"):
    """A finder that knows these words."""
    return lambda text: [
        Span(*m.span(), kind) for word in words for m in re.finditer(re.escape(word), text)
    ]


KNOWN = finds("Maria", "Anna")


def talk(find=KNOWN, **more) -> Conversation:
    return Conversation(find, **{"tenant": "shop", "owner": "maria", "key": b"k"} | more)


# ---------------------------------------------------------------------------------------------- masking


def test_whatever_is_masked_comes_back_for_its_owner_and_for_nobody_else():
    got = random_round_trips(2_000, seed=1)
    assert got["masked"] > 1_500 and (got["not restored"], got["told to others"]) == (0, 0)


def test_a_masked_text_holds_no_placeholder_but_those_that_mask_made():
    draw = random.Random(0)
    for _ in range(300):
        c = talk(lambda text: random_spans(draw, text))
        text = awkward(draw)
        assert set(PLACEHOLDER.findall(c.mask(text))) <= set(c.as_dict()["behind"])


def test_equal_words_are_one_placeholder_in_a_conversation_and_others_elsewhere():
    c = talk()
    first, again = c.mask("Maria and Anna"), c.mask("Anna, not Maria")
    assert PLACEHOLDER.findall(first) == PLACEHOLDER.findall(again)[::-1]
    assert "Maria" not in first and c.counts == {"NAME": 2}
    elsewhere = [
        talk(key=tenant_key(b"s", "a")), talk(key=tenant_key(b"s", "b")), talk(tenant="b"), talk(name="2"),
    ]  # fmt: skip
    assert len({other.mask("Maria") for other in [c, *elsewhere]}) == 5
    # a placeholder of another conversation is a text like any other
    assert elsewhere[0].unmask(first, "maria") == first


def test_words_of_others_are_not_told():
    c = talk()
    passage = c.mask("Anna called", owner="anna")
    own = c.mask("Anna?")
    assert passage.split()[0] != own[:-1]
    assert c.unmask(f"{passage}; {own}", "maria") == f"{passage}; Anna?"
    assert c.unmask(passage, "anna") == "Anna called"


def test_a_name_that_the_tagger_misses_the_second_time_is_masked_all_the_same():
    seen = iter([finds("Maria"), finds()])
    c = talk(lambda text: next(seen)(text))
    c.mask("I am Maria")
    assert "Maria" not in c.mask("so Maria it is") and c.mask.__self__.counts == {"NAME": 1}


def test_a_stored_conversation_goes_on():
    c = talk()
    masked = c.mask("Maria [NAME_1_00000000]")
    held = json.loads(json.dumps(c.as_dict()))
    again = Conversation.from_dict(finds("Maria"), b"k", held)
    assert (
        again.unmask(masked, "maria") == "Maria [NAME_1_00000000]" and again.mask("Maria") in masked
    )
    for wrong in ({}, {**held, "behind": {"x": {}}}, {**held, "behind": {"[A": 1}}):
        with pytest.raises(PrivacyError, match="no stored conversation"):
            Conversation.from_dict(finds(), b"k", wrong)


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_pieces_of_an_answer_are_unmasked_as_they_come(size):
    c = talk()
    text = c.mask("Dear Maria [see] [NAME_ Anna") + " [" + "x" * 40 + "[NAME_9"
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    told = list(c.unmask_stream(pieces, "maria"))
    assert "".join(told) == c.unmask(text, "maria") and "Maria" in "".join(told)
    # nothing waits longer than a placeholder can be
    assert max(map(len, told)) <= size + LONGEST


def test_overlapping_spans_are_masked_to_the_last_character():
    assert merged([Span(4, 9, "PLACE"), Span(0, 5, "NAME"), Span(2, 3, "EMAIL"), Span(9, 10, "IP")]) == [
        Span(0, 9, "EMAIL"),
        Span(9, 10, "IP"),
    ]  # fmt: skip
    # what lies across the edge of two windows is found, in a text of any length
    at = WINDOW - 3
    text = " " * at + "Maria" + " " * (3 * WINDOW) + "Anna "
    assert [text[s.start : s.end] for s in over_windows(finds("Maria", "Anna"), text)] == [
        "Maria",
        "Anna",
    ]
    assert OVERLAP < WINDOW and over_windows(finds("Maria"), "") == []


class Echo:
    """An assistant that says what it was asked, and remembers it."""

    tenants = ("shop",)

    def answers(self, questions, tenants, **how):
        self.read = [turns[-1][1] for turns in questions]
        return [f"You said {text}" for text in self.read]

    def stream(self, question, tenant, **how):
        self.read = [question[-1][1]]
        return iter(["You said ", *self.read[0]])


def test_an_assistant_reads_placeholders_and_answers_with_the_words():
    from jaxrec.assistant.masked import MaskedAssistant

    private, echo = PrivacyFilter(PrivacyConfig(languages=())), Echo()
    private.__dict__["_finders"] = (KNOWN,)
    masked = MaskedAssistant(echo, private)
    asked = ["I am Maria", [("user", "Anna?"), ("assistant", "Yes"), ("user", "and Maria")]]
    told = masked.answers(asked, ["shop", None])
    assert told == ["You said I am Maria", "You said and Maria"] and masked.tenants == ("shop",)
    assert not any(name in text for text in echo.read for name in ("Maria", "Anna"))
    assert "".join(masked.stream("Is Anna in?", "shop")) == "You said Is Anna in?"
    assert "Anna" not in echo.read[0]


def test_scores_count_a_name_as_found_where_ends_and_kind_are_right():
    text = Planted("Anna of Omsk 12", (Span(0, 4, "NAME"), Span(8, 12, "PLACE")), "en", "test", 0)
    rows = lambda *spans: {
        row["kind"]: row for row in found_rows("en", [text] * 2, [spans, text.spans])
    }
    name = rows(Span(0, 4, "PLACE"), Span(8, 11, "PLACE"), Span(13, 15, "NAME"))["NAME"]
    # masked all the same; as a name once of two, and one of two names found is none
    assert (name["recall"], name["precision"], name["f1"], name["alarms_per_1000"]) == (
        1,
        0.5,
        0.5,
        125,
    )
    assert rows(Span(0, 3, "NAME"))["NAME"]["f1_loose"] == 1 and rows()["PLACE"]["recall"] == 0.5


# ---------------------------------------------------------------------------------------------- check digits


def test_check_digits_of_documents():
    assert documents.snils_is_valid("112-233-445 95") and not documents.snils_is_valid(
        "112-233-445 96"
    )
    assert not documents.snils_is_valid("112")
    assert documents._card("4111 1111 1111 1111") and not documents._card("4111 1111 1111 1112")
    assert not documents._card("0" * 16)
    # remainders of 10 and more, which python-stdnum 2.2 refuses
    assert documents._ogrn("307724128814952") and not documents._ogrn("307724128814953")


def test_the_room_brings_nothing_heavy():
    said = (
        "import sys, jaxrec.privacy.filter, jaxrec.privacy.masking, jaxrec.privacy.forget;"
        "print(*{'jax', 'spacy', 'presidio_analyzer', 'numpy', 'slovnet'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_what_is_missing_is_said_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path))
    with pytest.raises(
        PrivacyError, match=r"was not fetched yet: python -m jaxrec.hub.fetch names-en \(13 MB\)"
    ):
        names_finder("en")
    with pytest.raises(PrivacyError, match="names are found in en, ru, not in 'fr'"):
        names_finder("fr")
    with pytest.raises(PrivacyError, match="no kind 'NAMES' to mask; there are EMAIL"):
        PrivacyConfig(kinds=("NAMES",))
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(
        RunError, match=r"needs the package presidio_analyzer: pip install 'jaxrec\[privacy\]'"
    ):
        PrivacyFilter().load()


# ---------------------------------------------------------------------------------------------- the real finders

fetched = pytest.mark.skipif(
    any(folder_of(name) is None for name in PACKAGES.values()),
    reason="names-en, names-ru not fetched",
)
pytest_spacy = pytest.mark.filterwarnings(
    "ignore"
)  # spaCy and its kin warn of each other on import


@pytest.fixture(scope="module")
def private():
    for name in ("presidio_analyzer", "spacy", "slovnet", "stdnum"):
        pytest.importorskip(name)

    # no socket may be opened, by the loading or by the finding
    def refused(*given, **more):
        raise AssertionError("somebody wants the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", refused)
        patch.setattr(socket, "create_connection", refused)
        patch.setattr(socket, "getaddrinfo", refused)
        yield PrivacyFilter().load()


TEXTS = [
    ("I am Maria Lopez, mail maria@example.co.uk", ["Maria Lopez", "maria@example.co.uk"]),
    ("at x@mail.intern or +7 (912) 345-67-89", ["x@mail.intern", "+7 (912) 345-67-89"]),
    ("паспорт 4508 123456 выдан Анне Смирновой", ["4508 123456", "Анне Смирновой"]),
    ("ИНН500100732259, карта 4111-1111-1111-1111", ["500100732259", "4111-1111-1111-1111"]),
    ("Live at 12 Oak Street, London SW1A 1AA.", ["12 Oak Street, London SW1A 1AA"]),
    ("Привезите на ул. Баумана, д. 5, кв. 12 завтра", ["ул. Баумана, д. 5, кв. 12"]),
    ("карта ４111\u00a01111\u00a01111\u00a01111", ["４111\u00a01111\u00a01111\u00a01111"]),
    ("order 1234567 of 03.03.2026 costs 4 500", []),
    ("\x00 \ud800 \u202e", []),
    ("", []),
]  # fmt: skip


@pytest.mark.slow
@fetched
@pytest_spacy
@pytest.mark.parametrize(("text", "wanted"), TEXTS)
def test_what_the_finders_find_without_a_network(private, text, wanted):
    assert [text[s.start : s.end] for s in private.find(text)] == wanted
    c = private.conversation("shop", "maria")
    assert c.unmask(c.mask(text), "maria") == text


@pytest.mark.slow
@fetched
@pytest_spacy
def test_planted_pieces_are_found(private):
    for language in ("en", "ru"):
        texts = planted(language, "test", 60, seed=3)
        rows = {
            row["kind"]: row
            for row in found_rows(language, texts, [private.find(t.text) for t in texts])
        }
        assert rows["all numbers"]["recall"] >= 0.95 and rows["NAME"]["f1"] >= 0.8
    # a check that can fail: nothing found is nothing recalled
    assert found_rows("ru", texts, [[] for _ in texts])[-1]["recall"] == 0


@pytest.mark.slow
@fetched
@pytest_spacy
def test_the_evaluation_writes_its_record(private, tmp_path):
    small = PrivacyEvalConfig(
        texts=24, bitext=0, documents=0, round_trips=100, real_round_trips=8, out=str(tmp_path)
    )
    held = json.loads(Path(main(small)).read_text())
    assert {row["language"] for row in held["rows"]} == {"en", "ru"} and not held["alarms"]
    assert [trip["not restored"] for trip in held["round_trips"]] == [0, 0]
