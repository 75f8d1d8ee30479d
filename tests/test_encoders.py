"""The comparison of encoders: ranks by words and by vectors, intervals, gaps, and what a record says."""

import json

import numpy as np
import pytest

from bench import encoders_table
from eval import encoders
from eval.encoders import EncodersConfig
from jaxrec import results
from jaxrec.config import RunError
from jaxrec.data.readers import retrieval_sets
from jaxrec.data.readers.retrieval_sets import RetrievalSet

ONE = RetrievalSet(
    "three", ["red tea", "a blue cup", "grey"], ["tea is red", "cups are blue", "snow"],
    np.array([0, 1, 2]),
)  # fmt: skip


def test_words_rank_what_shares_them_and_ties_count_against(tmp_path):
    pytest.importorskip("bm25s")
    pytest.importorskip("Stemmer")
    assert encoders.ranks("bm25", ONE, tmp_path).tolist() == [1, 1, 3]  # nothing says "grey"


def test_vectors_are_made_once_and_compared(tmp_path, monkeypatch):
    from jaxrec.models.text.sentence import SentenceEncoder

    asked = []

    def load(folder):
        def encode(texts):
            asked.append(len(texts))
            return np.array([[text.count(x) for x in "rbs"] for text in texts], np.float32)

        return encode

    monkeypatch.setattr(SentenceEncoder, "load", load)
    monkeypatch.setattr(encoders, "folder_of", lambda name: tmp_path)
    monkeypatch.setattr("jaxrec.models.language.model_folder.base_hash", lambda folder: "x")
    assert encoders.ranks("some/folder", ONE, tmp_path).tolist() == [2, 1, 3]
    assert encoders.ranks("some/folder", ONE, tmp_path).tolist() == [2, 1, 3] and asked == [3, 3]


def test_measures_intervals_and_gaps():
    rank = {"a": np.array([1, 20, 6, 2] * 25), "b": np.array([1, 1, 6, 2] * 25)}
    (a, b), pairs = encoders.compared(rank, 500, seed=3)
    assert (a["R@1"], a["R@5"], a["R@10"]) == (0.25, 0.5, 0.75) and (b["R@1"], b["R@10"]) == (
        0.5,
        1,
    )
    assert a["mrr"] == pytest.approx((1 + 1 / 20 + 1 / 6 + 1 / 2) / 4)
    assert a["R@1_lo"] < 0.2 < 0.3 < a["R@1_hi"]
    assert (b["R@10_lo"], b["R@10_hi"]) == (pytest.approx(1), pytest.approx(1))
    gap = {pair["metric"]: pair for pair in pairs}["R@1"]
    assert (gap["a"], gap["b"], gap["diff"]) == ("b", "a", 0.25)
    # of the same queries: narrower than two intervals of their own would be
    assert 0.1 < gap["lo"] < 0.25 < gap["hi"] < 0.4


def test_a_file_a_set(tmp_path, monkeypatch):
    monkeypatch.setitem(retrieval_sets.SETS, "three", lambda: ONE)
    monkeypatch.setattr(encoders, "folder_of", lambda name: tmp_path)
    monkeypatch.setattr(encoders, "ranks", lambda name, one, cache: np.array([1, 2, len(name)]))
    cfg = EncodersConfig(("three",), ("bm25", "mpnet"), 50, out=str(tmp_path))
    (path,) = encoders.main(cfg)
    record = json.loads(path.read_text())
    assert path.name == "three.json" and record["headline"] == "mpnet"
    assert [(row["row"], row["queries"], row["texts"]) for row in record["rows"]] == [
        ("bm25", 3, 3), ("mpnet", 3, 3)
    ]  # fmt: skip
    assert record["paired"][0]["dataset"] == "three"
    shown = encoders_table.encoders([("three", record | {"trained": [results.origin()]})])
    assert (
        "| three: 3 -> 3 | **mpnet** | 0.333 (" in shown and "mpnet - bm25, R@10: +0.000" in shown
    )
    for changed, said in (
        ({"sets": ("thre",)}, "there is no retrieval set 'thre'"),
        ({"encoders": ("mpnet", "mpnet")}, "each once"),
        ({"encoders": ()}, "name one or more"),
    ):
        with pytest.raises(RunError, match=said):
            encoders.main(EncodersConfig(**({"out": str(tmp_path)} | changed)))
