"""Floor 2: the words of a text that say something, how pleased it sounds, and which words describe a taste."""

import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

from jaxrec import words as runs
from jaxrec.data.histories import Histories
from jaxrec.data.interaction_sets import Items

# An apostrophe ends a word, so that "don't" gives the stop word "don".
_CONTRACTED = "ain aren couldn didn doesn don hadn hasn haven isn mustn shouldn wasn weren won wouldn ll re ve"
# VADER compares every word with every other one's place: 0.2 s at 10,000 characters. 2,000 take 10 ms.
SENTIMENT_CHARACTERS = 2_000


def words(text: str) -> list[str]:
    """The content words, lower case, in order: three letters or more (two outside ASCII), no English stop word."""
    stop = stop_words()
    return [
        word
        for word in runs.words(text, digits=False)
        if len(word) >= (3 if word.isascii() else 2) and word not in stop
    ]


@cache
def stop_words() -> frozenset[str]:
    """scikit-learn's English stop words, and what is left of contractions."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return ENGLISH_STOP_WORDS | frozenset(_CONTRACTED.split())


def sentiment(text: str) -> float:
    """VADER's compound score from -1 (displeased) to 1 (Hutto & Gilbert 2014); English words and emoji.

    0 where no word is in its lexicon. Only the first `SENTIMENT_CHARACTERS` are read.
    """
    return float(_vader().polarity_scores(text[:SENTIMENT_CHARACTERS])["compound"])


@cache
def _vader() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # written for older Pythons; what it warns of does not reach us
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        return SentimentIntensityAnalyzer()


KINDS = 6  # so many different categories, or brands, tell one taste from another
COMMON = 0.2  # a word in more than this share of all titles tells nothing
# How much, how large and how it is packed: no taste.
MEASURES = frozenset(
    "pack packs packet set sets piece pieces pcs count size sizes small medium large mini inch inches feet foot ounce "
    "ounces pound pounds gram grams liter litre litres millilitre color colour colors black white new gift box case "
    "pair single double edition volume vol with for assorted".split()
)


def taken_terms(rows: Histories, items: Items) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(row's person, terms of an item that they took) for every event, as `fit_personas` reads it.

    Terms are the categories and the brand where the shop has at least `KINDS` different ones; else the words of the
    title without measures, numbers and words that many titles have. Nothing where there are no titles either.
    """
    terms_I = item_terms(items)
    people = rows.user_B[rows.row_T].tolist()
    for person, item in zip(people, rows.item_T.tolist(), strict=True):
        if item < len(terms_I) and terms_I[item]:
            yield person, terms_I[item]


def item_terms(items: Items) -> list[tuple[str, ...]]:
    """The terms of every item; empty where the shop tells nothing of its items."""
    columns: list[list[tuple[str, ...]]] = []
    if items.category and len({kind for kinds in items.category for kind in kinds}) >= KINDS:
        columns.append(list(items.category))
    if items.brand and len(set(items.brand) - {""}) >= KINDS:
        columns.append([(brand,) for brand in items.brand])
    if columns:
        rows = zip(*columns, strict=True)
        return [tuple(term for own in row for term in own if term) for row in rows]
    if not items.title:
        return []
    words_I = [set(words(title)) - MEASURES for title in items.title]
    many = Counter(word for own in words_I for word in own)
    most = max(COMMON * len(words_I), 3)
    return [tuple(sorted(word for word in own if many[word] <= most)) for own in words_I]
