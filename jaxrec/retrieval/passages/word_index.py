"""Floor 2: passages by the stems of their words: BM25 (Robertson 1994) by `bm25s`, stems by Snowball (Porter 2001).

words = WordIndex.build(texts, "en+ru")
words.scores("как вернуть посылку")     # one number a text, 0 where they share no word
"""

import functools
import json
import logging
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float

from jaxrec.retrieval.top_k import SearchError
from jaxrec.words import words

if TYPE_CHECKING:
    import Stemmer
    from bm25s import BM25

Language = Literal["en", "ru", "en+ru"]
_SNOWBALL = {"en": "english", "ru": "russian"}
_NEEDED = "an index of passages needs bm25s and PyStemmer: pip install 'jaxrec[talk]'"
_QUERY = 20_000  # characters of a question that are read
_own = threading.local()  # a stemmer holds a cache, which two threads must not share


class WordIndex:
    """The stems of I texts. Searches may run in several threads."""

    def __init__(self, language: Language, rows: int, scorer: "BM25 | None"):
        self.language, self.rows, self._scorer = language, rows, scorer

    @classmethod
    def build(cls, texts: Sequence[str], language: Language = "en") -> "WordIndex":
        """Reads all texts. Raises SearchError for another language, or without the two packages."""
        vocabulary: dict[str, int] = {}
        found = [
            [vocabulary.setdefault(stem, len(vocabulary)) for stem in stems(text, language)]
            for text in texts
        ]
        if not vocabulary:  # bm25s takes the mean of nothing
            return cls(language, len(texts), None)
        scorer = _bm25s().BM25(backend="numpy", csc_backend="numpy")
        scorer.index((found, vocabulary), show_progress=False)
        return cls(language, len(texts), scorer)

    def scores(self, query: str) -> Float[np.ndarray, " I"]:
        """BM25 of every text: the sum over the question's stems, each once."""
        ids = self._ids(query)
        if not ids:
            return np.zeros(self.rows, np.float32)
        return self._scorer.get_scores_from_ids(ids)

    def rarity(self, query: str) -> dict[str, float]:
        """The question's stems with -log of the share of texts that hold each; those of none count as one text's."""
        size = np.diff(self._scorer.scores["indptr"]) if self._scorer is not None else ()
        known = self._scorer.vocab_dict if self._scorer is not None else {}
        count = lambda stem: int(size[known[stem]]) if stem in known else 1
        found = dict.fromkeys(stems(query[:_QUERY], self.language))
        return {stem: float(np.log((self.rows + 1) / count(stem))) for stem in found}

    def save(self, folder: Path) -> None:
        """Writes the files of bm25s into a folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "words.json").write_text(json.dumps({"rows": self.rows}))
        if self._scorer is not None:
            self._scorer.save(folder, show_progress=False)

    @classmethod
    def load(cls, folder: Path, language: Language) -> "WordIndex":
        """What `save` wrote; the arrays stay in their files. Raises SearchError for what bm25s can't read."""
        try:
            rows = json.loads((folder / "words.json").read_text())["rows"]
            if not (folder / "params.index.json").is_file():
                return cls(language, rows, None)
            return cls(language, rows, _bm25s().BM25.load(folder, mmap=True, show_progress=False))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SearchError(
                f"the words in {folder} are damaged ({error}); build the index again"
            ) from error

    def _ids(self, query: str) -> list[int]:
        if self._scorer is None:
            return []
        return self._scorer.get_tokens_ids(
            list(dict.fromkeys(stems(query[:_QUERY], self.language)))
        )


def stems(text: str, language: Language) -> list[str]:
    """The stems of a text's words in order; a stemmer leaves words in another script as they are."""
    found = words(text)
    if "ru" in language:
        found = [word.replace("ё", "е") for word in found]
    for stemmer in _stemmers(language):
        found = stemmer.stemWords(found)
    return found


def _stemmers(language: Language) -> "list[Stemmer.Stemmer]":
    held = _own.__dict__.setdefault("stemmers", {})
    if language not in held:
        if unknown := [name for name in language.split("+") if name not in _SNOWBALL]:
            raise SearchError(f"there are stems of en, ru and en+ru, not of {unknown[0]!r}")
        try:
            import Stemmer
        except ImportError:
            raise SearchError(_NEEDED) from None
        held[language] = [Stemmer.Stemmer(_SNOWBALL[name]) for name in language.split("+")]
    return held[language]


@functools.cache
def _bm25s() -> ModuleType:
    # As soon as it is imported, bm25s looks for jax and starts its backend, for a top-k that is never asked here: a
    # process that only retrieves would hold an accelerator. None in `sys.modules` is how Python says "not there".
    hidden = "jax" not in sys.modules
    if hidden:
        sys.modules["jax.lax"] = None
    try:
        import bm25s
    except ImportError:
        raise SearchError(_NEEDED) from None
    finally:
        if hidden:
            sys.modules.pop("jax.lax", None)
    logging.getLogger("bm25s").setLevel(
        logging.WARNING
    )  # it would tell every handler what it builds
    return bm25s
