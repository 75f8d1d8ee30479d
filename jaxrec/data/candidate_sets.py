"""Drafts to choose from: which candidate is a person's own? POPQUORN's e-mails, tenants' preferences, sample answers.

Candidate 0 is the person's own; what follows is in the order of reading, -1 where there is none. Labels of keeping: 1
the draft may go out as it stands, 0 it must be rewritten, -1 unknown.
"""

import csv
import dataclasses
import gzip
import io
from collections import defaultdict
from collections.abc import Sequence
from random import Random
from typing import Literal

import numpy as np
from jaxtyping import Int

from jaxrec.config import RunError
from jaxrec.data.judgements import JudgementError, find
from jaxrec.data.policy_sets import OUT, TEST, TRAIN, VALID, Library, fifths, read_said
from jaxrec.data.turns import sentences
from jaxrec.world import grammar
from jaxrec.world.conversations import RIVAL, Talk
from jaxrec.world.judged_answers import rival
from jaxrec.world.tenants import generate


@dataclasses.dataclass(frozen=True)
class CandidateSetConfig:
    """Which set. The file is looked up here, then under $JAXREC_DATA."""

    kind: Literal["", "popquorn", "tenants", "world"] = ""
    file: str = ""
    seed: int = 0
    folds: int = 5  # popquorn: people are dealt to so many
    tenants: int = 150  # world
    questions: int = 8  # world: of each tenant
    rivals: int = 3  # world: candidates in other styles
    sources: tuple[
        str, ...
    ] = ()  # tenants: whose preferences are the drafts (see jaxrec.data.tenants)


@dataclasses.dataclass(frozen=True)
class CandidateSet:
    """N choices among at most J candidates, by U people; K pieces known of each person for p.

    context_N is what is answered or rewritten. A piece is (context or -1, text), and `piece_N` names the row's own
    piece (-1: none), which must not be shown with it. split_FN as in `policy_sets`; group_N is resampled together.
    """

    texts: tuple[str, ...]
    context_N: np.ndarray
    candidate_NJ: np.ndarray
    keep_NJ: np.ndarray
    person_N: np.ndarray
    piece_N: np.ndarray
    people: tuple[str, ...]
    piece_context_UK: np.ndarray
    piece_text_UK: np.ndarray  # -1: no piece
    split_FN: np.ndarray

    def summary(self) -> str:
        """Counts of the first fold."""
        names = {"train": TRAIN, "valid": VALID, "test": TEST, "left out": OUT}
        said = ", ".join(f"{int((self.split_FN[0] == v).sum()):,} {k}" for k, v in names.items())
        there = (self.candidate_NJ >= 0).sum(1)
        return (
            f"{len(self.texts):,} texts, {len(self.people)} people, {len(there):,} choices among {there.min()} to "
            f"{there.max()} candidates; of fold 0: {said}"
        )


def read_candidate_set(cfg: CandidateSetConfig) -> CandidateSet:
    """The set that a config names. Raises RunError (also JudgementError) for a file that is absent or not its own."""
    if not cfg.kind:
        raise RunError(
            "no drafts are named to learn from: data.kind is tenants (with data.sources, whose preferences they are),"
            " popquorn, or world, the sample world"
        )
    return {"popquorn": _popquorn, "tenants": _tenants, "world": _world}[cfg.kind](cfg)


def _popquorn(cfg: CandidateSetConfig) -> CandidateSet:
    """Candidates of an e-mail: the person's own rewrite, another person's, and the original.

    Folds are of people, and no e-mail that a test person rewrote is in training. A rewrite that equals the original
    (or the other's) can't be told from it and is left out, as are people with fewer than two rewrites.
    """
    rows = _emails(cfg)
    by_email: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for person, email, rewrite in rows:
        by_email[email].append((person, rewrite))
    library, pieces = Library(), defaultdict(list)
    made = []
    for person, email, rewrite in rows:
        others = [r for who, r in by_email[email] if who != person and r != rewrite]
        if rewrite == email:
            continue
        context, own = library(email), library(rewrite)
        made.append(
            (person, context, [own, *map(library, others[:1]), context], len(pieces[person]))
        )
        pieces[person].append((context, own))
    people = tuple(sorted(p for p, own in pieces.items() if len(own) > 1))
    number = {person: u for u, person in enumerate(people)}
    made = [row for row in made if row[0] in number]
    if len(people) < 2 * cfg.folds or cfg.folds < 3:
        raise JudgementError(
            f"{len(people)} people are too few for {cfg.folds} folds of three or more"
        )
    person_N = np.array([number[row[0]] for row in made])
    context_N = np.array([row[1] for row in made])
    candidates = _padded([row[2] for row in made])
    fold_U = np.random.default_rng(cfg.seed).permutation(len(people)) % cfg.folds
    split = np.stack([_fold(f, fold_U[person_N], context_N, cfg.folds) for f in range(cfg.folds)])
    keep = np.where(candidates == context_N[:, None], 0.0, -1.0)
    keep[:, 0] = 1.0
    return CandidateSet(
        library.texts, context_N, candidates, keep.astype(np.float32), person_N,
        np.array([row[3] for row in made]), people,
        _padded([[c for c, _ in pieces[p]] for p in people]),
        _padded([[t for _, t in pieces[p]] for p in people]), split,
    )  # fmt: skip


def _emails(cfg: CandidateSetConfig) -> list[tuple[str, str, str]]:
    path = find(cfg.file)
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    wanted = ("user_id", "original email", "revised email")
    if missing := [name for name in wanted if name not in (reader.fieldnames or ())]:
        raise JudgementError(
            f"{path} has no column {missing[0]!r}; its columns are {reader.fieldnames}"
        )
    rows = [tuple((row[name] or "").strip() for name in wanted) for row in reader]
    return list(dict.fromkeys(row for row in rows if all(row)))


def _fold(f: int, fold_N: np.ndarray, context_N: np.ndarray, folds: int) -> np.ndarray:
    """Test: the people of fold f; validation: those of f + 1; training: the rest, without either's e-mails."""
    test, valid = fold_N == f, fold_N == (f + 1) % folds
    asked = np.isin(context_N, context_N[test])
    split = np.where(asked, OUT, np.where(np.isin(context_N, context_N[valid]), OUT, TRAIN))
    split = np.where(valid & ~asked, VALID, split)
    return np.where(test, TEST, split)


def _tenants(cfg: CandidateSetConfig) -> CandidateSet:
    """Two candidates of a question, the preferred answer and the rejected one; each fifth question is tested."""
    tenants = [tenant for tenant in read_said(cfg.sources) if tenant.preferences]
    library = Library()
    known = lambda t: (
        [(-1, library(said)) for said in sentences(t.guide)]
        + [(library(d.question), library(d.answer)) for d in t.onboarding[:16]]
    )
    pieces = [known(tenant) for tenant in tenants]
    made = [
        (u, library(p.question), [library(p.chosen), library(p.rejected)])
        for u, tenant in enumerate(tenants)
        for p in tenant.preferences
    ]
    part = fifths([row[1] for row in made])
    return _set(library, made, part, pieces, [tenant.key for tenant in tenants])


def _world(cfg: CandidateSetConfig) -> CandidateSet:
    """Candidates of a question: the tenant's own answer, and the same facts in other styles. Held-out tenants test."""
    library, pieces, made, part = Library(), [], [], []
    tenants = generate(cfg.seed, cfg.tenants)
    seen = [t.key for t in tenants if not t.held_out]
    valid = set(seen[::5])
    for u, tenant in enumerate(tenants):
        rng = Random(f"{cfg.seed}/candidates/{u}")
        talk = Talk(rng, tenant, {d.question for d in tenant.onboarding})
        guide = [(-1, library(said)) for said in sentences(tenant.guide)]
        pieces.append(
            guide + [(library(d.question), library(d.answer)) for d in tenant.onboarding[:16]]
        )
        of = TEST if tenant.held_out else VALID if tenant.key in valid else TRAIN
        for topic in rng.sample(sorted(grammar.topics()), cfg.questions):
            question, item, service = talk.question("ask", topic)
            said = grammar.right_facts(tenant.facts, topic, item)
            speak = lambda style: talk.answer(topic, item, service, style, said)  # noqa: B023
            changes = [
                tuple(rng.sample(sorted(RIVAL), rng.choice((1, 2, 3)))) for _ in range(cfg.rivals)
            ]
            drafts = [speak(tenant.style), *(speak(rival(rng, tenant.style, c)) for c in changes)]
            if len(set(drafts)) == len(drafts):
                made.append((u, library(question), [library(draft) for draft in drafts]))
                part.append(of)
    if {TRAIN, VALID, TEST} - set(part):
        raise RunError(f"{len(tenants)} tenants are too few for three splits")
    return _set(library, made, part, pieces, [t.key for t in tenants])


def _set(
    library: Library,
    made: list[tuple[int, int, list[int]]],
    part: Sequence[int],
    pieces: list[list[tuple[int, int]]],
    people: Sequence[str],
) -> CandidateSet:
    """A set of one fold, whose first candidates are the people's own.

    library: all texts. made: (person, context, candidates) of each choice. part: of each, its split. pieces: (context,
    text) of each person. people: their names.
    """
    candidates = _padded([row[2] for row in made])
    keep = np.zeros(candidates.shape, np.float32)
    keep[:, 0] = 1.0
    return CandidateSet(
        library.texts, np.array([row[1] for row in made]), candidates, keep, np.array([row[0] for row in made]),
        np.full(len(made), -1), tuple(people),
        _padded([[c for c, _ in own] for own in pieces]), _padded([[t for _, t in own] for own in pieces]),
        np.array([part]),
    )  # fmt: skip


def _padded(rows: list[list[int]]) -> np.ndarray:
    """Rows of unequal length as one array, -1 behind the shorter ones."""
    out = np.full((len(rows), max(map(len, rows))), -1, np.int32)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def draw_pieces(
    data: CandidateSet, rows: Int[np.ndarray, " B"], size: int, rng: np.random.Generator
) -> tuple[Int[np.ndarray, "B S"], Int[np.ndarray, "B S"]]:
    """(contexts, texts) of 0 to `size` random pieces of each row's person; -1 where there is none.

    The number is log-uniform: an encoder must make do with few pieces and with none.

    data: the set. rows: whose pieces. rng: of the draw.
    """
    person, own = data.person_N[rows], data.piece_N[rows]
    there = _others(data, person, own)
    order = np.argsort(np.where(there, rng.random(there.shape), 2.0), 1)[:, :size]
    count = np.exp(rng.uniform(np.log(0.5), np.log(size + 1), (len(rows), 1))).astype(int)
    return _at(data, person, order, there, np.arange(order.shape[1])[None, :] < count)


def first_shown(
    data: CandidateSet, rows: Int[np.ndarray, " B"], k: int, size: int
) -> tuple[Int[np.ndarray, "B S"], Int[np.ndarray, "B S"]]:
    """(contexts, texts) [B, size] of the first k pieces of each row's person that the row is not about.

    data: the set. rows: whose pieces.
    """
    person, own = data.person_N[rows], data.piece_N[rows]
    there = _others(data, person, own)
    order = np.argsort(~there, 1, kind="stable")[:, :size]
    return _at(data, person, order, there, np.arange(order.shape[1])[None, :] < k)


def _others(data: CandidateSet, person_B: np.ndarray, own_B: np.ndarray) -> np.ndarray:
    places = np.arange(data.piece_text_UK.shape[1])[None, :]
    return (data.piece_text_UK[person_B] >= 0) & (places != own_B[:, None])


def _at(
    data: CandidateSet, person_B: np.ndarray, order: np.ndarray, there: np.ndarray, few: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    real = np.take_along_axis(there, order, 1) & few
    pick = lambda piece_UK: np.where(real, np.take_along_axis(piece_UK[person_B], order, 1), -1)
    return pick(data.piece_context_UK).astype(np.int32), pick(data.piece_text_UK).astype(np.int32)
