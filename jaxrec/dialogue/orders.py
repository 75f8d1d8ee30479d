"""Floor 3: where a text gives orders to the model that reads it ("ignore the above"), in whatever letters.

A text is read three times: as it stands (full-width letters folded), with letters that look Latin as Latin ones and
digits as the letters that they imitate (1gn0re), and with letters that look Cyrillic as Cyrillic ones. A list of
phrases finds what attackers copy from one another; it is no proof that a text gives none. How often it is wrong about
real support texts is a test (`tests/test_hostile.py`, where the data are).
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping

Span = tuple[int, int]  # characters [start, stop)

# Letters that are drawn alike, in pairs: what stands there and what it is read as.
_pairs = lambda told: {pair[0]: pair[1] for pair in told.split()}
_LATIN = _pairs(
    "аa еe оo рp сc уy хx іi јj ѕs һh ԁd ѵv ԛq ԝw кk мm тt нh вb ьb ѐe ёe їi єe ґr ғf ӏl ոn սu ցg հh օo ɡg ıi ɩi ɑa "
    "αa οo εe ρp τt νv κk ιi υu χx ωw βb ηn γy σo ßb"
)
_DIGITS = _pairs("0o 1i 3e 4a 5s 7t @a $s €e !i")
_CYRILLIC = _pairs("aа eе oо pр cс yу xх kк mм tт hн bв iі uи 3з 0о 6б 4ч")

_WHAT = (
    r"(?:instructions?|prompts?|rules?|directions?|directives?|guidelines?|messages?|context|polic(?:y|ies)"
    r"|commands?)"
)
_WHICH = (
    r"(?:all|any|every|the|your|my|our|of|these|those|above|previous|prior|earlier"
    r"|preceding|foregoing|system|initial|original|safety|other)"
)
_ENGLISH = [
    rf"\b(?:ignore|disregard|forget|override|overrule|bypass|discard|neglect)\s+(?:{_WHICH}\s+){{1,6}}{_WHAT}",
    r"\b(?:ignore|disregard|forget)\s+(?:all|everything|anything|what(?:ever)?)?\s*(?:of\s+)?(?:the|that\s+is|was|is|you\s+were\s+told|i\s+said|written|said|stated)?\s*"
    r"(?:above|before\s+this|previously|so\s+far)\b",
    rf"\b(?:do\s+not|don'?t|never|stop)\s+(?:follow(?:ing)?|obey(?:ing)?)\s+(?:{_WHICH}\s+){{1,5}}{_WHAT}",
    rf"\b(?:new|updated|real|true|actual|secret|hidden|important)\s+(?:system\s+)?{_WHAT}\s*[:：]",
    r"\bsystem\s+(?:prompt|message|override|instructions?)\b",
    r"\b(?:you\s+are|you'?re)\s+(?:now|no\s+longer)\s+(?:a|an|the|in|bound|my|called|free|dan\b|acting|evil|unrestricted|root|admin)",
    r"\bfrom\s+now\s+on\b[^.!?\n]{0,20}\b(?:you|act|answer|respond|reply|speak|say|pretend|behave)\b",
    r"\b(?:pretend|imagine)\s+(?:to\s+be|that\s+you|you\s+are|you'?re)\b",
    r"\b(?:act|behave|respond|answer|roleplay|role-play)\s+as\s+(?:if\s+you|though\s+you|(?:an?|the)\s+(?:unrestricted|unfiltered|uncensored|evil|admin\w*|root|developer|"
    r"system|different|new)\b|dan\b)",
    r"\b(?:developer|debug|admin|god|jailbreak|dan|maintenance)\s+mode\b[^.!?\n]{0,20}\b(?:on|enabled?|activated?|active|unlocked)\b",
    r"\b(?:enable|activate|enter|switch\s+(?:in)?to)\s+(?:the\s+)?(?:developer|debug|admin|god|jailbreak|dan|unrestricted)\s+mode\b",
    rf"\b(?:reveal|print|repeat|show|output|display|leak|give|tell|translate|summari[sz]e)\s+(?:me\s+|us\s+)?(?:back\s+)?(?:{_WHICH}\s+){{0,3}}"
    rf"(?:system|hidden|initial|original|secret)\s+{_WHAT}",
    r"\b(?:repeat|print|output)\s+(?:everything|all|the\s+(?:text|words))\s+(?:above|before)\b",
    r"\byour\s+(?:new|real|true|only|actual)\s+(?:task|role|instructions?|goal|purpose|identity|name)\s+(?:is|are)\b",
    r"\b(?:note|message|instructions?|attention)\s+(?:to|for)\s+(?:the\s+|any\s+)?(?:ai|assistant|model|chatbot|llm|language\s+model)\b",
    r"\b(?:dear|hey|attention)\s+(?:ai|assistant|chatbot|llm|language\s+model)\b",
    r"(?:^|[.!?:]\s+)(?:ai|assistant|chatbot|llm|language\s+model)s?,?\s+(?:you\s+)?(?:must|should|shall|will)\b",
    r"\b(?:if|when)\s+you\s+are\s+an?\s+(?:ai|assistant|chatbot|llm|(?:large\s+)?language\s+model)\b",
    r"\b(?:respond|reply|answer)\s+(?:only|exactly|solely|always)?\s*(?:with|by\s+saying)\s+(?:the\s+(?:word|text|phrase)|exactly|only)\b",
    r"\b(?:end|start|begin)(?:ning)?\s+of\s+(?:the\s+)?(?:system\s+)?(?:prompt|context|documents?|passages?|system\s+message|instructions?)\b",
    r"\b(?:say|append|insert)\s+(?:exactly|verbatim)\b",
    r"\bunauthori[sz]ed\s+mode\b|\bjailbreak(?:ed|ing)?\b|\bprompt\s+injection\b|\bdo\s+anything\s+now\b",
]
_RUSSIAN = [
    r"\b(?:про)?игнориру(?:й|йте|ем)\b[^.!?\n]{0,40}\b(?:инструкц|указани|правил|выше|предыдущ|прошл|систем|промпт|сообщени|всё|все)",
    r"\b(?:забудь|забудьте|отбрось|отмени|отмените|не\s+следуй|не\s+следуйте|не\s+обращай(?:те)?\s+внимания)\b[^.!?\n]{0,40}"
    r"\b(?:инструкц|указани|правил|выше|предыдущ|систем|промпт|что\s+(?:тебе|вам)\s+говорил)",
    r"\b(?:ты|вы)\s+(?:теперь|больше\s+не|отныне)\b[^.!?\n]{0,30}\b(?:бот|помощник|ассистент|модель|человек|пират|админ\w*|хакер|систем\w*|обязан\w*|злой|свобод\w*)",
    r"\b(?:с\s+этого\s+момента|отныне)\b[^.!?\n]{0,20}\b(?:ты|вы|отвечай|отвечайте|говори|веди)\b",
    r"\b(?:покажи|выведи|раскрой|повтори|напечатай|сообщи|перескажи)(?:те)?\b[^.!?\n]{0,30}\b(?:системн\w+|скрыт\w+|исходн\w+)\s+(?:промпт|инструкц|сообщени|подсказк|указани|запрос)",
    r"\bнов(?:ые|ая|ое|ый)\s+(?:системн\w+\s+)?(?:инструкци|указани|правил|задани|промпт)\w*\s*[:：]",
    r"\bсистемн(?:ый|ого|ому|ое|ые)\s+(?:промпт|сообщени|подсказк|запрос)\w*",
    r"\b(?:включи|активируй|перейди\s+в)\s+режим\s+(?:разработчик|админ|отладк|бог)|\bрежим\s+разработчика\s+(?:включ|актив)",
    r"\b(?:притворись|представь,?\s+что\s+ты|веди\s+себя\s+как)\b",
    r"\b(?:ассистент|помощник|бот|модель|нейросеть|ии),?\s+(?:ты\s+)?(?:должен|должна|обязан|обязана)\b",
    r"\bответь(?:те)?\s+(?:только|ровно|дословно)\b|\b(?:скажи|напиши)(?:те)?\s+(?:ровно|дословно)\b",
]
_OTHERS = [  # German, French, Spanish, Italian, Portuguese, Chinese
    r"\b(?:ignorier\w*|vergiss|missachte)\s+(?:\w+\s+){0,4}(?:anweisung|regel|anleitung|vorgabe)\w*",
    r"\b(?:ignore[zr]?|oublie[zr]?)\s+(?:\w+\s+){0,4}(?:instructions|consignes|regles|règles)\b",
    r"\b(?:ignora|olvida|ignore|dimentica|esqueça|esquece)\s+(?:\w+\s+){0,4}(?:instrucciones|istruzioni|instruções|instrucoes|reglas|regole|regras)\b",
    r"(?:忽略|无视|忘记).{0,12}(?:指令|指示|规则|提示)|系统提示",
]
_PLAIN = re.compile("|".join(_ENGLISH + _RUSSIAN + _OTHERS), re.MULTILINE)
_AS_LATIN = re.compile("|".join(_ENGLISH + _OTHERS), re.MULTILINE)
_AS_CYRILLIC = re.compile("|".join(_RUSSIAN), re.MULTILINE)
# i g n o r e, i.g.n.o.r.e: four single letters or more with one sign between each two
_SPELLED = re.compile(r"(?<![^\W_])[^\W\d_](?:[ .\-_*·][^\W\d_](?![^\W_])){3,}")


def orders(text: str) -> list[Span]:
    """Where a text gives orders to a model, in order, without overlap; none for nearly every honest text."""
    if not text:
        return []
    found = _search(text, {}, _PLAIN) + _search(text, _LATIN | _DIGITS, _AS_LATIN)
    if any("Ѐ" <= letter <= "ӿ" for letter in text):
        found += _search(text, _CYRILLIC, _AS_CYRILLIC)
    for run in _SPELLED.finditer(text):
        # Spelled out, words can't be told from letters: all of it is read as one word's letters.
        if re.search(
            "ignoreall|ignoreprev|ignorethe|disregard|игнорируй|ignore$",
            _folded(re.sub(r"[\W_]", "", run[0]), _LATIN)[0],
        ):
            found.append(run.span())
    return _merged(found)


def _search(text: str, alike: Mapping[str, str], pattern: re.Pattern[str]) -> list[Span]:
    folded, places = _folded(text, alike)
    return [(places[m.start()], places[m.end() - 1] + 1) for m in pattern.finditer(folded) if m[0]]


def _folded(text: str, alike: Mapping[str, str]) -> tuple[str, list[int]]:
    """The text in small, compatible letters, and the place in `text` from which each came."""
    letters, places = [], []
    for place, letter in enumerate(text):
        for one in _small(letter):
            letters.append(alike.get(one, one))
            places.append(place)
    return "".join(letters), places


@functools.lru_cache(maxsize=4096)
def _small(letter: str) -> str:
    return unicodedata.normalize("NFKC", letter).casefold() or letter


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged
