"""Judged answers as one kind of set: ConvAbuse's judges, ABCD's guidelines, tenants' thumbs, sample policies.

Rows point into one tuple of texts. Label 1 is a violation, -1 unknown. `split_FN` says for each fold what a row is for.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Literal, NamedTuple

import numpy as np

from jaxrec.config import RunError
from jaxrec.data.judgements import Judgements, JudgementsConfig, find, read
from jaxrec.data.tenants import Tenant, read_tenants
from jaxrec.data.turns import ANSWER, GUIDE, sentences
from jaxrec.world.judged_answers import judged_answers

TRAIN, VALID, TEST, OUT = 0, 1, 2, -1


@dataclasses.dataclass(frozen=True)
class PolicySetConfig:
    """Which set. Paths are looked up here, then under $JAXREC_DATA."""

    kind: Literal["", "convabuse", "abcd", "tenants", "world"] = ""
    files: tuple[str, ...] = ()  # convabuse: train, dev, test; abcd: guidelines, kb, ontology
    seed: int = 0
    folds: int = 1  # abcd: flows are dealt to so many folds
    tenants: int = 150  # world
    questions: int = 6  # world: of each tenant, each answered rightly and wrongly
    sources: tuple[
        str, ...
    ] = ()  # tenants: whose thumbs are the judgements (see jaxrec.data.tenants)


@dataclasses.dataclass(frozen=True)
class PolicySet:
    """N judged answers of U tenants (or judges, or flows), for F folds.

    group_N: rows that are resampled together. shown_US: numbers of texts known of each tenant (-1: none), with kind
    and label (see `data.turns`): what p is made from; S may be 0.
    """

    labels: tuple[str, ...]
    texts: tuple[str, ...]
    question_N: np.ndarray
    answer_N: np.ndarray
    grounds_N: np.ndarray
    target_NW: np.ndarray
    tenant_N: np.ndarray
    group_N: np.ndarray
    tenants: tuple[str, ...]
    split_FN: np.ndarray
    shown_US: np.ndarray
    kind_US: np.ndarray
    label_US: np.ndarray

    def summary(self) -> str:
        """Counts, label by label."""
        parts = []
        for name, part in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
            rows = self.target_NW[self.split_FN[0] == part]
            said = ", ".join(
                f"{label} {int((rows[:, w] > 0.5).sum())}/{int((rows[:, w] >= 0).sum())}"
                for w, label in enumerate(self.labels)
            )
            parts.append(f"{name} {len(rows):,} ({said})")
        folds = f", {len(self.split_FN)} folds, the first:" if len(self.split_FN) > 1 else ":"
        return f"{len(self.texts):,} texts, {len(self.tenants)} tenants{folds} " + "; ".join(parts)


class Library:
    """Texts by number, each once."""

    def __init__(self) -> None:
        self._at: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        """The number of a text; a new one where it was not known."""
        return self._at.setdefault(text, len(self._at))

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts by number."""
        return tuple(self._at)


def read_policy_set(cfg: PolicySetConfig) -> PolicySet:
    """The set that a config names. Raises RunError (also JudgementError) for files that are absent or not its own."""
    if not cfg.kind:
        raise RunError(
            "no judged answers are named to learn from: data.kind is tenants (with data.sources, whose thumbs they"
            " are), convabuse, abcd, or world, the sample world"
        )
    kinds = {"convabuse": _convabuse, "abcd": _abcd, "tenants": _tenants, "world": _world}
    made = kinds[cfg.kind](cfg)
    first = made.split_FN[0]
    if empty := [n for n, part in (("train", 0), ("valid", 1), ("test", 2)) if part not in first]:
        raise RunError(f"{cfg.kind}: no row for {empty[0]}")
    return made


# -------------------------------------------------------------------------------------------- ConvAbuse


def _convabuse(cfg: PolicySetConfig) -> PolicySet:
    """Per-judge labels, split as published; a text that stands in a later split is taken out of the earlier one.

    Judgements go from 1 (not abusive) over 0 (ambiguous) to -3 (strongly abusive): abuse is below 0, severe below -1.
    """
    if len(cfg.files) != 3:
        raise RunError("data.files: name ConvAbuse's train, dev and test files")
    parts = [read(JudgementsConfig(files=(name,))) for name in cfg.files]
    people = tuple(sorted({person for part in parts for person in part.people}))
    seen: set[tuple[str, ...]] = set()
    library, rows = Library(), []
    for split, part in reversed(list(enumerate(parts))):
        fresh = [own for own in part.parts if own not in seen]
        rows += _judged(part, split, set(fresh), people, library)
        seen |= set(fresh)
    index = np.array([row.index for row in rows])
    target = np.array([row.target for row in rows], np.float32)
    return PolicySet(
        ("abuse", "severe"),
        library.texts,
        index[:, 0],
        index[:, 1],
        np.full(len(rows), -1),
        target,
        index[:, 2],
        index[:, 2],
        people,
        index[None, :, 3],
        *_nothing_shown(len(people)),
    )


class _Row(NamedTuple):
    index: tuple[int, int, int, int]  # question, answer, person, split
    target: tuple[float, ...]


def _judged(
    part: Judgements, split: int, fresh: set, people: Sequence[str], library: Library
) -> list[_Row]:
    rows = []
    for person, item, label in zip(part.person_N, part.item_N, part.label_N, strict=True):
        said = part.parts[item]
        if said not in fresh:
            continue
        if len(said) < 2:
            raise RunError(
                f"not ConvAbuse: an item of {len(said)} parts; it has four, the user's last"
            )
        level = float(part.labels[label])
        before = " / ".join(x for x in said[:-1] if x.strip("_ "))
        who = people.index(part.people[person])
        rows.append(
            _Row(
                (library(before or "-"), library(said[-1]), who, split),
                (float(level < 0), float(level < -1)),
            )
        )
    return rows


def _nothing_shown(tenants: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    empty = np.zeros((tenants, 0), np.int32)
    return empty, empty, empty.astype(np.float32)


# ------------------------------------------------------------------------------------------------- ABCD


def _abcd(cfg: PolicySetConfig) -> PolicySet:
    """Is this the next action that the guidelines allow? True next actions of 55 sub-flows against others.

    A row reads the sub-flow and the actions so far (question), the action proposed (answer) and the sub-flow's
    guideline (grounds). Flows are dealt to folds whole, so a test flow's guidelines were never read in training.
    Others: the actions of the same sub-flow at the wrong time, and as many of other sub-flows.
    """
    if len(cfg.files) != 3 or cfg.folds < 3:
        raise RunError(
            "data.files: name ABCD's guidelines, kb and ontology; data.folds must be 3 or more"
        )
    guidelines, kb, ontology = (json.loads(find(name).read_text("utf-8")) for name in cfg.files)
    flows = ontology["intents"]["subflows"]
    rng, library = Random(cfg.seed), Library()
    every = sorted({action for actions in kb.values() for action in actions})
    order = sorted(flows)
    rng.shuffle(order)
    rows, names = [], []
    for flow, subflows in flows.items():
        book = guidelines[flow.replace("_", " ").title().replace("Single Item", "Single-Item")]
        if len(book["subflows"]) != len(subflows):
            raise RunError(
                f"ABCD: {flow} has {len(subflows)} intents, {len(book['subflows'])} guidelines"
            )
        for subflow, (title, page) in zip(subflows, book["subflows"].items(), strict=True):
            names.append(f"{flow}/{subflow}")
            grounds = library(_guideline(title, page))
            actions = kb[subflow]
            for step, true in enumerate(actions):
                others = [a for a in dict.fromkeys(actions) if a != true]
                strange = [a for a in every if a not in actions]
                others += rng.sample(strange, min(len(others) + 1, len(strange)))
                so_far = ", then ".join(map(_spoken, actions[:step])) or "nothing"
                question = library(f"{flow.replace('_', ' ')}, {title}. Done so far: {so_far}.")
                for action in (true, *others):
                    proposed = library(f"Next: {_spoken(action)}.")
                    wrong = float(action != true)
                    place = (question, proposed, grounds, len(names) - 1, order.index(flow))
                    rows.append((*place, wrong))
    index = np.array([row[:5] for row in rows])
    fold_N = index[:, 4] % cfg.folds
    folds = np.arange(cfg.folds)[:, None]
    valid = (folds + 1) % cfg.folds
    split = np.where(fold_N[None] == folds, TEST, np.where(fold_N[None] == valid, VALID, TRAIN))
    target = np.array([[row[5]] for row in rows], np.float32)
    question, answer, grounds, subflow_N, _ = index.T
    return PolicySet(
        ("compliance",), library.texts, question, answer, grounds, target, subflow_N, subflow_N,
        tuple(names), split, *_nothing_shown(len(names)),
    )  # fmt: skip


def _guideline(title: str, page: dict) -> str:
    """A sub-flow's steps in order, each with the beginning of what it says."""
    steps = [a for a in page["actions"] if a["button"] != "N/A"]
    said = [
        f"{i}. {a['button']}: {' '.join(a['text'].split()[:8])}" for i, a in enumerate(steps, 1)
    ]
    return f"{title}. " + " ".join(said)


def _spoken(action: str) -> str:
    return action.replace("-", " ")


# ---------------------------------------------------------------------------------------- one's own tenants


def read_said(sources: Sequence[str]) -> list[Tenant]:
    """The tenants of some sources; what was left out of them is printed."""
    tenants, skipped = read_tenants(sources)
    for line in skipped.lines():
        print(f"tenants, left out: {line}", flush=True)
    return tenants


def fifths(questions: Sequence[int]) -> list[int]:
    """A split of rows by their questions: each fifth one is tested, each before it validates.

    Raises RunError for fewer than five questions.
    """
    number = {question: i for i, question in enumerate(dict.fromkeys(questions))}
    if len(number) < 5:
        raise RunError(
            f"the tenants judged answers to {len(number)} questions: 5 at least are needed to learn and to test"
        )
    return [{4: TEST, 3: VALID}.get(number[question] % 5, TRAIN) for question in questions]


def _tenants(cfg: PolicySetConfig) -> PolicySet:
    """Does the tenant dislike an answer? By its thumbs and preferences; its guide is what answers are held against."""
    tenants = [tenant for tenant in read_said(cfg.sources) if tenant.feedback]
    library = Library()
    judged = [(u, f) for u, tenant in enumerate(tenants) for f in tenant.feedback]
    rows = [(library(f.question), library(f.answer), library(tenants[u].guide)) for u, f in judged]
    split = fifths([question for question, _, _ in rows])
    known = [
        [(GUIDE, said) for said in sentences(t.guide)]
        + [(ANSWER, d.answer) for d in t.onboarding[:16]]
        for t in tenants
    ]
    shown = np.full((len(tenants), max(map(len, known))), -1)
    kind = np.zeros(shown.shape, np.int32)
    for u, own in enumerate(known):
        for s, (what, said) in enumerate(own):
            shown[u, s], kind[u, s] = library(said), what
    tenant_N = np.array([u for u, _ in judged])
    disliked = np.array([[float(not f.liked)] for _, f in judged], np.float32)
    return PolicySet(
        ("disliked",), library.texts, *np.array(rows).T, disliked, tenant_N, np.array(rows)[:, 0],
        tuple(t.key for t in tenants), np.array([split]), shown, kind, np.zeros(shown.shape, np.float32),
    )  # fmt: skip


# ----------------------------------------------------------------------------------------- sample world


def _world(cfg: PolicySetConfig) -> PolicySet:
    """The sample world's answers, right and wrong; held-out tenants are the test, a fifth of the others validates."""
    answers, known = judged_answers(cfg.seed, cfg.tenants, cfg.questions)
    library = Library()
    tenants = tuple(known)
    held = {tenant for tenant, of in known.items() if of.held_out}
    others = [tenant for tenant in tenants if tenant not in held]
    valid = set(others[::5])
    part = {t: TEST if t in held else VALID if t in valid else TRAIN for t in tenants}
    number = {tenant: i for i, tenant in enumerate(tenants)}
    rows = [(library(a.question), library(a.answer), library(a.grounds)) for a in answers]
    index = np.array(rows)
    tenant_N = np.array([number[a.tenant] for a in answers])
    most = max(len(of.pieces) for of in known.values())
    shown, kind = np.full((len(tenants), most), -1), np.zeros((len(tenants), most), np.int32)
    for tenant, of in known.items():
        for s, (what, text) in enumerate(of.pieces):
            shown[number[tenant], s], kind[number[tenant], s] = library(text), what
    labels = ("grounding", "style", "compliance")
    target = np.array([[a.violations.get(label, -1.0) for label in labels] for a in answers])
    counts = Counter(part.values())
    if len(counts) < 3:
        raise RunError(f"{len(tenants)} tenants are too few for three splits: {dict(counts)}")
    return PolicySet(
        labels, library.texts, *index.T, target.astype(np.float32), tenant_N, tenant_N, tenants,
        np.array([[part[a.tenant] for a in answers]]), shown, kind, np.zeros(shown.shape, np.float32),
    )  # fmt: skip
