"""What differential privacy costs: people's own labels, by shared weights and p's that hide people and events.

    python -m eval.private configs/personal/private_popquorn.py
    python -m eval.private configs/personal/private_popquorn.py --validate --out runs/private

Shared weights hide *people* (the unit is everything a person ever judged), somebody's own p hides *events* (one
judgement). Neither sees a pooled model or base rates: those are made of people's labels as well. What is read of a text
are the first components of its vector. Settings were chosen with --validate, whose judgements are in no test.

Rows: epsilon of the weights, epsilon of p. Beside accuracy and NLL over unseen people and texts: how well an attacker
tells training people from others by the loss of the shared weights on judgements of training texts (`people`), and the
judgements that p was made of from the same person's other ones by how much p improves their loss (`events`); AUC, .5 is
guessing. `moved`: how far p moves the answer from a stranger's (total variation).
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

from jaxrec import config, metrics
from jaxrec.data.judgement_folds import Cards, assign_folds, split
from jaxrec.data.judgements import JudgementsConfig, read
from jaxrec.eval.personalize import PersonalizeConfig, lay_out
from jaxrec.models.personal.item_labels import Projection
from jaxrec.models.personal.judgement import PersonConfig
from jaxrec.models.personal.profile import Gaussian, ProfileFitConfig
from jaxrec.models.text.item_vectors import item_vectors
from jaxrec.recommenders.judgement_fit import JudgementFit, PrivateFit
from jaxrec.recommenders.private_profiles import PrivateProfileConfig, PrivateProfiles
from jaxrec.results import print_table, write_results
from jaxrec.training.accounting import Budget, noise_for
from jaxrec.training.optimizer import OptConfig


@dataclasses.dataclass(frozen=True)
class PrivateConfig:
    """The data, models of few weights (noise is paid for each), and the budgets."""

    name: str = "private"
    data: JudgementsConfig = JudgementsConfig()
    epsilons: tuple[float, ...] = (1.0, 3.0, 8.0)
    delta: float = 1e-3  # below one over the people, and over a person's events
    k: int = 30  # events of a person
    folds: int = 5
    seed: int = 0
    validate: bool = False
    personal: PersonConfig = PersonConfig(
        d_p=4, content=8, rank=2, width=8, queries=1, most=30, steps=100,
        opt=OptConfig(lr=1e-2, schedule="constant", clip=0.0),
    )  # fmt: skip
    people: PrivateFit = PrivateFit()  # its noise follows from the budget
    events: PrivateProfileConfig = PrivateProfileConfig()
    fit: ProfileFitConfig = ProfileFitConfig()  # of a p that hides nothing
    cache: str = "~/.cache/jaxrec/items"
    draws: int = 2000  # of the bootstrap
    out: str = "results/privacy"


NONE = "none"


def main(cfg: PrivateConfig) -> Path:
    """Runs all folds, prints the table, writes the record; gives its path."""
    begun = time.monotonic()
    data = read(cfg.data)
    print(data.summary(), flush=True)
    person_fold, item_fold = assign_folds(data, cfg.folds, cfg.seed)
    splits = [split(data, person_fold, item_fold, f, cfg.validate) for f in range(cfg.folds)]
    z_ID = item_vectors(data.parts, layers=(-2, -1), limit=256, cache=cfg.cache)
    # Texts are public, people's labels are not: the components are those of all texts.
    x_IW = Projection.of(z_ID, np.ones(len(z_ID), bool), cfg.personal.content)(z_ID)
    labels = len(data.labels)
    frozen = {
        "features": np.concatenate([np.zeros((len(x_IW), labels)), x_IW / (x_IW.std(0) + 1e-3)], 1),
        "base": np.full((len(x_IW), labels), -np.log(labels)),
    }
    frozen = {name: np.asarray(x, np.float32) for name, x in frozen.items()}
    shape = PersonalizeConfig(ks=(0, cfg.k), seed=cfg.seed, personal=cfg.personal)
    laid = [lay_out(data, s, shape, splits) for s in splits]
    noises = _noises(cfg)
    trainers = {
        weights: JudgementFit(
            cfg.personal, labels, cfg.fit, dataclasses.replace(cfg.people, noise=noise)
        )
        for weights, (noise, _) in noises.items()
    }
    profiles = PrivateProfiles(cfg.events, trainers[NONE].models)
    found: list[dict[tuple, Any]] = []
    for f, cards in enumerate(laid):
        found.append(_fold(cfg, trainers, profiles, noises, frozen, cards, cfg.seed + f))
        print(f"fold {f + 1} of {cfg.folds}", flush=True)
    label_B = np.concatenate([c.label_US[c.mask_US] for _, _, c in laid])
    person_B = np.concatenate([np.repeat(c.person_U, c.mask_US.sum(1)) for _, _, c in laid])
    rows = _table(cfg, found, label_B, person_B)
    print_table(rows)
    facts = {"judgements": len(data.person_N), "people": len(data.people), "items": len(data.parts)}
    path = write_results(
        cfg.out, "private", rows, config=cfg, seed=cfg.seed, wall_s=time.monotonic() - begun,
        filename=f"{cfg.name}.json", dataset=cfg.name, data=facts, tested=len(label_B),
        noise={str(w): {"people": p, "events": e} for w, (p, e) in noises.items()},
        protocol="validation" if cfg.validate else "test", command="python -m eval.private",
    )  # fmt: skip
    print(f"wrote {path}")
    return path


def _noises(cfg: PrivateConfig) -> dict[Any, tuple[float | None, float | None]]:
    """{epsilon: (noise of the weights' steps, noise of p's steps), in clips}."""
    found: dict[Any, tuple[float | None, float | None]] = {NONE: (None, None)}
    for epsilon in cfg.epsilons:
        budget = Budget(epsilon, cfg.delta)
        people = noise_for(budget, cfg.people.rate, cfg.personal.steps)
        found[epsilon] = people, noise_for(budget, 1.0, cfg.events.steps)
    return found


def _fold(
    cfg: PrivateConfig,
    trainers: dict[Any, JudgementFit],
    profiles: PrivateProfiles,
    noises: dict[Any, tuple[float | None, float | None]],
    frozen: PyTree,
    laid: tuple[Cards, Cards, Cards],
    seed: int,
) -> dict[tuple, Any]:
    """{(weights, p): (probabilities [B, C], AUC of people, AUC of events, moved)} of one fold."""
    known, examples, asked = laid
    out: dict[tuple, Any] = {}
    for weights, trainer in trainers.items():
        params = trainer.train(frozen, known, seed)
        flat = lambda p, params=params, trainer=trainer: np.exp(
            np.asarray(trainer.log_p(params, frozen, p, asked.item_US), np.float64)
        )[asked.mask_US]
        nobody = np.zeros_like(examples.mask_US)
        # What the weights say of somebody of whom nothing is known: made of no events.
        stranger_E = np.asarray(
            trainer.infer(params, frozen, examples.item_US, examples.label_US, nobody)[0]
        )
        start_UE = np.broadcast_to(stranger_E, (len(examples.person_U), len(stranger_E)))
        plain = flat(start_UE)
        people = _auc_of_people(trainer, params, frozen, known, examples)
        out[weights, "nobody's"] = plain, people, None, 0.0
        own = _Own(cfg, trainer, profiles, params, frozen, examples, stranger_E, seed)
        for epsilon in (NONE, *cfg.epsilons):
            if NONE not in (weights, epsilon) and weights != epsilon:
                continue
            noise = noises[epsilon][1]
            p_UE = own.fit(cfg.k, noise)
            said = flat(p_UE)
            moved = 0.5 * np.abs(said - plain).sum(1).mean()
            events = _auc_of_events(
                trainer, params, frozen, examples, own.fit(cfg.k // 2, noise), start_UE, cfg.k
            )
            out[weights, epsilon] = said, people, events, moved
            if weights == NONE:
                real = np.flatnonzero(examples.person_U >= 0)
                other = np.arange(len(p_UE))
                other[real] = np.roll(real, 1)
                out[f"{NONE}, another's p", epsilon] = flat(p_UE[other]), None, None, None
    return out


@dataclasses.dataclass(frozen=True)
class _Own:
    """People's own p of one fold and one set of weights, from their first k events."""

    cfg: PrivateConfig
    trainer: JudgementFit
    profiles: PrivateProfiles
    params: PyTree
    frozen: PyTree
    examples: Cards
    start_E: np.ndarray
    seed: int

    def fit(self, k: int, noise: float | None) -> np.ndarray:
        """p [U, E]; noise None: by gradient as elsewhere, hiding nothing."""
        given = self.examples.item_US, self.examples.label_US, self.examples.first(k)
        if noise is not None:
            return self.profiles.fit(
                self.params, self.frozen, self.start_E, given, noise, self.seed
            )
        start_UE = np.broadcast_to(self.start_E, (len(given[0]), len(self.start_E)))
        prior = Gaussian(start_UE, np.full(len(self.start_E), self.cfg.events.spread, np.float32))
        return np.asarray(self.trainer.fit(self.params, self.frozen, start_UE, prior, given))


def _log_p(
    trainer: JudgementFit, params: PyTree, frozen: PyTree, p_UE: Any, cards: Cards
) -> np.ndarray:
    """Log p of the labels that were given [U, S]."""
    log_p = np.asarray(trainer.log_p(params, frozen, p_UE, cards.item_US), np.float64)
    return np.take_along_axis(log_p, cards.label_US[..., None], -1)[..., 0]


def _auc_of_people(
    trainer: JudgementFit, params: PyTree, frozen: PyTree, known: Cards, others: Cards
) -> float:
    """How well a person's loss tells whether the weights were trained with them: by their p from ten judgements, on
    the next twenty at most, all of training texts."""
    from sklearn.metrics import roc_auc_score  # two seconds that --help need not wait for

    score, member = [], []
    for cards, inside in ((known, True), (others, False)):
        shown = cards.first(10)
        p = trainer.infer(params, frozen, cards.item_US, cards.label_US, shown)
        asked = cards.first(30) & ~shown
        use = (cards.person_U >= 0) & asked.any(1)
        gained = (_log_p(trainer, params, frozen, p, cards) * asked).sum(1)[use] / asked.sum(1)[use]
        score.append(gained)
        member.append(np.full(len(gained), inside))
    return float(roc_auc_score(np.concatenate(member), np.concatenate(score)))


def _auc_of_events(
    trainer: JudgementFit, params: PyTree, frozen: PyTree, cards: Cards, p_UE: np.ndarray, start_UE: np.ndarray, k: int
) -> float:  # fmt: skip
    """How well the gain of a judgement by p, over a stranger's p, tells that p was made with it; within each person."""
    gained = _log_p(trainer, params, frozen, p_UE, cards) - _log_p(
        trainer, params, frozen, start_UE, cards
    )
    inside, outside = cards.first(k // 2), cards.first(k) & ~cards.first(k // 2)
    pairs = wins = 0.0
    for row in np.flatnonzero((cards.person_U >= 0) & inside.any(1) & outside.any(1)):
        a, b = gained[row][inside[row]][:, None], gained[row][outside[row]][None]
        pairs += a.size * b.size
        wins += (a > b).sum() + 0.5 * (a == b).sum()
    return wins / pairs if pairs else float("nan")


def _table(
    cfg: PrivateConfig, found: list[dict], label_B: np.ndarray, person_B: np.ndarray
) -> list[dict]:
    weight = metrics.resamples(len(set(person_B.tolist())), cfg.draws, cfg.seed)
    rows = []
    for key in found[0]:
        said = np.concatenate([fold[key][0] for fold in found])
        of = metrics.by_person(said, label_B, person_B)
        row = {"weights": str(key[0]), "p": str(key[1])}
        for metric, x in metrics.intervals(of, weight).items():
            if metric in ("accuracy", "nll"):
                row |= {metric: x.value, f"{metric}_lo": x.lo, f"{metric}_hi": x.hi}
        for place, name in ((1, "people"), (2, "events")):
            values = [fold[key][place] for fold in found]
            if values[0] is not None:
                error = 1.96 * np.std(values, ddof=1) / np.sqrt(len(values))
                mean = float(np.mean(values))
                row |= {name: mean, f"{name}_lo": mean - error, f"{name}_hi": mean + error}
        if found[0][key][3] is not None:
            row["moved"] = float(np.mean([fold[key][3] for fold in found]))
        rows.append(row)
    return rows


if __name__ == "__main__":
    config.run(main, PrivateConfig, __doc__)
