"""Floor 2: the words of a text that say something, and how pleased it sounds."""

import warnings
from functools import cache
from typing import Any

from jaxrec import words as runs

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
