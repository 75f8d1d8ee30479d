"""Documents to passages: exact places, nothing lost, nothing twice, code and words whole, sizes kept."""

import itertools
import re

import numpy as np
import pytest
from passage_sets import RUSSIAN, SHOP

from jaxrec.data.tenant import Page
from jaxrec.retrieval.passages.cutting import CutConfig, passages_of
from jaxrec.retrieval.passages.document import Document, documents_of, read_documents
from jaxrec.retrieval.top_k import SearchError

pytest.importorskip("markdown_it", reason="markdown-it-py is not installed (extra `talk`)")
PIECES = (
    "# Title\n", "## Part of it\n", "### Deeper  #\n", "Setext\n======\n", "\n", "\n\n", "A short one. ",
    "One sentence of several words ends here! ", "Was it? Yes. ", "Ещё одно предложение. ", "これは文です。次の文。",
    "- first\n- second item. With more\n", "1. a\n   ```py\n   x = 1\n\n   y = 2\n   ```\n2. b\n",
    "```\n# no heading\n\ncode  here\n```\n", "~~~\nnever closed\n", "    indented = code\n    more = code\n",
    "| a | b |\n|---|---|\n| 1 | 2 |\n", "> quoted\n> ## heading in it\n", "[name]: https://example.org/x\n",
    "<div>\nmark\n</div>\n", "x" * 70 + " ", "word " * 30, "\ttab\u00a0space \u2028 line", "a\r\nb\rc\n",
    "\0", "\ud83d",
    "👩‍🚀 emoji. ", "---\n", "e.g. this, No. 5 is one. ", "ß" * 20 + "\n",
)  # fmt: skip


def varied(rng: np.random.Generator) -> str:
    return "".join(rng.choice(PIECES) for _ in range(rng.integers(0, 25)))


def test_a_passage_stands_where_it_says_and_all_text_stands_in_one():
    rng = np.random.default_rng(0)
    for trial in range(150):
        most = int(rng.integers(1, 200))
        cfg = CutConfig(int(rng.integers(0, most + 1)), most)
        document = Document("d", varied(rng), kind=("markdown", "plain")[trial % 2])
        text, found = document.text, passages_of(document, cfg)
        held = np.zeros(len(text), int)
        for number, passage in enumerate(found):
            assert text[passage.start : passage.end] == passage.text == passage.text.strip()
            assert passage.number == number and passage.text
            held[passage.start : passage.end] += 1
            for edge in (passage.start, passage.end):
                assert not re.fullmatch(r"\w\w", text[max(edge - 1, 0) : edge + 1]), passage
        assert held.max(initial=0) <= 1
        assert [p.start for p in found] == sorted(p.start for p in found)
        lost = {text[i] for i in np.flatnonzero(held == 0) if not text[i].isspace()}
        headings = set("".join(part for p in found for part in p.headings)) | set("#=-")
        assert document.kind == "markdown" or not lost, (text, lost)
        assert lost <= headings, (text, lost - headings)


def test_sizes_are_kept_but_for_words_and_code():
    rng = np.random.default_rng(1)
    for _ in range(100):
        cfg = CutConfig(60, 120)
        found = passages_of(Document("d", varied(rng), kind="plain"), cfg)
        for passage in found:
            assert len(passage.text) <= cfg.most or not any(map(str.isspace, passage.text))
        for one, other in itertools.pairwise(found):
            if min(len(one.text), len(other.text)) < cfg.least:
                assert other.end - one.start > cfg.most


def test_headings_and_title_go_with_a_passage():
    found = passages_of(Document("shop.md", SHOP), CutConfig(0, 900))
    assert [p.headings for p in found] == [
        ("Luna Coffee",),
        ("Luna Coffee", "Delivery"),
        ("Luna Coffee", "Delivery", "Abroad"),
        ("Luna Coffee", "Returns"),
    ]
    assert found[2].text.startswith("Parcels to Norway") and found[2].title == "Luna Coffee"
    assert found[2].indexed.startswith("Luna Coffee > Delivery > Abroad\n\nParcels")
    assert found[3].text.endswith("```") and "# this is code" in found[3].text
    assert passages_of(Document("a", RUSSIAN), CutConfig(0, 900))[0].headings[1] == "Доставка"


def test_short_sections_join_and_keep_their_headings_in_the_body():
    text = "# Shop\n\n## Hours\n\nNine to five.\n\n## Address\n\nMill Lane 3.\n"
    (found,) = passages_of(Document("a", text), CutConfig(80, 900))
    assert found.headings == ("Shop",)
    assert found.text == "## Hours\n\nNine to five.\n\n## Address\n\nMill Lane 3."


def test_code_and_words_are_longer_than_the_limit_rather_than_cut():
    line = "line. Of code\n\n" * 20
    indented = "\n".join(f"    {x}" for x in line.splitlines())
    for code in (
        f"```sh\n{line}```",
        f"~~~~\n```\n{line}~~~~",
        f"```\n{line}never closed",
        indented,
    ):
        for before in ("", "Before. ", "A list:\n\n- one\n- two\n\nThen ", "# Heading\n\n"):
            found = passages_of(Document("a", f"{before}words here\n\n{code}\n"), CutConfig(0, 60))
            assert found[-1].text == code.strip() and all(len(p.text) <= 60 for p in found[:-1])
    listed = f"1. one\n   ```\n   {line}   ```\n2. two"
    assert "```\n   line." in passages_of(Document("a", listed), CutConfig(0, 60))[0].text
    found = passages_of(Document("a", f"After it. {'w' * 300} end."), CutConfig(0, 100))
    assert [p.text for p in found] == ["After it.", "w" * 300, "end."]


@pytest.mark.parametrize("text", ["", " \n\t\n", "\ufeff", "#", "\n# \n"])
def test_next_to_nothing(text):
    assert all(p.text.strip() for p in passages_of(Document("a", text)))


def test_a_megabyte_without_a_space_or_of_one_sign_takes_no_time():
    for text in ("x" * 1_000_000, "> " * 50_000, "`" * 100_000, "# a\n" * 500, "a. " * 20_000):
        found = passages_of(Document("a", text))
        assert found and all(text[p.start : p.end] == p.text for p in found)


def test_half_characters_keep_every_place():
    document = Document("a", "An \ud83d emoji was cut. Then more.")
    assert document.text.index("emoji") == 5 and "\ufffd" in document.text


def test_a_folder_of_documents(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.txt").write_bytes("Grüße aus Köln.".encode("latin-1"))
    (tmp_path / "one.md").write_text("# One\n\nText.", encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / ".hidden.md").write_text("no")
    found = read_documents(tmp_path)
    assert [(d.id, d.kind) for d in found] == [("b/two.txt", "plain"), ("one.md", "markdown")]
    assert found[0].text == "Grüße aus Köln."
    with pytest.raises(SearchError, match="holds no documents"):
        read_documents(_empty(tmp_path))
    with pytest.raises(SearchError, match="no folder"):
        read_documents(tmp_path / "missing")


def _empty(folder):
    (folder / "empty").mkdir()
    return folder / "empty"


def test_what_is_refused():
    with pytest.raises(SearchError, match="id is a text"):
        Document(" ", "text")
    with pytest.raises(SearchError, match="not possible"):
        CutConfig(10, 5)
    assert documents_of([Page("p", "T", "Body.")]) == [Document("p", "Body.", "T")]
