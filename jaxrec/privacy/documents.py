"""Floor 3: numbers and addresses as Presidio recognisers: by their form, their check digits and the words before them.

Presidio knows no Russian document; check digits of INN and OGRN are `python-stdnum`'s. A number that has no check digit
(a passport), or a weak one, counts only where a word before it says what it is. Scores below `analyzer.LEAST` are
dropped, and a context word adds .35.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

WEAK, FAIR, SURE = 0.2, 0.5, 0.9


def recognizers() -> list[Any]:
    """All recognisers, freshly made. Imports Presidio (some seconds)."""
    from presidio_analyzer.predefined_recognizers import (
        IbanRecognizer,
        IpRecognizer,
        PhoneRecognizer,
        UsSsnRecognizer,
    )

    return [
        _email(),
        _pattern("CARD", _CARD, _card, ("card", "карт", "visa", "mastercard", "мир", "pan")),
        _pattern(
            "PASSPORT", _PASSPORT, None, ("паспорт", "passport", "серия", "серии", "документ")
        ),
        _pattern("SNILS", _SNILS, snils_is_valid, ("снилс", "snils", "пенсионн", "страхов")),
        _pattern("INN", _INN, _stdnum("inn"), ("инн", "inn", "taxpayer", "налог")),
        _pattern("OGRN", _OGRN, _ogrn, ("огрн", "ogrn", "регистрационн", "registration")),
        _pattern("ACCOUNT", _ACCOUNT, None, ("счет", "счёт", "р/с", "account")),
        _pattern("ADDRESS", _ADDRESSES, None, ()),
        _pattern("PHONE", _PHONE, lambda text: 10 <= len(_digits(text)) <= 15, ()),
        IbanRecognizer(),
        IpRecognizer(),
        UsSsnRecognizer(),
        PhoneRecognizer(
            supported_regions=("RU", "US", "GB"),
            context=["phone", "call", "mobile", "tel", "тел", "звон", "номер", "моб"],
        ),
    ]


OURS = {  # Presidio's names of kinds -> ours
    "EMAIL_ADDRESS": "EMAIL",
    "IBAN_CODE": "ACCOUNT",
    "IP_ADDRESS": "IP",
    "US_SSN": "SSN",
    "PHONE_NUMBER": "PHONE",
}


def snils_is_valid(text: str) -> bool:
    """Whether the last two of eleven digits are the check number of the others (Pension Fund's rule)."""
    digits = _digits(text)
    if len(digits) != 11:
        return False
    total = sum(int(digit) * weight for digit, weight in zip(digits, range(9, 0, -1), strict=False))
    return total % 101 % 100 == int(digits[9:])


def _digits(text: str) -> str:
    return "".join(c for c in text if c.isdigit())


def _card(text: str) -> bool:
    from stdnum import luhn

    digits = _digits(text)
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn.is_valid(digits)


def _ogrn(text: str) -> bool:
    digits = _digits(text)
    if len(digits) == 15:
        # stdnum 2.2 compares a digit with a remainder of 10, 11 or 12 and refuses three of thirteen real numbers
        return int(digits[:-1]) % 13 % 10 == int(digits[-1])
    return _stdnum("ogrn")(text)


def _stdnum(name: str) -> Callable[[str], bool]:
    def valid(text: str) -> bool:
        import importlib

        return importlib.import_module(f"stdnum.ru.{name}").is_valid(_digits(text))

    return valid


# Letters and digits are both \w, and "ИНН7707083893" is how forms are filled in, so bounds are those of digits alone.
_CARD = [(r"(?<![\d-])[2-6](?:[ -]?\d){12,18}(?![\d-]?\d)", FAIR)]
_SNILS = [
    (r"(?<!\d)\d{3}-\d{3}-\d{3}[ -]?\d{2}(?!\d)", SURE),
    (r"(?<!\d)\d{3} \d{3} \d{3} \d{2}(?!\d)", FAIR),
    (r"(?<!\d)\d{11}(?!\d)", WEAK),
]
# Twelve digits carry two check digits, ten carry one, which every eleventh number has by chance.
_INN = [(r"(?<!\d)\d{12}(?!\d)", FAIR), (r"(?<!\d)\d{10}(?!\d)", WEAK)]
_OGRN = [(r"(?<!\d)[15]\d{12}(?!\d)", FAIR), (r"(?<!\d)3\d{14}(?!\d)", FAIR)]
_ACCOUNT = [(r"(?<!\d)40[78]\d{17}(?!\d)", FAIR)]
# Of any country, whether or not its numbering plan knows the prefix.
_PHONE = [(r"(?<![\w+])\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}(?!\d)", FAIR)]
_PASSPORT = [
    (
        r"(?i:сери[яиюей]+|series)\W{0,3}\d{2} ?\d{2}\W{0,4}(?i:номер\w*|ном\.?|№|n|no\.?|number)?\W{0,3}\d{6}(?!\d)",
        SURE,
    ),
    (r"(?<!\d)\d{2} \d{2} (?:№ ?)?\d{3} ?\d{3}(?!\d)", FAIR),
    (r"(?<!\d)\d{4} ?№ ?\d{6}(?!\d)", FAIR),
    (r"(?<!\d)\d{2} ?\d{2}[ -]?\d{6}(?!\d)", WEAK),
    (r"(?<!\d)\d{2} ?№? ?\d{7}(?!\d)", WEAK),  # the one for travelling abroad
]

_NUMBER = r"\d{1,4}(?:[ -]?[A-Za-zА-Яа-я](?![A-Za-zА-Яа-я]))?(?:[/-]\d{1,4})?"
_STREET_EN = (
    r"(?i:street|st|avenue|ave|road|rd|lane|ln|drive|dr|boulevard|blvd|court|ct|place|pl|way|terrace|square|sq|"
    r"close|crescent|parkway|pkwy|highway|hwy)"
)
_CITY_EN = r"(?:, ?[A-Z][a-z'-]+(?: [A-Z][a-z'-]+){0,2})?"
_CODE_EN = r"(?:,? (?:[A-Z]{2},? )?\d{5}(?:-\d{4})?|,? [A-Z]{1,2}\d[\dA-Z]? ?\d[A-Z]{2})?"
_UNIT_EN = r"(?:,? ?(?:(?i:apt|apartment|suite|ste|unit|flat)\.? ?|#) ?[\w-]{1,6})?"
_STREET_RU = (
    r"(?i:ул\.|ул|улиц[аеуы]|пр-т|пр-кт|просп\.|проспект[ае]?|пер\.|переул(?:ок|ке|ка)|б-р|бульвар[ае]?|ш\.|шоссе|"
    r"наб\.|набережн(?:ая|ой|ую)|пл\.|площад[ьи]|проезд[ае]?|тупик[ае]?|линия)"
)
_WORDS_RU = r"(?:\d{1,3}(?:-[а-я]{1,2})? )?[А-ЯЁ][\w.-]*(?: [А-ЯЁ][\w.-]*){0,2}"
_HOUSE_RU = (
    rf"(?:,? ?(?i:дом[ае]?|д\.|д))?,? ?{_NUMBER}"
    r"(?:,? ?(?i:корп(?:\.|ус)?|к\.|стр(?:\.|оение)?|литера?) ?\w{1,3})?"
    r"(?:,? ?(?i:кв(?:\.|артира)?|оф(?:\.|ис)?|комн(?:\.|ата)?|подъезд) ?\d{1,4})?"
)
_CITY_RU = r"(?:\d{6},? ?)?(?:(?:(?i:г\.|город[ае]?) ?)[А-ЯЁ][\w-]+(?: [А-ЯЁ][\w-]+)?,? ?)?"
_ADDRESSES = [
    (
        rf"(?:(?i:flat|apt|apartment|unit)\.? ?\w{{1,5}},? )?(?<!\d)(?<!\d[.,:])\d{{1,5}}[A-Za-z]?,? (?:[NSEW]\.? )?"
        rf"(?:[A-Z][\w'.-]*\s){{1,4}}{_STREET_EN}\b\.?{_UNIT_EN}{_CITY_EN}{_CODE_EN}",
        SURE,
    ),
    # in lower case only by words that mean nothing else
    (
        rf"(?<!\d)\d{{1,5}} (?!(?:of|in|the|on|per|to|for|and|or|a)\b)[a-z'-]{{3,}} "
        rf"(?:street|avenue|road|boulevard|lane)\b{_UNIT_EN}",
        SURE,
    ),
    (rf"{_CITY_RU}(?<!\w){_STREET_RU} ?{_WORDS_RU}{_HOUSE_RU}", SURE),
    (rf"{_CITY_RU}(?<!\w)[А-ЯЁ][\w-]*(?:ая|ой|ую|ий|ом|ый|ого|ское|ском) {_STREET_RU}{_HOUSE_RU}", SURE),
    (r"(?<!\w)(?i:ул\.|улиц[аеуы]|проспект[ае]?) ?[а-яё]{4,},? ?(?i:дом|д\.|д)? ?\d{1,4}(?!\d)", FAIR),
]  # fmt: skip


def _pattern(
    kind: str,
    patterns: Sequence[tuple[str, float]],
    check: Callable[[str], bool] | None,
    context: Sequence[str],
) -> Any:
    from presidio_analyzer import Pattern, PatternRecognizer

    class Checked(PatternRecognizer):
        def validate_result(self, pattern_text: str) -> bool | None:
            # A right check digit leaves the score as it is (True would make it 1): how much it says differs.
            return False if check and not check(pattern_text) else None

    return Checked(
        kind,
        name=f"{kind.lower()} recogniser",
        patterns=[Pattern(f"{kind} {i}", text, score) for i, (text, score) in enumerate(patterns)],
        context=list(context),
        # Upper and lower case tell names of streets from other words, and are said in each pattern.
        global_regex_flags=re.DOTALL | re.MULTILINE,
    )


def _email() -> Any:
    import tldextract
    from presidio_analyzer.predefined_recognizers import EmailRecognizer

    # With its defaults tldextract asks the network for a fresh list and writes it into the person's home.
    known = tldextract.TLDExtract(cache_dir=None, suffix_list_urls=(), fallback_to_snapshot=True)

    class Email(EmailRecognizer):
        def validate_result(self, pattern_text: str) -> bool | None:
            # An address of a company's own network (a@mail.local) has no public suffix and is private all the same.
            return True if known(pattern_text).fqdn else None

    return Email()
