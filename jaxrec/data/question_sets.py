"""Questions, the texts that may answer them, and what is known of who asks: what a retriever learns from.

set      a public set by its name (`readers.retrieval_sets`); texts are dealt to folds, so that each is tested once by a
         retriever that never saw it
pairs    files of one's own, a line a pair: {"question": ..., "text": ...}; dealt likewise
tenants  tenants' questions and the pages that answer them, all pages in one pool; `held` are tested
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from jaxrec.config import RunError
from jaxrec.data.instructions import json_lines
from jaxrec.data.readers import retrieval_sets
from jaxrec.data.tenants import Tenant, read_tenants
from jaxrec.data.turns import ANSWER, GUIDE, sentences

TRAIN, VALID, TEST = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class QuestionSetConfig:
    """Which questions, and how they are split."""

    kind: Literal["", "set", "pairs", "tenants"] = ""
    name: str = ""  # set: one of `retrieval_sets.SETS`
    files: tuple[str, ...] = ()  # pairs
    sources: tuple[str, ...] = ()  # tenants to learn from: see jaxrec.data.tenants
    held: tuple[str, ...] = ()  # tenants to test on
    folds: int = 5  # set and pairs
    valid: float = 0.15  # share of the other texts (or tenants) on which the best step is chosen
    guide: int = 8  # sentences of a tenant's guide that p is made from
    answers: int = 8  # and answers that it gave
    asked: int = 24  # tenants: questions of each at most, evenly drawn
    seed: int = 0  # of the split


@dataclasses.dataclass(frozen=True)
class QuestionSet:
    """N questions, I texts of which text right_N[n] answers question n, and U tenants (none: U is 0).

    part_FI: what each text is for in each fold, with all its questions. tenant_N, owner_I: whose they are, -1 nobody's.
    known: texts known of tenants; shown_US: their numbers, -1 where a tenant has fewer, and kind_US (`data.turns`).
    """

    name: str
    questions: tuple[str, ...]
    texts: tuple[str, ...]
    right_N: np.ndarray
    part_FI: np.ndarray
    tenant_N: np.ndarray
    owner_I: np.ndarray
    tenants: tuple[str, ...]
    known: tuple[str, ...]
    shown_US: np.ndarray
    kind_US: np.ndarray

    def part_N(self, fold: int) -> np.ndarray:
        """What each question is for: what its right text is for."""
        return self.part_FI[fold][self.right_N]

    def summary(self) -> str:
        """Counts."""
        of = f" of {len(self.tenants)} tenants" if self.tenants else ""
        return (
            f"{self.name}: {len(self.questions):,} questions, {len(self.texts):,} texts{of}, "
            f"{len(self.part_FI)} folds"
        )


def read_question_set(cfg: QuestionSetConfig) -> QuestionSet:
    """The set that a config names. Raises RunError where it names none, or one that can't be split."""
    if cfg.kind == "tenants":
        return _of_tenants(cfg)
    if cfg.kind == "set":
        one = retrieval_sets.read(cfg.name)
        return _dealt(cfg, cfg.name, one.queries, one.texts, one.right_N)
    if cfg.kind == "pairs":
        return _of_pairs(cfg)
    raise RunError(
        "no questions are named to learn from: data.kind is pairs (with data.files), tenants (with data.sources and"
        f" data.held), or set (with data.name, one of {', '.join(retrieval_sets.SETS)})"
    )


def _of_pairs(cfg: QuestionSetConfig) -> QuestionSet:
    if not cfg.files:
        raise RunError('data.files: name files of {"question": ..., "text": ...}, a line a pair')
    questions, places, right = [], dict[str, int](), []
    for file in cfg.files:
        for where, row in _rows(Path(file)):
            said = [row.get(name) for name in ("question", "text")]
            if not all(isinstance(one, str) and one.strip() for one in said):
                raise RunError(f'{where}: a pair is {{"question": TEXT, "text": TEXT}}, not empty')
            questions.append(said[0])
            right.append(places.setdefault(said[1], len(places)))
    if not questions:
        raise RunError(f"{cfg.files[0]} holds no pairs")
    return _dealt(cfg, Path(cfg.files[0]).stem, questions, list(places), np.array(right))


def _rows(path: Path) -> Iterator[tuple[str, dict]]:
    for where, row in json_lines(path):
        if not isinstance(row, dict):
            raise RunError(f"{where}: not a JSON object")
        yield where, row


def _dealt(
    cfg: QuestionSetConfig,
    name: str,
    questions: Sequence[str],
    texts: Sequence[str],
    right_N: np.ndarray,
) -> QuestionSet:
    if not 2 <= cfg.folds <= len(texts) // 2:
        raise RunError(f"{name}: {len(texts)} texts can't be dealt to {cfg.folds} folds")
    order_I = np.random.default_rng(cfg.seed).permutation(len(texts))
    fold_I = order_I % cfg.folds
    valid_I = order_I // cfg.folds % max(round(1 / max(cfg.valid, 1e-3)), 2) == 0
    part_FI = np.where(valid_I, VALID, TRAIN)[None].repeat(cfg.folds, 0)
    part_FI[fold_I, np.arange(len(texts))] = TEST
    nobody, none = np.zeros((0, 0), int), lambda n: np.full(n, -1)
    return QuestionSet(
        name, tuple(questions), tuple(texts), np.asarray(right_N), part_FI,
        none(len(questions)), none(len(texts)), (), (), nobody, nobody,
    )  # fmt: skip


def _of_tenants(cfg: QuestionSetConfig) -> QuestionSet:
    if not cfg.sources or not cfg.held:
        raise RunError("data.sources and data.held: name tenants to learn from, and others to test")
    groups = [_said(cfg.sources), _said(cfg.held)]
    tenants = [tenant for group in groups for tenant in group]
    if twice := {t.key for t in groups[0]} & {t.key for t in groups[1]}:
        raise RunError(f"tenant {sorted(twice)[0]!r} is both learned from and tested")
    step = max(round(1 / max(cfg.valid, 1e-3)), 2)
    part_U = [VALID if u % step == 0 else TRAIN for u in range(len(groups[0]))]
    part_U += [TEST] * len(groups[1])
    questions, texts, right, tenant_N, owner = [], [], [], [], []
    known, shown = [], []
    for u, tenant in enumerate(tenants):
        place = {page.id: len(texts) + i for i, page in enumerate(tenant.pages)}
        texts += [f"{page.title}\n\n{page.text}" for page in tenant.pages]
        owner += [u] * len(tenant.pages)
        # Of a conversation the last page is what the last question is about. p is made from other answers.
        asked = [d for d in (*tenant.onboarding[cfg.answers :], *tenant.heldout) if d.pages]
        asked = [d for d in asked if d.pages[-1] in place]
        step = max(len(asked) / max(cfg.asked, 1), 1.0)
        asked = [asked[int(i * step)] for i in range(min(len(asked), max(cfg.asked, 1)))]
        questions += [d.question for d in asked]
        right += [place[d.pages[-1]] for d in asked]
        tenant_N += [u] * len(asked)
        own = [(GUIDE, said) for said in sentences(tenant.guide)[: cfg.guide]]
        own += [(ANSWER, d.answer) for d in tenant.onboarding[: cfg.answers]]
        shown.append([(len(known) + i, kind) for i, (kind, _) in enumerate(own)])
        known += [said for _, said in own]
    if not questions:
        raise RunError("these tenants have no conversation that names the page which answers it")
    width = max(map(len, shown))
    padded = np.array([row + [(-1, 0)] * (width - len(row)) for row in shown]).reshape(-1, width, 2)
    return QuestionSet(
        "tenants", tuple(questions), tuple(texts), np.array(right), np.array([[part_U[u] for u in owner]]),
        np.array(tenant_N), np.array(owner), tuple(t.key for t in tenants), tuple(known),
        padded[..., 0], padded[..., 1],
    )  # fmt: skip


def _said(sources: Sequence[str]) -> list[Tenant]:
    tenants, skipped = read_tenants(sources)
    for line in skipped.lines():
        print(f"tenants, left out: {line}", flush=True)
    return tenants
