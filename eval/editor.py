"""Does the editor find a person's own draft, and is it p that does it? Unseen people, after k pieces of theirs.

    JAXREC_DATA=... python -m eval.editor --model runs/editor_popquorn

Reads what `train.editor` wrote (OUT/FOLD/VARIANT/model) and asks it about the test people of every fold. Rows: own_p;
mean_p, the mean p of the training people at the same k; shuffled_p, another test person's p; no_p, an editor trained
without p. Intervals: 95%, bootstrap over people. Writes results/editor/NAME.json.

Measures: MRR and accuracy@1 of the own draft, the share of pairs won (all; against another person's draft; against the
original), and of keep or rewrite decided rightly. A draft of equal score counts as ranked before the own one.
"""

import dataclasses
import time
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxrec import checkpoint, config
from jaxrec.config import RunError
from jaxrec.data.candidate_sets import (
    TEST,
    TRAIN,
    CandidateSet,
    CandidateSetConfig,
    first_shown,
    read_candidate_set,
)
from jaxrec.detection import group_weights
from jaxrec.models.personal.draft_vectors import DraftReading, read_drafts
from jaxrec.models.personal.editor import EditorBatch
from jaxrec.models.personal.editor_folder import load_editor
from jaxrec.models.text.text_vectors import Texts
from jaxrec.results import print_table, write_results

MEASURES = ("mrr", "top1", "pairs", "against_other", "against_original", "keep")
Measured = dict[str, Float[np.ndarray, " B"]]


@dataclasses.dataclass(frozen=True)
class EditorEvalConfig:
    """Which trained editors, after how many pieces, and where the record goes."""

    model: str = "runs/editor"
    name: str = ""  # of the record; the model folder's, by default
    ks: tuple[int, ...] = (0, 1, 3, 5, 9)
    headline: str = "own_p"
    draws: int = 1000
    seed: int = 0
    part: int = TEST  # 1: validation rows
    cache: str = "~/.cache/jaxrec/texts"
    out: str = "results/editor"

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 0 or list(self.ks) != sorted(set(self.ks)):
            raise ValueError(f"ks must ascend from 0 or more without repeats, not {self.ks}")


def main(cfg: EditorEvalConfig) -> Path:
    """Scores every row of the table, prints it, writes the record; gives its path."""
    begun = time.monotonic()
    root = Path(cfg.model)
    folds = sorted(path for path in root.glob("[0-9]*") if (path / "own_p" / "model").is_dir())
    if not folds:
        raise RunError(f"there is no trained editor in {root}: run jaxrec.train.editor first")
    facts = checkpoint.load_facts(folds[0] / "own_p" / "model")
    if max(cfg.ks) > facts["pieces"]:
        raise RunError(
            f"k = {max(cfg.ks)}: this editor was trained on {facts['pieces']} pieces at most"
        )
    data = read_candidate_set(config.from_dict(CandidateSetConfig, facts["data"]))
    reading = dataclasses.replace(config.from_dict(DraftReading, facts["reading"]), cache=cfg.cache)
    print(data.summary(), flush=True)
    found: dict[tuple[str, int], list[Measured]] = {}
    person = []
    for fold in folds:
        f = int(fold.name)
        texts = read_drafts(data, f, reading)
        rows = np.flatnonzero(data.split_FN[f] == cfg.part)
        person.append(data.person_N[rows])
        for key, measured in fold_rows(cfg, data, texts, f, fold, rows).items():
            found.setdefault(key, []).append(measured)
    whole = {
        key: {name: np.concatenate([part[name] for part in parts]) for name in MEASURES}
        for key, parts in found.items()
    }
    person_B = np.concatenate(person)
    table, paired = compared(cfg, whole, person_B)
    name = cfg.name or root.name.removeprefix("editor_")
    print()
    print_table(table, ("row", "k", *MEASURES))
    print(f"\n{cfg.headline} minus, k = {max(cfg.ks)}")
    shown = [p for p in paired if p["k"] == max(cfg.ks) and p["diff"] is not None]
    print_table(shown, ("b", "metric", "diff", "lo", "hi"))
    path = write_results(
        cfg.out, "editor", table, paired, {"eval": cfg, "train": facts["data"], "editor": facts["editor"]},
        cfg.seed, time.monotonic() - begun, headline=cfg.headline, filename=f"{name}.json", dataset=name,
        tested=len(person_B), people=len(np.unique(person_B)),
        command=f"python -m eval.editor --model {cfg.model}",
    )  # fmt: skip
    print(f"\nwrote {path}")
    return path


def fold_rows(
    cfg: EditorEvalConfig, data: CandidateSet, texts: Texts, f: int, fold: Path, rows: np.ndarray
) -> dict[tuple[str, int], Measured]:
    """The measures of every row and k, choice by choice, of one fold."""
    own = load_editor(fold / "own_p" / "model")
    plain = fold / "no_p" / "model"
    size = own.facts["pieces"]
    trained = np.flatnonzero(data.split_FN[f] == TRAIN)
    other_B = another_persons_row(data.person_N[rows], np.random.default_rng(cfg.seed + f))
    out = {}
    ask = lambda model, batch, p=None: measure(batch, *model.scores(texts, batch, p))
    for k in cfg.ks:
        asked, known = (batch_of(data, part, k, size) for part in (rows, trained))
        p_BE = own.profiles(texts, asked)
        mean_E = own.profiles(texts, known).mean(0)
        out["own_p", k] = ask(own, asked, p_BE)
        out["mean_p", k] = ask(own, asked, np.broadcast_to(mean_E, p_BE.shape))
        out["shuffled_p", k] = ask(own, asked, p_BE[other_B])
        if plain.is_dir():
            out["no_p", k] = ask(load_editor(plain), asked)
    return out


def batch_of(data: CandidateSet, rows: np.ndarray, k: int, size: int) -> EditorBatch:
    """Choices with the first k pieces of their person."""
    return EditorBatch(
        data.context_N[rows].astype(np.int32), data.candidate_NJ[rows], data.keep_NJ[rows],
        *first_shown(data, rows, k, size),
    )  # fmt: skip


def another_persons_row(person_B: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each row a row of one other person, the same person for all rows of one; everybody is used once."""
    people = rng.permutation(np.unique(person_B))
    after = dict(zip(people.tolist(), np.roll(people, 1).tolist(), strict=True))
    first = {person: int(np.flatnonzero(person_B == person)[0]) for person in people.tolist()}
    return np.array([first[after[person]] for person in person_B.tolist()])


def measure(batch: EditorBatch, score_BJ: np.ndarray, keep_BJ: np.ndarray) -> Measured:
    """`MEASURES` of each choice; NaN where a choice says nothing of one. Raises ValueError for a score that is NaN."""
    there = batch.draft_BJ >= 0
    if np.isnan(score_BJ[there]).any() or np.isnan(keep_BJ[there]).any():
        raise ValueError("a draft's score is NaN")
    beaten = there[:, 1:] & (score_BJ[:, 1:] < score_BJ[:, :1])
    rank = 1 + (there[:, 1:] & ~beaten).sum(1)
    original = there[:, 1:] & (batch.draft_BJ[:, 1:] == batch.context_B[:, None])
    share = lambda of: np.where(of.any(1), (beaten & of).sum(1) / np.maximum(of.sum(1), 1), np.nan)
    known = there & (batch.keep_BJ >= 0)
    right = ((keep_BJ > 0) == (batch.keep_BJ > 0.5)) & known
    # own and other drafts weigh alike, however many others there are
    first, rest = right[:, 0] * 1.0, known[:, 1:]
    others = np.where(rest.any(1), right[:, 1:].sum(1) / np.maximum(rest.sum(1), 1), np.nan)
    return {
        "mrr": 1 / rank,
        "top1": (rank == 1) * 1.0,
        "pairs": share(there[:, 1:]),
        "against_other": share(there[:, 1:] & ~original),
        "against_original": share(original),
        "keep": (first + others) / 2,
    }


def compared(
    cfg: EditorEvalConfig, whole: dict[tuple[str, int], Measured], person_B: np.ndarray
) -> tuple[list[dict], list[dict]]:
    """(a line a row and k, the headline minus every other row), with intervals over people."""
    ones, drawn = group_weights(person_B, cfg.draws, cfg.seed)
    table, paired = [], []
    for (row, k), of in whole.items():
        line = {"row": row, "k": k}
        for name in MEASURES:
            line |= _with_interval(name, of[name], ones, drawn)
        table.append(line)
        if row == cfg.headline:
            continue
        for name in MEASURES:
            gap = _with_interval("diff", whole[cfg.headline, k][name] - of[name], ones, drawn)
            said = {"diff": gap["diff"], "lo": gap["diff_lo"], "hi": gap["diff_hi"]}
            paired.append({"a": cfg.headline, "b": row, "k": k, "metric": name, **said})
    return table, paired


def _with_interval(
    name: str, x_B: np.ndarray, ones: np.ndarray, drawn: np.ndarray
) -> dict[str, float | None]:
    """The mean over the rows that say something, and its 95% interval; None where none does."""
    real = ~np.isnan(x_B)
    if not real.any():
        return {name: None, f"{name}_lo": None, f"{name}_hi": None}
    mean = lambda w: w[:, real] @ x_B[real] / np.maximum(w[:, real].sum(1), 1e-9)
    lo, hi = np.percentile(mean(drawn), (2.5, 97.5))
    return {name: float(mean(ones)[0]), f"{name}_lo": float(lo), f"{name}_hi": float(hi)}


if __name__ == "__main__":
    config.run(main, EditorEvalConfig, __doc__)
