"""Floor 3: which language somebody writes, and the sentences of a text in it.

A conversation keeps its language: the first message that tells sets it, and it changes only when one is asked for by
name or a whole message of some words is in another. `script_of` tells English from Russian by their letters and needs
nothing; where languages share their letters, `LanguageDetector` (lingua, extra `talk`) asks n-gram models of the
languages that are named, and of no others: so "hello" is never Finnish.
"""

import functools
import re
from collections.abc import Callable, Sequence

from jaxrec.config import RunError
from jaxrec.data.turns import sentences as english_sentences
from jaxrec.words import words

Detect = Callable[[str], str]  # a text to an ISO 639-1 code, "" where it does not tell
ENOUGH = 3  # words of a message that changes the language
_NAMED = {
    "en": re.compile(r"\b(?:in\s+english|speak\s+english|по-английски|на\s+английском)\b", re.IGNORECASE),
    "ru": re.compile(r"\b(?:in\s+russian|speak\s+russian|по-русски|на\s+русском)\b", re.IGNORECASE),
}  # fmt: skip


class LanguageDetector:
    """Tells the named languages apart. The models are loaded by the first text that needs them.

    English and Russian have no letters in common, and need 3 MB; English, German and Russian take 96 MB, and .6 CPU
    seconds to load.

    languages: ISO 639-1 codes, two or more. sure: the least confidence, below which a text tells nothing. Raises
    RunError without the package, for a code that it does not know, and for fewer than two.
    """

    def __init__(self, languages: Sequence[str] = ("en", "ru"), sure: float = 0.6):
        self.languages, self.sure = tuple(languages), sure
        if len(set(self.languages)) < 2:
            raise RunError(f"languages={list(languages)}: name two or more to tell apart")

    def __call__(self, text: str) -> str:
        """The language of a text; "" where it has no letters or could be of several."""
        if not words(text, digits=False):
            return ""
        found = self._detector.compute_language_confidence_values(text[:2_000])
        best = found[0]
        return best.language.iso_code_639_1.name.lower() if best.value >= self.sure else ""

    @functools.cached_property
    def _detector(self):
        try:
            from lingua import Language, LanguageDetectorBuilder
        except ImportError:
            raise RunError(
                "languages are told apart by lingua: pip install 'jaxrec[talk]'"
            ) from None
        codes = {one.iso_code_639_1.name.lower(): one for one in Language.all()}
        if wrong := [one for one in self.languages if one not in codes]:
            raise RunError(
                f"there is no language {wrong[0]!r}: name ISO 639-1 codes such as en, ru, de"
            )
        named = (codes[one] for one in dict.fromkeys(self.languages))
        return LanguageDetectorBuilder.from_languages(*named).build()


def script_of(text: str) -> str:
    """ "ru" for a text of Cyrillic letters, "en" for one of Latin letters, "" where neither is most of it."""
    latin = sum("a" <= letter <= "z" for letter in text.lower())
    cyrillic = sum("а" <= letter <= "я" or letter == "ё" for letter in text.lower())
    if latin + cyrillic < 2:
        return ""
    share = cyrillic / (latin + cyrillic)
    return "ru" if share > 0.6 else "en" if share < 0.4 else ""


def kept_language(kept: str, text: str, detect: Detect = script_of) -> str:
    """The language of a conversation after a message.

    kept: the one so far, "" unknown. text: the message. detect: tells a language.
    """
    for code, named in _NAMED.items():
        if named.search(text):
            return code
    if kept and len(words(text, digits=False)) < ENOUGH:
        return kept
    return detect(text) or kept


def sentences(text: str, language: str = "en") -> list[str]:
    """The sentences of a text: Russian ones by razdel, others by the house's own rules.

    Raises RunError for Russian without the package.
    """
    if language != "ru":
        return english_sentences(text)
    try:
        from razdel import sentenize
    except ImportError:
        raise RunError(
            "Russian sentences are split by razdel: pip install 'jaxrec[talk]'"
        ) from None
    return [one.text for one in sentenize(text) if one.text.strip()]
