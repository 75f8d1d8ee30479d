"""Search by words: any script, endings, hostile queries."""

import pytest

from jaxrec.retrieval.lexical import LexicalIndex
from jaxrec.retrieval.top_k import SearchError

TEXTS = ("Кофейная кружка", "coffee mug, blue", "КРУЖКА зелёная", "Café crème grinder", "")


def items(index: LexicalIndex, query: str) -> list[int]:
    found = index.search(query, 4)
    return found.items_BJ[0][found.items_BJ[0] >= 0].tolist()


@pytest.fixture
def index() -> LexicalIndex:
    return LexicalIndex.build(TEXTS)


def test_words_are_found_in_any_case_with_other_endings(index):
    assert items(index, "кружки") == [0, 2] or items(index, "кружки") == [2, 0]
    assert items(index, "MUGS blue")[0] == 1
    assert items(index, "cafe") == [3]
    scores = index.search("blue mug", 4).scores_BJ[0]
    assert scores[0] > 0 and scores[3] == -float("inf")


@pytest.mark.parametrize("query", ["", "🎂", '" OR 1 --', "NEAR(", "a" * 50_000, "\0*", "\ud800"])
def test_hostile_queries_find_nothing_and_break_nothing(index, query):
    assert items(index, query) == []


def test_a_file_is_read_again_and_a_missing_one_is_named(tmp_path):
    LexicalIndex.build(TEXTS, tmp_path / "words.sqlite").close()
    assert items(LexicalIndex.load(tmp_path / "words.sqlite"), "grinder") == [3]
    with pytest.raises(SearchError, match="no index of words"):
        LexicalIndex.load(tmp_path / "nothing.sqlite")
