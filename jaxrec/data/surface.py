"""What an uncased sentence encoder can't see of a text: its length, its shouting, its courtesies. Plain numpy."""

import re
from collections.abc import Sequence

import numpy as np
import regex
from jaxtyping import Float

_GREETING = re.compile(
    r"^\W*(hi|hey|hello|dear|good (day|morning|afternoon|evening)|greetings)\b", re.I
)
_CLOSING = re.compile(
    r"\b(regards|sincerely|cheers|best( wishes)?|thanks|thank you|yours|take care)\W*(\w+\W*){0,3}$",
    re.I,
)
_EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]")
NAMES = (
    "words", "sentence", "capitals", "shouted", "exclamations", "questions", "lines", "please", "thanks",
    "contractions", "greeting", "closing", "emoji",
)  # fmt: skip


def surface(texts: Sequence[str]) -> Float[np.ndarray, "I W"]:
    """The features `NAMES` of each text: logarithms of counts, shares, and yes or no as 1 and 0."""
    return np.array([_features(text) for text in texts], np.float32).reshape(len(texts), len(NAMES))


def _features(text: str) -> list[float]:
    words = regex.findall(r"[\w\p{N}']+", text)  # marks are letters
    letters = [c for c in text if c.isalpha()]
    ends = len(re.findall(r"[.!?]+(?=\s|$)", text)) or 1
    count = lambda pattern: float(np.log1p(len(re.findall(pattern, text, re.I))))
    return [
        float(np.log1p(len(words))),
        float(np.log1p(len(words) / ends)),
        sum(c.isupper() for c in letters) / max(len(letters), 1),
        sum(len(w) > 2 and w.isupper() for w in words) / max(len(words), 1),
        count("!"),
        count(r"\?"),
        count("\n"),
        count(r"\bplease\b|\bkindly\b"),
        count(r"\bthank"),
        count(r"\w'(s|t|re|ll|ve|d|m)\b"),
        float(bool(_GREETING.search(text))),
        float(bool(_CLOSING.search(text.strip()))),
        float(np.log1p(len(_EMOJI.findall(text)))),
    ]
