"""Drafts as vectors: a frozen encoder's components, found on training texts, beside the surface it can't see."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import regex
from jaxtyping import Float

from jaxrec.data.candidate_sets import TRAIN, CandidateSet
from jaxrec.models.text.text_vectors import Texts, compressed, read_texts


@dataclasses.dataclass(frozen=True)
class DraftReading:
    """How drafts become vectors. source None: MiniLM of the PyPI package; components 0: all of them."""

    source: str | None = None
    layers: tuple[int, ...] = (-2, -1)
    limit: int = 96
    components: int = 48
    surface: bool = True
    cache: str = "~/.cache/jaxrec/texts"


def read_drafts(data: CandidateSet, fold: int, cfg: DraftReading) -> Texts:
    """z of every text of a set, scaled by what the fold's training texts are like."""
    z_ID = read_texts(
        data.texts, source=cfg.source, layers=cfg.layers, limit=cfg.limit, cache=Path(cfg.cache)
    ).z_cls_ID
    train = data.split_FN[fold] == TRAIN
    numbers = np.concatenate([data.context_N[train], data.candidate_NJ[train].ravel()])
    seen_I = np.zeros(len(data.texts), bool)
    # Means, spreads and components come from training texts alone, or the test texts would help to shape what they are
    # judged by.
    seen_I[numbers[numbers >= 0]] = True
    parts = [compressed(z_ID, seen_I, cfg.components or z_ID.shape[1])]
    if cfg.surface:
        own = surface(data.texts)
        # Counts and shares are of different sizes: each is scaled by its spread among the training texts.
        parts.append((own - own[seen_I].mean(0)) / (own[seen_I].std(0) + 1e-3))
    return Texts(np.concatenate(parts, 1).astype(np.float32))


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
