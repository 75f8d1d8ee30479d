"""Floor 1: generated texts against reference texts and against the catalogue that they speak of.

ROUGE compares words (the `rouge-score` package counts them), BERTScore's greedy matching compares token vectors (any
`embed_tokens` gives them), distinct-n says how varied a set of texts is, and `Catalogue.check` whether a text says what
is true: the right item, attributes that the item has, words that its reader is known to care about.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxrec.words import lower, words

EmbedTokens = Callable[[Sequence[str]], Sequence[np.ndarray]]  # texts -> a matrix [L, D] of each
ROUGE = ("rouge1", "rouge2", "rougeL")
_UNSPACED = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")


class Match(NamedTuple):
    """How far a candidate is covered by the reference (precision), the reference by it (recall), and their F1."""

    precision: float
    recall: float
    f1: float


# ------------------------------------------------------------------------------------------- references


def rouge(
    candidate: str, reference: str, kinds: Sequence[str] = ROUGE, stem: bool = False
) -> dict[str, Match]:
    """ROUGE (Lin 2004) by the package `rouge-score`: rouge1 and rouge2 count shared runs of words, rougeL the longest
    common subsequence. Of two texts without words, and of one, all is 0.

    kinds: "rouge1", "rouge2", ..., "rougeL". stem: English words of more than three letters are compared by their
    Porter stem, as the published figures of summarisation are. The package's own words are runs of a-z and 0-9, so of
    Russian or Chinese nothing is left; ours (`rouge_words`) are the same for plain English, and words of any script.
    candidate: the text to judge. reference: the right one.
    """
    scores = _scorer(tuple(kinds), stem).score(reference, candidate)
    return {
        kind: Match(float(s.precision), float(s.recall), float(s.fmeasure))
        for kind, s in scores.items()
    }


def rouge_l(candidate: str, reference: str) -> Match:
    """ROUGE-L, no stemming."""
    return rouge(candidate, reference, ("rougeL",))["rougeL"]


def rouge_words(text: str) -> list[str]:
    """The words that ROUGE counts: runs of letters, marks and digits, lower case.

    Each character of a script that is written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) is one.
    """
    import regex  # what `re` lacks: scripts and marks

    unspaced = "".join(rf"\p{{{script}}}" for script in _UNSPACED)
    return regex.findall(
        rf"[{unspaced}]\p{{M}}*|[\p{{L}}\p{{N}}\p{{M}}--[{unspaced}]]+", lower(text), regex.V1
    )


@functools.cache
def _scorer(kinds: tuple[str, ...], stem: bool) -> Any:
    """The package's scorer with our words. It is imported here: it brings nltk, a second of imports."""
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(kinds), tokenizer=_Words(stem))


class _Words:
    """What the package asks of a tokenizer."""

    def __init__(self, stem: bool):
        from nltk.stem.porter import PorterStemmer

        self._stem = PorterStemmer().stem if stem else None

    def tokenize(self, text: str) -> list[str]:
        said = rouge_words(text)
        if self._stem is None:
            return said
        return [self._stem(w) if len(w) > 3 and w.isascii() else w for w in said]


def same_text(candidate: str, reference: str) -> bool:
    """Whether two texts are equal but for white space (exact match)."""
    return candidate.split() == reference.split()


def soft_match(
    candidate_LD: Float[np.ndarray, "L D"], reference_MD: Float[np.ndarray, "M D"]
) -> Match:
    """BERTScore's greedy matching (Zhang 2020): each token counts its best cosine among the other text's tokens.

    No weighting by rarity and no rescaling. Of texts without tokens all is 0.
    """
    if not len(candidate_LD) or not len(reference_MD):
        return Match(0.0, 0.0, 0.0)
    near_LM = _unit(candidate_LD) @ _unit(reference_MD).T
    return _match(float(near_LM.max(1).mean()), float(near_LM.max(0).mean()))


def soft_matches(
    candidates: Sequence[str], references: Sequence[str], embed_tokens: EmbedTokens
) -> list[Match]:
    """`soft_match` of each pair of texts. Raises ValueError for lists of different length."""
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} candidates for {len(references)} references")
    vectors = embed_tokens([*candidates, *references])
    half = len(candidates)
    return [soft_match(a, b) for a, b in zip(vectors[:half], vectors[half:], strict=True)]


def distinct_n(texts: Iterable[str], n: int) -> float:
    """The different runs of n words over all of them (Li 2016), over the whole set; 0 where there is none."""
    runs = [tuple(w[i : i + n]) for w in map(words, texts) for i in range(len(w) - n + 1)]
    return len(set(runs)) / len(runs) if runs else 0.0


def _match(precision: float, recall: float) -> Match:
    both = precision + recall
    return Match(precision, recall, 2 * precision * recall / both if both > 0 else 0.0)


def _unit(x_LD: np.ndarray) -> np.ndarray:
    return x_LD / np.maximum(np.linalg.norm(x_LD, axis=1, keepdims=True), 1e-9)


# ------------------------------------------------------------------------------------------- the catalogue


@dataclasses.dataclass(frozen=True)
class Claims:
    """What a text claims, held against the catalogue.

    named: it names its item. others: titles of other items that it names. persona: the words of the reader's persona
    that it uses. true, false: attributes that it names and the item has, or has not (and another item has).
    """

    named: bool
    others: tuple[str, ...]
    persona: tuple[str, ...]
    true: tuple[str, ...]
    false: tuple[str, ...]


class Catalogue:
    """Titles and attributes (brand, category, genre, year) of all items, indexed by their first word.

    A title of one word is not sought as another item's: "Big" and "Nell" stand in many honest sentences.
    """

    def __init__(self, titles: Iterable[str], attributes: Iterable[Iterable[str]] = ()):
        self._titles = _by_first(_phrases((main_title(t) for t in titles), least=2))
        self._attributes = _by_first(_phrases((a for own in attributes for a in own), least=1))

    def check(
        self,
        text: str,
        title: str,
        attributes: Iterable[str] = (),
        persona: Iterable[str] = (),
    ) -> Claims:
        """What `text`, which should speak of the item called `title` to a person of these words, claims.

        attributes: every attribute that the catalogue knows of the item. persona: words of the person's.
        An attribute that the item lacks and the persona names is no claim about the item, and not counted as false.
        """
        said, own = words(text), words(main_title(title))
        plain = words(_before_subtitle(title))  # "Shining, The" may be written as it stands
        at = _places(said, own) or _places(said, plain)
        covered = {i for start in at for i in range(start, start + len(own))}
        rest = [word if i not in covered else "" for i, word in enumerate(said)]
        mine = {tuple(words(a)): a for a in attributes}
        known = set(words(" ".join(persona)))
        others, true, false = {}, {}, {}
        for phrase in _found(said, self._titles):
            if not _inside(phrase, tuple(own)):
                others[" ".join(phrase)] = None
        for phrase in [*_found(rest, self._attributes), *(p for p in mine if _places(rest, p))]:
            if phrase in mine:
                true[mine[phrase]] = None
            elif not known.issuperset(phrase) and not any(_inside(phrase, p) for p in mine):
                false[" ".join(phrase)] = None
        used = dict.fromkeys(word for word in words(" ".join(persona)) if word in set(said))
        return Claims(bool(at), tuple(others), tuple(used), tuple(true), tuple(false))


def main_title(title: str) -> str:
    """A title without its subtitle and what stands in brackets: "High Voltage (Fever)" is called High Voltage.

    A trailing article comes first: "Fugitive, The". Where nothing would be left, the title as it stands.
    """
    main = _before_subtitle(title)
    main = re.sub(r"^(.*), (The|A|An)$", r"\2 \1", main)
    return main if words(main) else title


def _before_subtitle(title: str) -> str:
    return re.split(r"\s*[:(\[|]| - ", title, maxsplit=1)[0].strip()


def _phrases(texts: Iterable[str], least: int) -> set[tuple[str, ...]]:
    return {phrase for text in texts if len(phrase := tuple(words(text))) >= least}


def _by_first(phrases: Iterable[tuple[str, ...]]) -> Mapping[str, list[tuple[str, ...]]]:
    """Phrases by their first word, longer ones first."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for phrase in sorted(phrases, key=lambda p: (-len(p), p)):
        found.setdefault(phrase[0], []).append(phrase)
    return found


def _found(
    said: Sequence[str], phrases: Mapping[str, list[tuple[str, ...]]]
) -> list[tuple[str, ...]]:
    """The phrases in a text, from left to right, the longest at each place, none inside another."""
    found, i = [], 0
    while i < len(said):
        here = phrases.get(said[i], ())
        phrase = next((p for p in here if tuple(said[i : i + len(p)]) == p), None)
        if phrase is not None:
            found.append(phrase)
        i += len(phrase) if phrase else 1
    return found


def _places(said: Sequence[str], phrase: Sequence[str]) -> list[int]:
    size = len(phrase)
    if not size:
        return []
    return [i for i in range(len(said) - size + 1) if list(said[i : i + size]) == list(phrase)]


def _inside(phrase: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return bool(_places(other, phrase))
