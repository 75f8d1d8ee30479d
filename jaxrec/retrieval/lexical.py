"""Floor 2: items by the words of their texts: SQLite's full-text index (FTS5), ranked by BM25 (Robertson 1994).

    index = LexicalIndex.build(texts, "words.sqlite")
    found = index.search("кружка для кофе", 10)

What a sentence encoder is not there for: catalogues in languages that it does not know, article numbers, or no weights
at all. Case and accents do not count, and a word's ending counts for little: it is sought by its beginning.
"""

import sqlite3
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from jaxrec.retrieval.top_k import SearchError
from jaxrec.types import Shortlist
from jaxrec.words import words

_TERMS = 32  # of a query; more say no more and take time
_TABLE = (
    "CREATE VIRTUAL TABLE items USING fts5"
    """(text, content='', tokenize="unicode61 remove_diacritics 2 categories 'L* N* M* Co'", prefix='3 4 5')"""
)


class LexicalIndex:
    """The words of a catalogue's texts, item i being text i. One file, or memory."""

    def __init__(self, connection: sqlite3.Connection):
        self._connection = connection

    @classmethod
    def build(cls, texts: Iterable[str], path: str | Path = ":memory:") -> "LexicalIndex":
        """An index of all texts; an older file at `path` is replaced. Raises SearchError without FTS5."""
        if str(path) != ":memory:":
            Path(path).unlink(missing_ok=True)
        connection = sqlite3.connect(path, check_same_thread=False)
        try:
            connection.execute(_TABLE)
        except sqlite3.OperationalError as error:
            raise SearchError(f"this Python's SQLite has no full-text search ({error})") from None
        rows = ((item, _plain(text)) for item, text in enumerate(texts))
        connection.executemany("INSERT INTO items(rowid, text) VALUES (?, ?)", rows)
        connection.commit()
        return cls(connection)

    @classmethod
    def load(cls, path: str | Path) -> "LexicalIndex":
        """The index of a file, opened for reading. Raises SearchError where there is none."""
        if not Path(path).is_file():
            raise SearchError(f"there is no index of words at {path}")
        # Declared immutable, the file is read without locks, which a folder that is for reading only could not
        # hold.
        where = f"{Path(path).absolute().as_uri()}?mode=ro&immutable=1"
        return cls(sqlite3.connect(where, uri=True, check_same_thread=False))

    def search(self, query: str, k: int) -> Shortlist:
        """The k items that share most with the query, one row; fewer: item -1, score -inf. Equal ones by number.

        An item with any of the words is found. Scores are BM25's, above 0.
        """
        items_BJ, scores_BJ = np.full((1, k), -1, np.int64), np.full((1, k), -np.inf, np.float32)
        if terms := _terms(query):
            # FTS5 gives better matches lower numbers, all below 0; a shortlist wants it the other way round.
            asked = "SELECT rowid, -bm25(items) FROM items WHERE items MATCH ? ORDER BY bm25(items), rowid LIMIT ?"
            try:
                found = self._connection.execute(asked, (" OR ".join(terms), k)).fetchall()
            except sqlite3.DatabaseError as error:
                raise SearchError(f"the index of words is damaged: {error}") from None
            for place, (item, score) in enumerate(found):
                items_BJ[0, place], scores_BJ[0, place] = item, score
        return Shortlist(items_BJ, scores_BJ)

    def close(self) -> None:
        """Lets go of the file."""
        self._connection.close()


def stem(word: str) -> str:
    """The beginning by which a word is sought: without its last two letters, or one; short words whole."""
    return word[:-2] if len(word) > 6 else word[:-1] if len(word) > 4 else word


def _terms(query: str) -> list[str]:
    """The query's words as FTS5's phrases; a quoted one is never read as an operator."""
    found = dict.fromkeys(words(_plain(query)[:10_000]))
    return [f'"{stem(word)}"' + ("*" if stem(word) != word else "") for word in found][:_TERMS]


def _plain(text: str) -> str:
    """Lower case in Unicode's composed form, without what SQLite can't hold."""
    text = unicodedata.normalize("NFC", text).casefold()
    return text.encode("utf-8", "ignore").decode().replace("\0", " ")
