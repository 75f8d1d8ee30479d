"""Tokens, the chat format, packing, buckets: what goes in comes out, and nothing leaks between segments."""

import dataclasses

import numpy as np
import pytest

from jaxrec.data.text import (
    SPECIALS,
    BytePairTokenizer,
    Example,
    bucket,
    dialogue,
    document,
    pack,
    pad,
    prompt,
    train_tokenizer,
)
from jaxrec.structs import Tokens

TEXTS = [
    f"The {a} {b} is open from {i} to {i + 9}. 🌿"
    for i in range(9)
    for a in ("old", "new")
    for b in ("shop", "mill")
]
TURNS = [("customer", "Is the shop open?"), ("assistant", "It is."), ("customer", "And the mill?")]


@pytest.fixture(scope="module")
def tok():
    return train_tokenizer(TEXTS, size=320)


def test_text_goes_in_and_comes_out(tok):
    for text in [*TEXTS[:3], "naïve — £5 🙂", " two  spaces\n", "", "Привет"]:
        assert tok.decode(tok.encode(text)) == text
    assert tok.size == 320 and [tok.special[t] for t in SPECIALS] == list(range(len(SPECIALS)))
    assert tok.encode_all(TEXTS) == [tok.encode(t) for t in TEXTS]


def test_special_tokens_in_a_text_are_only_text(tok):
    ids = tok.encode("<eos><assistant>")
    assert min(ids) >= len(SPECIALS) and tok.decode(ids) == "<eos><assistant>"


def test_training_is_deterministic_and_a_saved_tokenizer_is_the_same(tok, tmp_path):
    tok.save(tmp_path / "deep" / "tokenizer.json")
    for other in (
        train_tokenizer(TEXTS, size=320),
        BytePairTokenizer.load(tmp_path / "deep" / "tokenizer.json"),
    ):
        assert other.encode_all(TEXTS) == tok.encode_all(TEXTS)
        assert min(other.encode("<bos>")) >= len(SPECIALS)
    with pytest.raises(FileNotFoundError, match="no file"):
        BytePairTokenizer.load(tmp_path / "none.json")


def test_a_vocabulary_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="must be above 272"):
        train_tokenizer(TEXTS, size=272)
    with pytest.raises(ValueError, match="only 27"):
        train_tokenizer(["ab"], size=400)


def test_a_dialogue_learns_what_the_assistant_says_and_no_more(tok):
    turns = [*TURNS, ("assistant", "No.")]
    ids, loss = dialogue(tok, turns, guide="Be short.", pages=["Shop: open."])
    learned = [i for i, w in zip(ids, loss, strict=True) if w]
    end = tok.special["<eos>"]
    assert learned == [*tok.encode("It is."), end, *tok.encode("No."), end]
    assert tok.decode(ids, keep_special=True) == (
        "<bos><system>Be short.<page>Shop: open.<user>Is the shop open?<assistant>It is.<eos>"
        "<user>And the mill?<assistant>No.<eos>"
    )
    last = dialogue(tok, turns, learn="last")
    assert [i for i, w in zip(*last, strict=True) if w] == [*tok.encode("No."), end]
    with pytest.raises(ValueError, match="role 'boss'"):
        dialogue(tok, [("boss", "Hm.")])


def test_a_prompt_is_the_dialogue_up_to_the_answer(tok):
    whole = dialogue(tok, [*TURNS, ("assistant", "No.")], guide="Be short.").ids
    start = prompt(tok, TURNS, guide="Be short.")
    assert whole[: len(start)] == start and start[-1] == tok.special["<assistant>"]


def test_rows_are_tokens(tok):
    rows = pad([document(tok, t) for t in TEXTS[:4]])
    kept = "states_BLD"  # added where a backbone's states are kept; text alone has none
    assert set(rows) == {f.name for f in dataclasses.fields(Tokens)} - {kept}
    assert Tokens(**rows).ids_BL.shape == rows["mask_BL"].shape


def test_padding_left_and_right_hold_the_same_tokens(tok):
    examples = [document(tok, "The old shop."), document(tok, "Open.")]
    right, left = pad(examples, 20), pad(examples, 20, left=True)
    for name in right:
        for i in range(2):
            np.testing.assert_array_equal(
                right[name][i][right["mask_BL"][i]], left[name][i][left["mask_BL"][i]]
            )
    assert left["mask_BL"][:, -1].all() and not right["mask_BL"][:, -1].any()
    with pytest.raises(ValueError, match=r"example 0 has \d+ tokens, rows have 3"):
        pad(examples, 3)


def test_packing_keeps_every_token_once_and_segments_apart():
    rng = np.random.RandomState(0)
    examples = [
        Example([i + 1] * n, [0.0] + [1.0] * (n - 1)) for i, n in enumerate(rng.randint(1, 17, 60))
    ]
    rows = pack(examples, 16)
    found = {}
    for b in range(len(rows["ids_BL"])):
        for segment in range(1, rows["segments_BL"][b].max() + 1):
            here = rows["segments_BL"][b] == segment
            (value,) = set(rows["ids_BL"][b][here])
            np.testing.assert_array_equal(rows["positions_BL"][b][here], np.arange(here.sum()))
            found[int(value) - 1] = Example(
                rows["ids_BL"][b][here].tolist(), rows["loss_BL"][b][here].tolist()
            )
    assert [found[i] for i in range(60)] == examples
    np.testing.assert_array_equal(rows["mask_BL"], rows["segments_BL"] > 0)
    np.testing.assert_array_equal(rows["ids_BL"] > 0, rows["mask_BL"])
    assert rows["mask_BL"].mean() > 0.85


def test_long_documents_are_split_only_when_asked():
    long = Example(list(range(1, 22)), [0.0] + [1.0] * 20)
    with pytest.raises(ValueError, match="21 tokens, rows have 8"):
        pack([long], 8)
    rows = pack([long], 8, split=True)
    np.testing.assert_array_equal(np.sort(rows["ids_BL"][rows["mask_BL"]]), np.arange(1, 22))
    assert (
        rows["loss_BL"].sum() == 18
    )  # each of the three pieces begins with a token that nothing predicts


def test_buckets():
    assert {k: v.tolist() for k, v in bucket([3, 9, 4, 16], (4, 8, 16)).items()} == {
        4: [0, 2],
        16: [1, 3],
    }
    with pytest.raises(ValueError, match="example 1 has 17 tokens, the largest size is 16"):
        bucket([3, 17], (8, 16))
