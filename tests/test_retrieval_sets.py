"""The sets that retrieval is measured on: their published sizes, what is right for a query, and damaged files."""

import gzip
import json

import numpy as np
import pytest

from jaxrec.config import RunError
from jaxrec.data.readers import retrieval_sets
from jaxrec.data.readers.raw import DataError
from jaxrec.words import words

SIZES = {
    "bank-faqs": (1499, 1202),
    "twin_til": (577, 577),
    "tau2-documents": (698, 698),
    "tau2-passages": (800, 2944),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_published_sets_have_their_sizes(name, data_dir):
    one = retrieval_sets.read(name)
    assert (len(one.queries), len(one.texts)) == SIZES[name]
    assert one.right_N.shape == (len(one.queries),) and one.right_N.max() < len(one.texts)
    assert all(one.queries) and all(one.texts)
    shared = lambda i, j: len(set(words(one.queries[i])) & set(words(one.texts[j])))
    own = np.mean([shared(i, one.right_N[i]) for i in range(0, 500, 5)])
    other = np.mean([shared(i, one.right_N[i - 250]) for i in range(0, 500, 5)])
    assert own > 1.5 * other  # a query speaks of its right text


def test_sections_are_cut_at_headings():
    text = "before\n\n# One\n## Two ##\nbody\n#no heading\n### Three\n\n\n####\tFour\nend"
    found = list(retrieval_sets.sections(text))
    assert found == [("", "before"), ("Two", "body\n#no heading"), ("Four", "end")]


def test_small_sets_as_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXREC_DATA", str(tmp_path))
    bank = tmp_path / "bank-faqs" / "BankFAQs.csv.gz"
    bank.parent.mkdir()
    bank.write_bytes(gzip.compress(b'Question,Answer,Class\na?,"x\n y",k\nb?,z,k\nc?,x  y,k\n'))
    one = retrieval_sets.read("bank-faqs")
    assert (one.queries, one.texts, one.right_N.tolist()) == (
        ["a?", "b?", "c?"],
        ["x y", "z"],
        [0, 1, 0],
    )
    note = tmp_path / "twin_til" / "topic" / "note.md"
    note.parent.mkdir(parents=True)
    (tmp_path / "twin_til" / "README.md").write_text("# Index")
    note.write_text("# A title\n\nIts text.\n")
    one = retrieval_sets.read("twin_til")
    assert (one.queries, one.texts) == (["A title"], ["Its text."])
    tau2 = tmp_path / "tau2" / "banking_knowledge__documents.jsonl.gz"
    tau2.parent.mkdir()
    rows = [{"title": "T", "content": "intro\n## H\nbody"}, {"title": "U", "content": "plain"}]
    tau2.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    one = retrieval_sets.read("tau2-passages")
    assert (one.queries, one.texts) == (["T: H"], ["T\n\nintro", "T\n\nbody", "U\n\nplain"])
    assert one.right_N.tolist() == [1]

    for path, damage, said in (
        (bank, gzip.compress(b"Query,Reply\na,b\n"), "Question,Answer"),
        (bank, gzip.compress(b"Question,Answer,Class\na,b\n"), "row 2 has 2 columns"),
        (bank, bank.read_bytes()[:30], "BankFAQs"),
        (note, b"no title", "no title"),
        (tau2, gzip.compress(b'{"title": "T"}\n'), ":1: not a JSON object with a title"),
        (tau2, gzip.compress(b"\n"), ":1: not a JSON object"),
    ):
        whole = path.read_bytes()
        path.write_bytes(damage)
        with pytest.raises(DataError, match=said):
            retrieval_sets.read(
                "tau2-documents" if path is tau2 else path.parts[len(tmp_path.parts)]
            )
        path.write_bytes(whole)
    note.unlink()
    with pytest.raises(DataError, match="no queries"):
        retrieval_sets.read("twin_til")
    with pytest.raises(RunError, match="there is no retrieval set 'bank'; there are bank-faqs"):
        retrieval_sets.read("bank")
