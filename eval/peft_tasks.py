"""What the PEFT methods are compared on: two sets of customer support, split so that no wording is on two sides.

    bitext      8,359 utterances of 27 intents, the intent's name to be completed: classification by a language model
    bank-faqs   1,499 questions with the bank's answers, to be written

Many utterances are noised copies of one template. Rows whose content words are the same (case, slots, function words,
polite openings and endings of words aside) are one template, and so are questions with the same answer; a template
lies on one side, chosen by a hash of it, never at random.
"""

import csv
import gzip
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxrec.config import RunError
from jaxrec.data.folder import dataset
from jaxrec.data.instructions import Instruction
from jaxrec.files import content_hash

# Words that a template is recognised without.
_FUNCTION = frozenset(
    "a an the i me my mine you your ur u we us our it its is are am be been was do does did can could would will may "
    "might shall should to of for with in on at from by about and or if how what where when which who why there this "
    "that these those some any have has had having need want wanna like please pls plz help assist assistance info "
    "information know tell see let give question possible ask make using use im id ill ive don dont not more".split()
)
_ENDINGS = ("ations", "ation", "ings", "ing", "ies", "ions", "ion", "ed", "es", "s", "e")
PARTS = {"train": 0.7, "valid": 0.15, "test": 0.15}


@dataclass(frozen=True)
class Task:
    """Instructions in three parts, and what is asked of an answer. `length`: tokens a row."""

    name: str
    train: list[Instruction]
    valid: list[Instruction]
    test: list[Instruction]
    measure: (
        str  # "accuracy": the answer is right word for word; "rouge_l": how much of it is there
    )
    length: int
    templates: int

    def facts(self) -> dict[str, int]:
        """How many rows a part has, and templates in all."""
        sizes = {part: len(getattr(self, part)) for part in PARTS}
        return {**sizes, "templates": self.templates}


def task(name: str) -> Task:
    """A task by name. Raises RunError for an unknown one, DataMissing without JAXREC_DATA."""
    known: dict[str, Callable[[], Task]] = {"bitext": bitext, "bank-faqs": bank_faqs}
    if name not in known:
        raise RunError(f"there is no task {name!r}; there are {', '.join(known)}")
    return known[name]()


def bitext() -> Task:
    """The older sample with all 27 intents."""
    path = dataset("bitext") / "bitext_8k_flags_utterance_category_intent.csv.gz"
    rows = list(dict.fromkeys((r["utterance"].strip(), r["intent"]) for r in _rows(path)))
    found = [_instruction(q, a.replace("_", " "), path, i) for i, (q, a) in enumerate(rows)]
    return _made("bitext", found, [template(q) for q, _ in rows], "accuracy", 64)


def bank_faqs() -> Task:
    """A bank's questions and answers; those with one answer are of one template."""
    path = dataset("bank-faqs") / "BankFAQs.csv.gz"
    rows = list(
        dict.fromkeys((r["Question"].strip(), " ".join(r["Answer"].split())) for r in _rows(path))
    )
    found = [_instruction(q, a, path, i) for i, (q, a) in enumerate(rows)]
    keys = joined([(f"q {template(q)}", f"a {a.lower()}") for q, a in rows])
    return _made("bank-faqs", found, keys, "rouge_l", 128)


def template(said: str) -> str:
    """The content words of an utterance, cut to their stems, each once, in alphabetical order."""
    words = re.findall(r"[a-z']+", re.sub(r"\{\{.*?\}\}", " ", said.lower()))
    return " ".join(sorted({_stem(w.strip("'")) for w in words if w not in _FUNCTION}))


def joined(keys: Sequence[tuple[str, ...]]) -> list[str]:
    """One name for all rows that are linked, over however many steps, by a key they share."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for first, *others in keys:
        for other in others:
            a, b = sorted((root(first), root(other)))
            parent[b] = a
    return [root(own[0]) for own in keys]


def side(key: str) -> str:
    """The part of a template, by a hash of it."""
    place = int(content_hash(key, digits=16), 16) / 2**64
    for part, share in PARTS.items():
        if place < share:
            return part
        place -= share
    return "test"


def _made(name: str, found: list[Instruction], keys: list[str], measure: str, length: int) -> Task:
    parts: dict[str, list[Instruction]] = {part: [] for part in PARTS}
    for one, key in zip(found, keys, strict=True):
        parts[side(key)].append(one)
    return Task(name, **parts, measure=measure, length=length, templates=len(set(keys)))


def _instruction(question: str, answer: str, path: Path, i: int) -> Instruction:
    return Instruction((("user", question), ("assistant", answer)), f"{path.name}:{i + 2}")


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    doubled = len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiou"
    return word[:-1] if doubled else word  # cancell(ing), shipp(ing)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise RunError(f"there is no file {path}")
    with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as lines:
        return list(csv.DictReader(lines))
