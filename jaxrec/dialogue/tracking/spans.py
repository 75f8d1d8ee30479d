"""Floor 3: which words of a turn are values: every token is begin, inside or outside, by the words around it.

    [0, 0, B, I, 0] of "table at Sino's Grill please"

A linear model over hashed features of the token and its neighbours, one token at a time: no sequence is searched.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_TOKEN = re.compile(r"[$£€]?\d+(?:[:.,]\d+)*|\w+(?:['’&]\w+)*|[^\w\s]")
WIDTH = 2**18  # of the hashed features
OUTSIDE, BEGIN, INSIDE = 0, 1, 2


class Token(NamedTuple):
    """A token with its characters [start, stop)."""

    text: str
    start: int
    stop: int

    @property
    def word(self) -> str:
        """In small letters."""
        return self.text.lower()


class Span(NamedTuple):
    """A value that stands in a text: tokens [first, last]."""

    text: str
    first: int
    last: int


def tokens_of(text: str) -> list[Token]:
    """The tokens of a text."""
    return [Token(found[0], *found.span()) for found in _TOKEN.finditer(text)]


def shape(text: str) -> str:
    """A token's form: what kinds of letters it has, runs of one kind once."""
    kinds = [
        "A" if c.isupper() else "a" if c.islower() else "9" if c.isdigit() else c for c in text
    ]
    return "".join(c for i, c in enumerate(kinds) if i == 0 or c != kinds[i - 1])


def token_features(tokens: Sequence[Token]) -> list[list[str]]:
    """What is told of each token."""
    words = ["<", "<", *(one.word for one in tokens), ">", ">"]
    forms = ["<", *(shape(one.text) for one in tokens), ">"]
    found = []
    for i, one in enumerate(tokens):
        w = words[i : i + 5]
        found.append(
            [
                f"0{w[2]}", f"-{w[1]}", f"+{w[3]}", f"--{w[0]}", f"++{w[4]}", f"-0{w[1]} {w[2]}", f"0+{w[2]} {w[3]}",
                f"--{w[0]} {w[1]}", f"s{forms[i + 1]}", f"s-{forms[i]}", f"s+{forms[i + 2]}", f"x{one.word[-3:]}",
                f"s2{forms[i]} {forms[i + 1]}", f"^{i == 0}", f"s-w{w[1]} {forms[i + 1]}",
            ]
        )  # fmt: skip
    return found


class SpanTagger:
    """Finds values in texts. Made by `fit`."""

    def __init__(self, model: Any):
        self._model = model

    @classmethod
    def fit(
        cls, texts: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]], seed: int = 0
    ) -> "SpanTagger":
        """Learns from texts and which characters of each are values. seed: of the order of the rows."""
        from sklearn.linear_model import SGDClassifier

        rows, tags = [], []
        for text, own in zip(texts, spans, strict=True):
            tokens = tokens_of(text)
            rows += token_features(tokens)
            tags += [_tag(token, own) for token in tokens]
        model = SGDClassifier(
            loss="log_loss", alpha=3e-7, max_iter=6, tol=None, average=True, random_state=seed
        )
        return cls(model.fit(hashed(rows), np.array(tags)))

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        """The values in each text, in order."""
        tokens = [tokens_of(text) for text in texts]
        rows = [row for one in tokens for row in token_features(one)]
        if not rows:
            return [[] for _ in texts]
        tags = self._model.predict(hashed(rows)).tolist()
        found, at = [], 0
        for text, one in zip(texts, tokens, strict=True):
            found.append(_spans(text, one, tags[at : at + len(one)]))
            at += len(one)
        return found


def hashed(rows: Sequence[Sequence[str]], width: int = WIDTH) -> Any:
    """Features by name as a sparse matrix [B, width]."""
    from sklearn.feature_extraction import FeatureHasher

    hasher = FeatureHasher(width, input_type="string", alternate_sign=False, dtype=np.float32)
    return hasher.transform(rows)


# ------------------------------------------------------------------------------------------ inside


def _tag(token: Token, spans: Sequence[tuple[int, int]]) -> int:
    for start, stop in spans:
        if start <= token.start < stop:
            return BEGIN if token.start == start else INSIDE
    return OUTSIDE


def _spans(text: str, tokens: Sequence[Token], tags: Sequence[int]) -> list[Span]:
    """Runs of begin and inside; an inside without a begin begins."""
    found: list[list[int]] = []
    for i, tag in enumerate(tags):
        if tag == BEGIN or (tag == INSIDE and (i == 0 or tags[i - 1] == OUTSIDE)):
            found.append([i, i])
        elif tag == INSIDE:
            found[-1][1] = i
    return [Span(text[tokens[a].start : tokens[b].stop], a, b) for a, b in found]
