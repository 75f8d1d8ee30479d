"""Every row of the table of one fold: own p in its forms, and what each of them is to be told apart from."""

import dataclasses

import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxrec.data.judgement_folds import Cards
from jaxrec.models.personal.item_labels import ItemConfig, ItemView, LoraConfig, lora_log_p
from jaxrec.models.personal.judgement import frozen_of
from jaxrec.models.personal.label_bias import bias_log_p
from jaxrec.models.personal.mixed_effects import MixedEffects
from jaxrec.models.personal.profile import Gaussian
from jaxrec.recommenders.judgement_fit import JudgementFit


@dataclasses.dataclass(frozen=True)
class Case:
    """One fold, laid out. language_U is by person number."""

    view: ItemView
    known: Cards  # training people
    examples: Cards  # what the test people show
    asked: Cards  # what they are asked, row by row the same people
    language_U: np.ndarray
    ks: tuple[int, ...]
    headline: str
    seed: int


def fold_rows(
    trainer: JudgementFit, case: Case, item: ItemConfig, lora: LoraConfig
) -> tuple[dict[tuple[str, int], np.ndarray], PyTree]:
    """({(row, k): p of the labels [B, C] of the asked judgements, in the order of their mask}, weights) of one fold.

    mean_p and shuffled_p take the p's of the headline row: their mean over the *training* people of the same language
    at the same k, and the p of another test person of the same language. own_bias knows of a person one number a label,
    own_effects two, with a prior learned from the training people.
    """
    view, known, examples, asked = case.view, case.known, case.examples, case.asked
    frozen = frozen_of(view, trainer.cfg.content)
    params = trainer.train(frozen, known, case.seed)
    flat = lambda log_p: np.exp(np.asarray(log_p, np.float64))[asked.mask_US]
    log_p = lambda p: flat(trainer.log_p(params, frozen, p, asked.item_US))
    item_B = asked.item_US[asked.mask_US]
    constant = {
        "global_mode": np.broadcast_to(view.overall_C, (len(item_B), len(view.overall_C))),
        "language_only": np.exp(view.base_IC[item_B]),
        "pooled": np.exp(view.log_p_IC[item_B]),
    }
    if len(set(case.language_U.tolist())) == 1:
        del constant["language_only"]
    most = _given(known, max(case.ks))
    spread_E = Gaussian.of(trainer.infer(params, frozen, *most)[known.person_U >= 0]).std_E
    spoken_U = np.where(asked.person_U < 0, -1, case.language_U[asked.person_U])
    other = another_of_same(spoken_U, np.random.default_rng(case.seed))
    alone = other == np.arange(len(other))
    effects = MixedEffects.of(view.crossfit_IC, known)
    out = {}
    for k in case.ks:
        own, theirs = (
            _both(trainer, params, frozen, spread_E, _given(c, k)) for c in (examples, known)
        )
        mean = mean_by_language(
            theirs[case.headline], known.person_U, asked.person_U, case.language_U
        )
        out |= {(row, k): p for row, p in constant.items()}
        out["mean_p", k] = log_p(mean)
        out["shuffled_p", k] = log_p(np.where(alone[:, None], mean, own[case.headline][other]))
        out |= {(row, k): log_p(p) for row, p in own.items()}
        out["own_bias", k] = flat(bias_log_p(view.crossfit_IC, known, examples, k, asked))
        out["own_effects", k] = flat(effects.log_p(view.crossfit_IC, examples, k, asked))
        out["own_lora", k] = flat(lora_log_p(view, examples, k, asked, item, lora, case.seed))
    return out, params


def _given(cards: Cards, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return cards.item_US, cards.label_US, cards.first(k)


def _both(
    trainer: JudgementFit, params: PyTree, frozen: PyTree, spread_E: Array, given: tuple
) -> dict[str, np.ndarray]:
    """p by the encoder, and p by gradient from there."""
    start = trainer.infer(params, frozen, *given)
    fitted = trainer.fit(params, frozen, start, Gaussian(start, spread_E), given)
    return {"own_p_encoder": np.asarray(start), "own_p_gradient": np.asarray(fitted)}


def mean_by_language(
    p_UE: np.ndarray, known_U: np.ndarray, asked_U: np.ndarray, language_U: np.ndarray
) -> Float[np.ndarray, "V E"]:
    """For each asked person the mean p of the known people of that language (of all, where there is none)."""
    real = known_U >= 0
    spoken = language_U[known_U[real]]
    means = np.broadcast_to(p_UE[real].mean(0), (len(asked_U), p_UE.shape[1])).copy()
    for row, person in enumerate(asked_U):
        if person >= 0 and (same := spoken == language_U[person]).any():
            means[row] = p_UE[real][same].mean(0)
    return means


def another_of_same(group_U: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each row another random row of its group, everybody used once; itself only where it is alone."""
    other = np.arange(len(group_U))
    for group in np.unique(group_U):
        members = rng.permutation(np.flatnonzero(group_U == group))
        other[members] = np.roll(members, 1)
    return other
