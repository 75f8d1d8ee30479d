"""Losses over preferences: the DPO family, what needs no reference, and KTO. Log-probabilities in, a value a row out.

    margin   (log p(chosen) - log r(chosen)) - (log p(rejected) - log r(rejected)), r: the reference policy
    ratio    log p(answer) - log r(answer)

p and r are summed over an answer's tokens, or, where it says so, their means per token. Who divides by the number of
rows is the step's business.
"""

import dataclasses
import difflib
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jaxrec.config import RunError

_ALMOST_ONE = -1e-7  # log p of an answer that is certain: its odds would be infinite


class PreferenceError(RunError, ValueError):
    """Settings that make no loss, or a batch that lacks what the loss reads."""


def sigmoid(
    margin_B: Float[Array, " B"], beta: float = 0.1, smoothing: float = 0.0
) -> Float[Array, " B"]:
    """DPO (Rafailov 2023): -log s(beta margin); log 2 where the policy is the reference.

    `smoothing` e > 0 is *conservative* DPO (cDPO, Mitchell 2023), the cross-entropy with labels that are wrong in a
    part e of the rows: (1 - e) f(margin) + e f(-margin). It wants a finite margin, log((1 - e) / e) / beta.
    """
    right, wrong = jax.nn.softplus(-beta * margin_B), jax.nn.softplus(beta * margin_B)
    return (1 - smoothing) * right + smoothing * wrong


def robust(
    margin_B: Float[Array, " B"], beta: float = 0.1, smoothing: float = 0.1
) -> Float[Array, " B"]:
    """Robust DPO (Chowdhury 2024): an unbiased estimate of DPO on clean labels when a part e of them is flipped.

    ((1 - e) f(margin) - e f(-margin)) / (1 - 2 e), f as in `sigmoid`; it may be negative. Raises PreferenceError for
    e of 0.5 or more, where labels say nothing.
    """
    if not 0 <= smoothing < 0.5:
        raise PreferenceError(
            f"robust: a part of 0 to below 0.5 of the labels may be wrong, not {smoothing}"
        )
    right, wrong = jax.nn.softplus(-beta * margin_B), jax.nn.softplus(beta * margin_B)
    return ((1 - smoothing) * right - smoothing * wrong) / (1 - 2 * smoothing)


def hinge(margin_B: Float[Array, " B"], beta: float = 0.1) -> Float[Array, " B"]:
    """max(0, 1 - beta margin) (Liu 2023, SLiC-HF's loss on DPO's margin)."""
    return jax.nn.relu(1 - beta * margin_B)


def ipo(margin_B: Float[Array, " B"], beta: float = 0.1) -> Float[Array, " B"]:
    """(margin - 1 / (2 beta))^2 (Azar 2023). The margin is of log-ratios *per token*: a sum would grow with length."""
    return jnp.square(margin_B - 1 / (2 * beta))


def orpo(
    chosen_B: Float[Array, " B"], rejected_B: Float[Array, " B"], beta: float = 0.1
) -> Float[Array, " B"]:
    """The odds-ratio term of ORPO (Hong 2024), -beta log s(log odds(chosen) - log odds(rejected)), without reference.

    The arguments are log-probabilities per token; the chosen answer's likelihood is the caller's other term.
    """
    log_odds = lambda log_p: log_p - _log1mexp(jnp.minimum(log_p, _ALMOST_ONE))
    return beta * jax.nn.softplus(log_odds(rejected_B) - log_odds(chosen_B))


def simpo(
    chosen_B: Float[Array, " B"],
    rejected_B: Float[Array, " B"],
    beta: float = 2.0,
    gamma: float = 1.0,
    smoothing: float = 0.0,
) -> Float[Array, " B"]:
    """SimPO (Meng 2024): DPO on log-probabilities per token, without reference, with a target margin `gamma`.

    chosen_B, rejected_B: mean log-probability of a token of each answer, nats. beta: how steep. smoothing: the share of
    labels that are taken to be wrong.
    """
    return sigmoid(chosen_B - rejected_B - gamma / beta, beta, smoothing)


def kto_baseline(
    mismatched_ratio_B: Float[Array, " B"], weight_B: Float[Array, " B"]
) -> Float[Array, ""]:
    """KTO's reference point: the mean log-ratio of answers to prompts they do not belong to, at least 0.

    An estimate of KL(policy || reference); a constant of the batch, through which no gradient flows.
    """
    mean = jnp.sum(mismatched_ratio_B * weight_B) / jnp.maximum(weight_B.sum(), 1)
    return jax.lax.stop_gradient(jnp.maximum(mean, 0.0))


def kto(
    ratio_B: Float[Array, " B"],
    liked_B: Shaped[Array, " B"],
    baseline: Float[Array, ""],
    beta: float = 0.1,
    up: float = 1.0,
    down: float = 1.0,
) -> Float[Array, " B"]:
    """KTO (Ethayarajh 2024) of single answers: w (1 - s(beta (ratio - baseline))) where one was liked, else mirrored.

    `up` and `down` weigh the two kinds; the paper asks for up x ups to be 1 to 4/3 of down x downs.

    ratio_B: log p / p_reference of each answer, nats. liked_B: whether it was. baseline: the batch's mean drift from
    the reference, nats. beta: how steep.
    """
    liked_B = liked_B.astype(bool)
    away_B = beta * (ratio_B - baseline)
    return jnp.where(liked_B, up * jax.nn.sigmoid(-away_B), down * jax.nn.sigmoid(away_B))


def policy_kl(
    policy_BLV: Float[Array, "B L V"],
    reference_BLV: Float[Array, "B L V"],
    loss_BL: Float[Array, "B L"],
) -> Float[Array, " B"]:
    """KL(policy || reference) of the next token over the whole vocabulary, summed over a row's predicted tokens, nats.

    `loss_BL` as in `structs.Tokens`: the weight of predicting each token from those before it.
    """
    # In f32: while the policy has hardly moved the KL is a sum of differences of nearly equal logarithms.
    policy = jax.nn.log_softmax(policy_BLV[:, :-1].astype(jnp.float32))
    reference = jax.nn.log_softmax(reference_BLV[:, :-1].astype(jnp.float32))
    kl_BL = jnp.sum(jnp.exp(policy) * (policy - reference), axis=-1)
    return jnp.sum(kl_BL * loss_BL[:, 1:], axis=-1)


def _log1mexp(x: Array) -> Array:
    """log(1 - exp(x)), x < 0, by the form that does not cancel (Maechler 2012); no branch has an infinite gradient."""
    near = x > -0.6931472
    close = jnp.log(-jnp.expm1(jnp.where(near, x, -1.0)))
    far = jnp.log1p(-jnp.exp(jnp.where(near, -1.0, x)))
    return jnp.where(near, close, far)


# ------------------------------------------------------------------------------------------ one loss by settings

KINDS = ("sigmoid", "robust", "hinge", "ipo", "orpo", "simpo", "kto")
WITHOUT_REFERENCE = ("orpo", "simpo")


@dataclasses.dataclass(frozen=True)
class PreferenceLoss:
    """Which loss, and its settings. Raises PreferenceError for settings that make none."""

    kind: Literal["sigmoid", "robust", "hinge", "ipo", "orpo", "simpo", "kto"] = "sigmoid"
    beta: float | None = None  # None: 2 for simpo, else 0.1
    smoothing: float = (
        0.0  # sigmoid, simpo: cDPO's; robust: the part of labels thought to be flipped
    )
    length_normalised: bool = False  # sigmoid, robust, hinge: log-ratios per token (ipo always)
    gamma: float = 1.0  # simpo's target margin
    up: float = 1.0  # kto's weight of liked answers
    down: float = 1.0  # ... and of disliked ones
    nll: float | None = None  # weight of the chosen answers' nll a token; None: 1 for orpo, else 0
    nll_prompt: bool = True  # the prompt's tokens count in it, as in ORPO's and TRL's code; False: the answer's alone
    kl: float = 0.0  # weight of KL(policy || reference) a token, on both answers

    def __post_init__(self):
        if self.kind not in KINDS:
            near = difflib.get_close_matches(self.kind, KINDS, 1)
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            raise PreferenceError(f"no preference loss {self.kind!r}{meant}: {', '.join(KINDS)}")
        if self.rate <= 0:
            raise PreferenceError(f"{self.kind}: beta must be above 0, not {self.beta}")
        if not 0 <= self.smoothing < 0.5:
            raise PreferenceError(
                f"smoothing is a part of the labels, 0 to below 0.5, not {self.smoothing}"
            )
        if self.smoothing and self.kind not in ("sigmoid", "robust", "simpo"):
            raise PreferenceError(f"{self.kind} has no label smoothing: leave smoothing at 0")

    @property
    def rate(self) -> float:
        """beta, or the kind's own default."""
        return self.beta if self.beta is not None else 2.0 if self.kind == "simpo" else 0.1

    @property
    def nll_weight(self) -> float:
        """Weight of the chosen answers' likelihood."""
        return self.nll if self.nll is not None else float(self.kind == "orpo")

    @property
    def needs_reference(self) -> bool:
        """Whether the loss compares with a reference policy."""
        return self.kind not in WITHOUT_REFERENCE


def pair_losses(
    how: PreferenceLoss,
    chosen_B: Float[Array, " B"],
    rejected_B: Float[Array, " B"],
    chosen_tokens_B: Float[Array, " B"],
    rejected_tokens_B: Float[Array, " B"],
    chosen_reference_B: Float[Array, " B"] | None = None,
    rejected_reference_B: Float[Array, " B"] | None = None,
) -> dict[str, Float[Array, " B"]]:
    """`loss`, `chosen_reward` and `rejected_reward` of each pair, from summed log-probabilities and token counts.

    A reward is beta times the log-ratio (per token where the loss is), or beta times the log-probability per token
    where there is no reference. Raises PreferenceError for "kto", and where a reference is needed and there is none.

    how: the loss and its settings. chosen_B, rejected_B: log-probabilities, nats, summed over the answers' tokens.
    chosen_tokens_B, rejected_tokens_B: how many those are. chosen_reference_B, rejected_reference_B: the reference's
    sums.
    """
    beta = how.rate
    per_token = lambda total_B, tokens_B: total_B / jnp.maximum(tokens_B, 1)
    if how.kind in WITHOUT_REFERENCE:
        good_B, bad_B = (
            per_token(chosen_B, chosen_tokens_B),
            per_token(rejected_B, rejected_tokens_B),
        )
    elif chosen_reference_B is None or rejected_reference_B is None:
        raise PreferenceError(f"{how.kind} needs the reference's log-probabilities of both answers")
    else:
        good_B, bad_B = chosen_B - chosen_reference_B, rejected_B - rejected_reference_B
        if how.length_normalised or how.kind == "ipo":
            good_B, bad_B = per_token(good_B, chosen_tokens_B), per_token(bad_B, rejected_tokens_B)
    made = {
        "sigmoid": lambda: sigmoid(good_B - bad_B, beta, how.smoothing),
        "robust": lambda: robust(good_B - bad_B, beta, how.smoothing),
        "hinge": lambda: hinge(good_B - bad_B, beta),
        "ipo": lambda: ipo(good_B - bad_B, beta),
        "orpo": lambda: orpo(good_B, bad_B, beta),
        "simpo": lambda: simpo(good_B, bad_B, beta, how.gamma, how.smoothing),
    }
    if how.kind not in made:
        raise PreferenceError(
            f"{how.kind} is no loss of pairs: it takes single answers (structs.Thumbs)"
        )
    return {
        "loss": made[how.kind](),
        "chosen_reward": beta * good_B,
        "rejected_reward": beta * bad_B,
    }
