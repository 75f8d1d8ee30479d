"""A tenant's style: closed lists of values, how an answer is dressed in one, and whether an answer meets one.

    answer = greeting  [emoji]  body of 1, 2, 3-4 sentences  [emoji]  disclaimer  sign-off

`dress` builds that; `check` takes it apart again and says, attribute by attribute, whether it was met. The check is
a set of word lists and counts: deterministic, and tolerant of wording, case, and punctuation.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache

FORMALITY = ("casual", "neutral", "formal")
LENGTH = ("short", "medium", "long")
REGISTER = ("plain", "playful", "technical")
GREETING = ("", "Hello!", "Hi there!", "Good day.", "Dear guest,", "Ahoy!", "Hey!", "Welcome.")
SIGN_OFF = (
    "",
    "Kind regards.",
    "Cheers!",
    "Warmly, the team.",
    "Yours faithfully.",
    "See you soon!",
    "Take care.",
)
EMOJI = ("", "🙂", "🌿", "✨", "🔧", "🍞")
EMOJI_COUNT = (0, 1, 2)
DISCLAIMER = (
    "",
    "This is general information, not advice.",
    "Prices may change without notice.",
    "Please check the label before use.",
    "Times depend on the weather.",
)
CUSTOMER = ("customer", "guest", "client", "friend")
ORDER = ("order", "parcel", "booking", "ticket")

VALUES: Mapping[str, tuple] = {
    "formality": FORMALITY,
    "length": LENGTH,
    "greeting": GREETING,
    "sign_off": SIGN_OFF,
    "emoji": EMOJI,
    "emoji_count": EMOJI_COUNT,
    "disclaimer": DISCLAIMER,
    "customer": CUSTOMER,
    "order": ORDER,
    "register": REGISTER,
}
SENTENCES = {"short": (1, 1), "medium": (2, 2), "long": (3, 4)}

# What `check` knows of tone. Generated casual text always contracts or chats, generated formal text always has one of
# `COURTESY`, and openers mark its registers: there the checks tell the values apart (0 to 0.11 of the answers pass as
# another value). Prose by hand is freer: formal is also two signs of `CEREMONY`, playful and technical are words of
# `FANFARE` and `JARGON`, and its own authors meet these two checks in some 50 to 80% of their answers.
COURTESY = re.compile(
    r"\b(kindly|we are (pleased|delighted)|(it is|would be) our pleasure|we would|you may|we shall|should you|"
    r"at your disposal|be assured|we regret|permit us|we invite|do not hesitate|it would be)\b"
)
CEREMONY = re.compile(
    r"\b(is|are|be|been|was|were) (\w+ly |not |also )?\w+(ed|en|ade|ept|ent|own)\b|\b\w{10,}\b|"
    r"\b(may|shall|regret|please|prior|upon|therefore|however|should|would|within|remains?|require[sd]?|advise|recommend|certainly|regrets?)\b"
)
CONTRACTION = re.compile(
    r"n't\b|\b\w+'(re|ll|ve|d|m)\b|\b(it|that|here|there|what|let|who|where|how|everybody|delivery|trick|"
    r"ahead|second|order|parcel|booking|ticket)'s\b"
)
CHAT = re.compile(
    r"\w'\w|\b(yep|yeah|yup|nope|sure thing|no worries|no problem|pop|grab|hiya|gonna|wanna|quid|mate|totally|oh no|"
    r"stuff|folks|a bit|tons|heaps|just|loads|lovely|lots|super|not a|so)\b"
)
SLANG = re.compile(
    r"\b(yep|yeah|yup|nope|sure thing|no worries|pop in|grab|swing by|drop by|hiya|gonna|wanna|quid|give us|ping|"
    r"awesome|stuff|folks|mate|tons|heaps|totally|knock|all set|loads|oh no|gotcha)\b"
)
OPENER = {
    ("playful", "casual"): (
        "Easy peasy:",
        "Drum roll:",
        "Ta-da:",
        "Here's the scoop:",
        "Guess what:",
    ),
    ("playful", "neutral"): ("Happy news:", "A fun one:", "Drum roll:", "Here comes the good bit:"),
    ("playful", "formal"): (
        "With the greatest delight:",
        "What a splendid question:",
        "With a little bow:",
        "To our great joy:",
    ),
    ("technical", "casual"): ("Quick spec:", "Tech note:", "In numbers:", "The data:"),
    ("technical", "neutral"): ("Technical note:", "For reference:", "Key data:", "Specification:"),
    ("technical", "formal"): (
        "For the record:",
        "Reference data:",
        "As specified:",
        "Per our records:",
    ),
}
FANFARE = (
    r"\b(fun|scoop|delight|splendid|hooray|yay|magic|treat|adventure|sparkle|dance|party|voila|oops|giggle|smile|grin|"
    r"cheeky|yum|jolly|merry|sunshine|hug|cuddle|hop|happy|happily|dream|sleep|nap|snooze|tuck|wander|roll|"
    r"gull|deck|sail|quay|tide|oar|anchor|crumb|kettle|nose|belly|tummy|hungry|wave|sip|puff|spa|bee|beehive|curl|"
    r"pal|bean|bench|hero|wizard|spell|song|sing|heart|love|lovely|cosy|warm|fresh|whisk|dough|breeze|wind|storm|"
    r"pocket|doormat|fog|shiny|spark|spring|wake|brave|secret|race|jump|zoom|land|ship|crew|aboard|"
    r"harbour|island|pirate|captain|lighthouse|mermaid|seagull|like a|as a|gadget|toast|gentle|cheer)"
)
PLAYFUL = re.compile(FANFARE + r"(s|es|ed|ing|y|ly)?\b|!")
JARGON = (
    r"\b(technical|gbp|diagnos\w+|firmware|voltage|torque|ratio|diameter|ssd|ram|usb|hdmi|calibrat\w+|enamel|fluoride|"
    r"radiograph\w*|hygien\w+|endodon\w+|composite|fillings?|crowns?|canal|implant\w*|examination|periodontal|clinical|"
    r"clearance|axle|tolerance|brakes?|rotors?|chains?|gears?|tyres?|hubs?|spokes?|wheels?|bolts?|bearings?|drivetrain|"
    r"derailleur|frames?|motor|pedals?|cables?|workshop|hydraulic|labour|bonded|anaesthe\w+|sedation|prescri\w+|"
    r"minutes|working days?|procedure|treatment|itemised|dental|teeth|tooth|surface|component|mechanic|helmets?|pump)\b"
)
TECHNICAL = re.compile(
    JARGON + r"|\b\d{1,2}:\d\d\b|\d ?(mm|cm|kg|g|n·m|wh|w|v|ppm|mg|ml|bar|psi|per cent)\b"
)


@dataclass(frozen=True)
class Style:
    """How a tenant speaks. Every value comes from its closed list; `emoji` is "" exactly when `emoji_count` is 0."""

    formality: str
    length: str
    greeting: str
    sign_off: str
    emoji: str
    emoji_count: int
    disclaimer: str
    customer: str
    order: str
    register: str

    def __post_init__(self):
        for name, values in VALUES.items():
            if getattr(self, name) not in values:
                raise ValueError(f"style: {name}={getattr(self, name)!r} is not one of {values}")
        if (self.emoji == "") != (self.emoji_count == 0):
            raise ValueError(
                f"style: emoji={self.emoji!r} does not go with emoji_count={self.emoji_count}"
            )

    @classmethod
    def from_json(cls, row: Mapping) -> "Style":
        """From `style.json`'s object, where `customer` and `order` lie under `terms`."""
        row = dict(row)
        terms = row.pop("terms", {})
        given = [*row, *terms]
        if sorted(given) != sorted(VALUES):
            missing, unknown = VALUES.keys() - given, set(given) - VALUES.keys()
            raise ValueError(f"style: missing {sorted(missing)}, unknown {sorted(unknown)}")
        return cls(**row, **terms)

    @property
    def rivals(self) -> tuple[str, ...]:
        """Terms of other tenants that stand where this style's own should, one and many."""
        others = [word for word in CUSTOMER + ORDER if word not in (self.customer, self.order)]
        return tuple(form for word in others for form in (word, f"{word}s"))

    def to_json(self) -> dict:
        """What `from_json` reads."""
        row = asdict(self)
        terms = {name: row.pop(name) for name in ("customer", "order")}
        return {**row, "terms": terms}


def lower_first(text: str) -> str:
    """Lower-case the first letter, for a text that goes on after a colon or comma ("I" and names in capitals stay)."""
    return text if re.match(r"I\b|[A-Z]{2}", text) else text[:1].lower() + text[1:]


def dress(sentences: list[str], style: Style, opener: str = "") -> str:
    """The body's sentences in a tenant's style: greeting, register's opener, emoji, disclaimer, sign-off."""
    first, *rest = sentences
    if opener:
        first = f"{opener} {lower_first(first)}"
    if style.greeting.endswith(","):
        first = lower_first(first)
    early = style.emoji if style.emoji_count == 2 else ""
    late = style.emoji if style.emoji_count else ""
    head = [style.greeting, early, first] if style.greeting else [first, early]
    return " ".join(part for part in [*head, *rest, late, style.disclaimer, style.sign_off] if part)


def body(answer: str) -> str:
    """The answer without greeting, emoji, disclaimer and sign-off, whichever of the closed lists they are from."""
    text = _straight(answer)
    for emoji in EMOJI[1:]:
        text = text.replace(emoji, " ")
    for phrase in DISCLAIMER[1:]:
        text = re.sub(_loose(phrase) + r"[.!,]?", " ", text, flags=re.I)
    text = re.sub(rf"^\s*({'|'.join(map(_loose, GREETING[1:]))})\s*[.!,:-]+", " ", text, flags=re.I)
    text = re.sub(rf"({'|'.join(map(_loose, SIGN_OFF[1:]))})\s*[.!,]*\s*$", " ", text, flags=re.I)
    return " ".join(text.split())


def sentence_count(text: str) -> int:
    """How many sentences a text has; a full stop inside a number or after an abbreviation ends none."""
    text = re.sub(r"\b(e\.g|i\.e|a\.m|p\.m|approx|no|Mr|Mrs|Ms|Dr|St)\.(?=\s+\S)", r"\1", text)
    return len([part for part in re.split(r"[.!?]+(?=[\s)\"']|$)", text) if re.search(r"\w", part)])


def check(answer: str, style: Style) -> dict[str, bool]:
    """Attribute -> whether the answer meets it: nine checks, `terms` being met where no rival word is used."""
    text, inner = _straight(answer).lower(), body(answer)
    words = inner.lower()
    count = {emoji: text.count(emoji) for emoji in EMOJI[1:]}
    low, high = SENTENCES[style.length]
    stiff, loose = (
        bool(COURTESY.search(words)),
        bool(CONTRACTION.search(words) or SLANG.search(words)),
    )
    formality = {
        "casual": bool(CHAT.search(words)) and not stiff,
        "neutral": not loose and not stiff,
        "formal": (stiff or len(CEREMONY.findall(words)) > 1) and not loose,
    }
    register = {
        "plain": not re.search(_openers("playful") + "|" + _openers("technical"), words),
        "playful": bool(re.search(_openers("playful"), words) or PLAYFUL.search(words)),
        "technical": bool(re.search(_openers("technical"), words) or TECHNICAL.search(words)),
    }
    met = {
        "formality": formality[style.formality],
        "length": low <= sentence_count(inner) <= high,
        "greeting": _starts(text, GREETING) == style.greeting,
        "sign_off": _ends(text, SIGN_OFF) == style.sign_off,
        "emoji": all(n == 0 for e, n in count.items() if e != style.emoji)
        and (not style.emoji or count[style.emoji] > 0),
        "emoji_count": sum(count.values()) == style.emoji_count,
        "disclaimer": {d for d in DISCLAIMER[1:] if re.search(_loose(d), text, re.I)}
        == ({style.disclaimer} - {""}),
        "terms": not _rivals(words, style),
        "register": register[style.register],
    }
    # who says nothing breaks no rule of tone, and yet has no style
    return met if re.search(r"\w", inner) else dict.fromkeys(met, False)


def fraction_met(answer: str, style: Style) -> float:
    """Share of the nine checks that an answer meets."""
    met = check(answer, style)
    return sum(met.values()) / len(met)


def _straight(text: str) -> str:
    return text.replace("’", "'").replace("‘", "'")


def _loose(phrase: str) -> str:
    """A phrase's words as a pattern, whatever stands between them."""
    return r"\b" + r"\W+".join(re.findall(r"\w+", phrase)) + r"\b"


@cache
def _openers(register: str) -> str:
    phrases = {p for (r, _), group in OPENER.items() if r == register for p in group}
    return "|".join(sorted(rf"{re.escape(p.lower())}" for p in phrases))


def _starts(text: str, phrases: tuple[str, ...]) -> str:
    """The phrase that the text opens with, followed by punctuation; "" for none."""
    text = re.sub(r"^\W+", "", text)
    return next((p for p in phrases[1:] if re.match(_loose(p) + r"\s*[.!,:-]", text, re.I)), "")


def _ends(text: str, phrases: tuple[str, ...]) -> str:
    """The phrase that the text closes with (emoji and punctuation aside); "" for none."""
    return next((p for p in phrases[1:] if re.search(_loose(p) + r"\W*$", text, re.I)), "")


def _rivals(words: str, style: Style) -> list[str]:
    """Words of the closed lists that stand where the tenant's own word should."""
    words = re.sub(r"\bin order\b|\b(to|can|please|you|we|and|or) (order|ticket)\b", " ", words)
    others = [w for w in CUSTOMER + ORDER if w not in (style.customer, style.order)]
    return re.findall(rf"\b(?:{'|'.join(others)})s?\b", words)
