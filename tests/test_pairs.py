"""Preference data: what is read, what is left out and named, and the token rows made of it."""

import gzip
import json

import jax
import numpy as np
import pytest

from jaxrec.data import pairs as data
from jaxrec.data.chat import OwnChat
from jaxrec.data.pairs import Pair, PairError, Thumb
from jaxrec.data.row_buckets import BucketedRows, in_buckets, lengths
from jaxrec.data.tenant_pairs import hold_out_last, tenant_pair_rows, tenant_thumb_rows
from jaxrec.data.text import train_tokenizer

GOOD = {"prompt": "Do you deliver?", "chosen": "Yes, gladly.", "rejected": "No."}
WORDS = [f"we deliver {i} parcels gladly to you, yes or no, on day {i * 7}" for i in range(60)]


@pytest.fixture(scope="module")
def chat():
    return OwnChat(train_tokenizer(WORDS, 300))


def written(path, rows):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n")
    return str(path)


def test_three_spellings_of_one_pair(tmp_path):
    said = lambda role, text: {"role": role, "content": text}
    asked = said("user", "Do you deliver?")
    messages = GOOD | {
        "prompt": [asked],
        "chosen": [said("assistant", "Yes, gladly.")],
        "rejected": [said("assistant", "No.")],
    }
    whole = {k: [asked, said("assistant", GOOD[k])] for k in ("chosen", "rejected")}
    hh = {k: f"\n\nHuman: Do you deliver?\n\nAssistant: {GOOD[k]}" for k in ("chosen", "rejected")}
    found, skipped = data.read_pairs(
        written(tmp_path / "x.jsonl", [GOOD, messages, whole, GOOD | whole, hh])
    )
    assert not skipped.counts
    assert {(p.prompt, p.chosen, p.rejected) for p in found} == {
        ((("user", "Do you deliver?"),), "Yes, gladly.", "No.")
    }
    assert [p.where for p in found] == [f"x.jsonl:{i}" for i in range(1, 6)]


BAD = {
    "no JSON": "{",
    "no JSON object": "[1]",
    "lacks 'rejected'": {"prompt": "a", "chosen": "b"},
    "chosen and rejected are the same": GOOD | {"rejected": " Yes, gladly. "},
    "rejected: the completion is empty": GOOD | {"rejected": " "},
    "the prompt is empty": GOOD | {"prompt": " "},
    "chosen and rejected answer different prompts": {
        "chosen": "\n\nHuman: a\n\nAssistant: b",
        "rejected": "\n\nHuman: c\n\nAssistant: d",
    },
    "does not end with an answer": {
        "chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c",
        "rejected": "\n\nHuman: a\n\nAssistant: d",
    },
    "a text or a list": GOOD | {"chosen": 3},
}


@pytest.mark.parametrize("said", BAD)
def test_bad_rows_are_counted_and_named(said, tmp_path):
    path = written(tmp_path / "x.jsonl", [GOOD, BAD[said], GOOD])
    found, skipped = data.read_pairs(path)
    assert len(found) == 2
    ((reason, count),) = skipped.counts.items()
    assert said in reason and count == 1 and skipped.first[reason] == "x.jsonl:2"
    with pytest.raises(PairError, match=r"x\.jsonl:2"):
        data.read_pairs(path, strict=True)


def test_nothing_usable_is_an_error(tmp_path):
    with pytest.raises(PairError, match="not one usable row"):
        data.read_pairs(written(tmp_path / "x.jsonl", [BAD["the prompt is empty"]]))
    with pytest.raises(PairError, match="no file here"):
        data.read_pairs("nowhere.jsonl")


def test_thumbs(tmp_path):
    rows = [
        {"prompt": "a", "completion": "b", "label": True},
        {"prompt": "a", "completion": "c", "label": "maybe"},
        {"prompt": "a", "completion": "", "label": False},
        GOOD,
    ]
    found, skipped = data.read_thumbs(written(tmp_path / "x.jsonl", rows))
    assert [(t.answer, t.liked) for t in found] == [
        ("b", True),
        ("Yes, gladly.", True),
        ("No.", False),
    ]
    assert len(skipped.counts) == 2
    assert [(p.chosen, p.rejected) for p in data.join_thumbs(found)] == [("Yes, gladly.", "No.")]


def test_hold_out_takes_whole_prompts():
    rows = [Pair((("user", str(i // 2)),), "a", f"b{i}") for i in range(20)]
    train, held = data.hold_out(rows, 5)
    assert len(held) == 4 and not {p.prompt for p in train} & {p.prompt for p in held}
    with pytest.raises(PairError, match="hold_out_every"):
        data.hold_out(rows, 50)


def test_hh_rlhf(data_dir):
    found, skipped = data.read_pairs("hh_rlhf")
    assert len(found) == 2303 and sum(skipped.counts.values()) == 9  # 2,312 rows
    assert all(p.prompt[-1][0] == "user" and p.chosen != p.rejected for p in found)


def test_gzip_and_world(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(GOOD).encode()))
    assert len(data.read_pairs(str(path))[0]) == 1
    held, _ = data.read_pairs("world:held")
    assert len({p.group for p in held}) == 50 and len(held) == 48 * 30 + 2 * 40


# ------------------------------------------------------------------------------------------------ rows


def made(count=6):
    asked = lambda i: (("user", "we deliver " * (i + 1)),)
    return [
        Pair(asked(i), f"yes {i}", f"no gladly {i}", f"g{i % 2}", f"x:{i}") for i in range(count)
    ]


def test_rows_learn_the_answer_alone(chat):
    rows, kept, skipped = data.pair_rows(chat, made(), 64)
    assert len(kept) == 6 and not skipped.counts
    for side, name in ((rows.chosen, "chosen"), (rows.rejected, "rejected")):
        for i, pair in enumerate(kept):
            learned = side.ids_BL[i][side.loss_BL[i] > 0].tolist()
            assert chat.decode(learned) == getattr(pair, name) and learned[-1] in chat.eos_ids
            start = int(np.flatnonzero(side.loss_BL[i])[0])
            assert side.ids_BL[i][:start].tolist() == chat.opening(pair.prompt)


def test_a_long_prompt_is_cut_alike_on_both_sides(chat):
    long = Pair((("user", "parcels " * 50),), "yes", "no gladly no gladly", "", "x:1")
    rows, _, skipped = data.pair_rows(chat, [long], 24)
    heads = [
        side.ids_BL[0][: int(np.flatnonzero(side.loss_BL[0])[0])].tolist()
        for side in (rows.chosen, rows.rejected)
    ]
    assert heads[0] == heads[1] and heads[0][0] == chat.opening([])[0]
    assert int(rows.rejected.mask_BL.sum()) == 24
    assert skipped.counts == {"prompt cut to fit into 24 tokens": 1}
    too_long = Pair((("user", "a"),), "yes " * 30, "no", "", "x:2")
    _, kept, skipped = data.pair_rows(chat, [long, too_long], 24)
    assert (
        kept == [long]
        and skipped.first["an answer does not fit into 24 tokens with a prompt"] == "x:2"
    )
    with pytest.raises(PairError, match="x:2"):
        data.pair_rows(chat, [too_long], 24, strict=True)
    with pytest.raises(PairError, match="no row is left"):
        data.pair_rows(chat, [too_long], 24)


def test_mismatched_answers_are_never_ones_own():
    groups = ["a"] * 5 + ["b", "c", "c"]
    said = ["x", "x", "y", "z", "w", "q", "same", "same"]
    other = data.mismatch(groups, said)
    assert all(said[j] != said[i] for i, j in enumerate(other))
    assert all(groups[other[i]] == "a" for i in range(5))
    with pytest.raises(PairError, match="the same"):
        data.mismatch(["a", "a"], ["x", "x"])


def test_thumb_rows(chat):
    thumbs = [Thumb(p.prompt, p.chosen, i % 2 == 0, "g", p.where) for i, p in enumerate(made())]
    rows, kept, _ = data.thumb_rows(chat, thumbs, 64)
    assert rows.liked_B.tolist() == [True, False] * 3
    for i in range(len(kept)):
        assert rows.mismatched.ids_BL[i].tolist() != rows.answer.ids_BL[i].tolist()
        start = len(chat.opening(kept[i].prompt))
        assert (rows.mismatched.ids_BL[i, :start] == rows.answer.ids_BL[i, :start]).all()


def test_buckets_lose_nothing(chat):
    rows, _, _ = data.pair_rows(chat, made(11), 128)
    buckets = in_buckets(rows, (32, 64, 128))
    assert len(buckets) > 1
    assert sum(len(lengths(b)) for b in buckets) == 11
    source = BucketedRows(buckets, 4, seed=1)
    state, seen, shapes = source.init(), 0, set()
    for _ in range(source.total):
        batch, state = source(0, None, state)
        shapes.add(batch.chosen.ids_BL.shape)
        seen += int((batch.chosen.loss_BL.sum(1) > 0).sum())
        assert all(leaf.shape[0] == 4 for leaf in jax.tree.leaves(batch))
    assert seen == 11 and len(shapes) == len(buckets) and int(state["epoch"]) == 1
    with pytest.raises(ValueError, match="largest bucket"):
        in_buckets(rows, (16,))


# --------------------------------------------------------------------------------------------- tenants


def test_tenant_rows(chat):
    rows, kept, skipped = tenant_pair_rows(chat, made(), ["g1", "g0"], 40, 20)
    assert rows.chosen.tenant_B.tolist() == [1, 0] * 3 and len(kept) == 6 and not skipped.counts
    np.testing.assert_array_equal(rows.chosen.question.ids_BL, rows.rejected.question.ids_BL)
    _, kept, skipped = tenant_pair_rows(chat, made(), ["g1", "g0"], 40, 2)
    same = Pair((("user", "a"),), "yes " * 9 + "a", "yes " * 9 + "b", "g0", "x:9")
    _, kept, skipped = tenant_pair_rows(chat, [*made(2), same], ["g1", "g0"], 40, 10)
    assert len(kept) == 2 and skipped.first["chosen and rejected are the same tokens"] == "x:9"
    with pytest.raises(PairError, match="no tenant"):
        tenant_pair_rows(chat, made(), ["g1"], 40, 20)
    thumbs = [Thumb(p.prompt, p.chosen, True, p.group, p.where) for p in made()]
    rows, _, _ = tenant_thumb_rows(chat, thumbs, ["g0", "g1"], 40, 20)
    assert rows.answer.tenant_B.tolist() == rows.mismatched.tenant_B.tolist()


def test_the_last_pairs_are_held_out():
    rows = made(12)
    train, held = hold_out_last(rows, 2)
    assert [p.where for p in held] == ["x:8", "x:10", "x:9", "x:11"] and len(train) == 8
    leaking = [*rows[:10:2], Pair((("user", "q"),), rows[0].chosen, "other", "g0", "x:99")]
    assert hold_out_last(leaking, 1)[1] == []
    with pytest.raises(PairError, match="held out"):
        hold_out_last(rows, 6)
