"""Floor 4: preference training: of two answers to one prompt, the better one (DPO and its kin); or single thumbs (KTO).

Both answers go through the model in one forward pass, as the rows 2i and 2i + 1 of a batch of 2B: neighbours, so that
each device keeps its own pairs. The reference's log-probabilities come in the batch, where they were computed once
beforehand (`objectives.reference`), or from the same weights with the change switched off (`lm.reference`), in the
same step. Neither needs a second model. What trains (a Delta, a head, a tenant's p) is the script's rule of paths.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxrec.losses.preference import (
    PreferenceError,
    PreferenceLoss,
    kto,
    kto_baseline,
    pair_losses,
    policy_kl,
)
from jaxrec.losses.tokens import following, next_log_probs
from jaxrec.models.language.tuned_lm import LM
from jaxrec.objectives.objective import Objective
from jaxrec.structs import Aux, Pairs, Thumbs, Tokens
from jaxrec.training.gradients import Spanning
from jaxrec.training.partition import merge

Reference = Literal["batch", "switched"]


class Answers(NamedTuple):
    """What a model says of B answers: log-probability (nats, summed), how many tokens that is, and of each place."""

    log_p_B: Float[Array, " B"]
    tokens_B: Float[Array, " B"]
    log_p_BL: Float[Array, "B L"]  # of the next token
    logits_BLV: Float[Array, "B L V"] | None = None  # where asked for


def answers(
    lm: LM,
    tree: PyTree,
    batch: PyTree,
    key_B: Array | None = None,
    places_BL: Array | None = None,
    logits: bool = False,
) -> Answers:
    """The log-probability of what `lm.tokens(batch)` says, at the places where its `loss_BL` counts.

    Args:
      lm: the model.
      tree: all its parts.
      batch: `Tokens` or `Turns`.
      key_B: a random key a row while training.
      places_BL: not 0 at further places of which `log_p_BL` must tell.
      logits: whether they are wanted too, as a whole.
    """
    said = lm.tokens(batch)
    logits_BLV = None
    if logits:
        logits_BLV = lm.outputs(tree, batch, key_B).logits
        log_p_BL, _ = next_log_probs(logits_BLV, said.ids_BL)
    else:
        places_BL = said.loss_BL if places_BL is None else (said.loss_BL != 0) | (places_BL != 0)
        log_p_BL, _ = lm.log_probs(tree, batch, key_B, places_BL)
    log_p_B = jnp.sum(log_p_BL * following(said.loss_BL), axis=1)
    return Answers(log_p_B, count(said), log_p_BL, logits_BLV)


def count(said: Tokens) -> Float[Array, " B"]:
    """Predicted tokens of each row: the first token of a row is predicted by nothing."""
    return said.loss_BL[:, 1:].sum(-1)


def both(first: PyTree, second: PyTree) -> PyTree:
    """Two batches of B rows as one of 2B, row by row in turn. Raises PreferenceError where their lengths differ."""
    sizes = [[x.shape for x in jax.tree.leaves(side)] for side in (first, second)]
    if sizes[0] != sizes[1]:
        raise PreferenceError(f"both answers are padded to one length: {sizes[0]} and {sizes[1]}")
    # Side by side and not one half behind the other: cut over the devices, every pair stays on one of them.
    join = lambda a, b: jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])
    return jax.tree.map(join, first, second)


def prefer(lm: LM, how: PreferenceLoss, reference: Reference = "batch") -> Objective:
    """The preference loss of `how`: mean over pairs (`structs.Pairs`); "kto": over single answers (`structs.Thumbs`).

    reference: where the reference's log-probabilities come from: "batch", or "switched", by `lm.reference` (no gradient
    flows there); a loss without reference takes none. A row in which no token is predicted counts nothing.
    Pairs: `preference`, `margin`, `accuracy` (chosen's reward above rejected's), `chosen_reward`, `rejected_reward`,
    `chosen_logp`, `rejected_logp` (nats an answer), and where asked for `nll` (a token) and `kl` (a token).
    KTO spans the batch through its baseline: take `gradients.spanning(accum)`. Its metrics: `preference`, `baseline`,
    `liked_reward`, `disliked_reward` (means over rows of that kind), `margin` and `accuracy` (reward on the right side
    of the baseline).
    Raises PreferenceError for a KL term without a switched reference.
    """
    if how.kl and reference != "switched":
        raise PreferenceError("the KL term reads the reference's logits: set reference='switched'")
    return _thumbs(lm, how, reference) if how.kind == "kto" else _pairs(lm, how, reference)


# --------------------------------------------------------------------------------------------------- pairs


def judge_pairs(
    lm: LM,
    tree: PyTree,
    batch: Pairs,
    how: PreferenceLoss,
    reference: Reference = "batch",
    key_B: Array | None = None,
) -> dict[str, Array]:
    """Everything that is known of each pair, leaves [B]: `pair_losses`, log-probabilities, token counts, `real`.

    With a KL term also `kl` (nats, summed over both answers), with a likelihood term `nll` (nats, of the chosen).

    Args:
      lm: the model.
      tree: all its parts.
      batch: both answers to each prompt.
      how: which loss (DPO, Rafailov 2023; IPO, Azar 2024; ORPO, SimPO, ...) and its settings.
      reference: "batch" or "switched", as of `prefer`.
      key_B: a random key a row while training; both answers of a pair drop differently.
    """
    joined = both(batch.chosen, batch.rejected)
    key = None if key_B is None else jax.vmap(lambda k: jax.random.split(k, 2))(key_B).reshape(-1)
    rows = lm.tokens(joined)
    likely_BL = _likely(how, rows) if how.nll_weight else None
    # Only the KL reads the whole vocabulary. Without it the logits are never made as a whole.
    said = answers(lm, tree, joined, key, likely_BL, logits=bool(how.kl))
    kept = _reference(lm, tree, how, reference, joined, batch)
    log_p, tokens = said.log_p_B.reshape(-1, 2), said.tokens_B.reshape(-1, 2)
    known = pair_losses(how, *log_p.T, *tokens.T, *kept.log_p)
    known |= {"chosen_logp": log_p[:, 0], "rejected_logp": log_p[:, 1]}
    known |= {"chosen_tokens": tokens[:, 0], "rejected_tokens": tokens[:, 1]}
    known["real"] = (tokens > 0).all(1).astype(jnp.float32)
    if how.nll_weight:
        # Rows 2i are the chosen answers, the only ones whose likelihood is asked for.
        known["nll"] = -jnp.sum((said.log_p_BL * following(likely_BL))[0::2], axis=1)
    if how.kl:
        known["kl"] = policy_kl(said.logits_BLV, kept.logits, rows.loss_BL).reshape(-1, 2).sum(1)
    return known


class _Kept(NamedTuple):
    log_p: tuple[Array, Array] | tuple[()] = ()
    logits: Array | None = None


def _reference(
    lm: LM, tree: PyTree, how: PreferenceLoss, reference: Reference, joined: PyTree, batch: Pairs
) -> _Kept:
    """The reference's log-probabilities of chosen and rejected, and its logits where they were made just now."""
    if not (how.needs_reference or how.kl):
        return _Kept()
    if reference == "switched":
        # Stopped on the way in and not only at the end, so that this forward pass keeps nothing for a backward
        # pass.
        still = jax.lax.stop_gradient(lm.reference(tree))
        asked = answers(lm, still, joined, logits=bool(how.kl))
        was = jax.tree.map(jax.lax.stop_gradient, asked)
        return _Kept(tuple(was.log_p_B.reshape(-1, 2).T), was.logits_BLV)
    if batch.chosen_reference_B is None or batch.rejected_reference_B is None:
        raise PreferenceError(
            "the batch carries no reference log-probabilities: compute them (objectives.reference), or set"
            " reference='switched'"
        )
    return _Kept((batch.chosen_reference_B, batch.rejected_reference_B))


def _likely(how: PreferenceLoss, said: Tokens) -> Float[Array, "B L"]:
    """The places that count in the likelihood term."""
    if not how.nll_prompt:
        return said.loss_BL
    before = jnp.pad(said.mask_BL, ((0, 0), (1, 0)))[:, :-1]  # nothing predicts a row's first token
    return (said.mask_BL & before).astype(jnp.float32)


def _pairs(lm: LM, how: PreferenceLoss, reference: Reference) -> Objective:
    def loss(params: Any, frozen: Any, extra: Any, batch: Pairs, totals: Any, key_B: Any):
        del extra
        tree = merge(params, frozen or {})
        known = judge_pairs(lm, tree, batch, how, reference, key_B)
        mean = lambda x_B: (x_B * known["real"]).sum() / totals["pairs"]
        margin_B = known["chosen_reward"] - known["rejected_reward"]
        terms = {"preference": mean(known["loss"])}
        value = terms["preference"]
        if how.nll_weight:
            terms["nll"] = (known["nll"] * known["real"]).sum() / totals["likely"]
            value = value + how.nll_weight * terms["nll"]
        if how.kl:
            terms["kl"] = (known["kl"] * known["real"]).sum() / totals["tokens"]
            value = value + how.kl * terms["kl"]
        told = ("chosen_reward", "rejected_reward", "chosen_logp", "rejected_logp")
        terms |= {name: mean(known[name]) for name in told}
        terms |= {"margin": mean(margin_B), "accuracy": mean((margin_B > 0).astype(jnp.float32))}
        return value, Aux(terms)

    def weigh(batch: Pairs):
        chosen, rejected = lm.tokens(batch.chosen), lm.tokens(batch.rejected)
        real = ((count(chosen) > 0) & (count(rejected) > 0)).astype(jnp.float32)
        weights = {
            "pairs": real.sum(),
            "tokens": ((count(chosen) + count(rejected)) * real).sum(),
            "likely": (_likely(how, chosen)[:, 1:].sum(-1) * real).sum(),
        }
        return {term: jnp.maximum(total, 1) for term, total in weights.items()}

    return Objective(loss, weigh)


# --------------------------------------------------------------------------------------------------- thumbs


def judge_thumbs(
    lm: LM, tree: PyTree, batch: Thumbs, reference: Reference = "batch", key_B: Array | None = None
) -> dict[str, Array]:
    """Of each row the log-ratio of its answer, `ratio`, and of the mismatched one, `mismatched` (without gradient);
    `real` and `mismatched_real` are 1 where tokens are predicted at all. Leaves [B]. The mismatched answers
    estimate KTO's baseline (Ethayarajh 2024).

    Args:
      lm: the model.
      tree: all its parts.
      batch: single answers, and each prompt with another row's answer.
      reference: "batch" or "switched", as of `prefer`.
      key_B: a random key a row while training.
    """
    # The mismatched answers only estimate how far the policy has moved; KTO lets no gradient through there
    # (Ethayarajh 2024), so nothing of their pass is kept.
    tree_still = jax.lax.stop_gradient(tree)
    said = answers(lm, tree, batch.answer, key_B)
    other = jax.tree.map(jax.lax.stop_gradient, answers(lm, tree_still, batch.mismatched))
    if reference == "switched":
        was = lm.reference(tree_still)
        told = [answers(lm, was, part).log_p_B for part in (batch.answer, batch.mismatched)]
        said_was, other_was = jax.lax.stop_gradient(told)
    elif batch.answer_reference_B is None or batch.mismatched_reference_B is None:
        raise PreferenceError(
            "the batch carries no reference log-probabilities: compute them (objectives.reference), or set"
            " reference='switched'"
        )
    else:
        said_was, other_was = batch.answer_reference_B, batch.mismatched_reference_B
    real = lambda answer: (answer.tokens_B > 0).astype(jnp.float32)
    return {
        "ratio": said.log_p_B - said_was,
        "mismatched": other.log_p_B - other_was,
        "real": real(said),
        "mismatched_real": real(other),
    }


def _thumbs(lm: LM, how: PreferenceLoss, reference: Reference) -> Objective:
    if how.nll_weight or how.kl:
        raise PreferenceError("kto has no likelihood or KL term: leave nll and kl at 0")
    beta = how.rate

    def encode(params: Any, frozen: Any, extra: Any, batch: Thumbs, key_B: Any):
        del extra
        return judge_thumbs(lm, merge(params, frozen or {}), batch, reference, key_B)

    def score(params, frozen, extra, seen, batch: Thumbs, totals, key_B):
        del params, frozen, extra, key_B
        # The baseline is one number of the whole batch: taken by microbatch, answers would be held against
        # different ones. That is why this loss is a Spanning one.
        baseline = kto_baseline(seen["mismatched"], seen["mismatched_real"])
        liked = batch.liked_B.astype(bool)
        loss_B = kto(seen["ratio"], liked, baseline, beta, how.up, how.down)
        value = (loss_B * seen["real"]).sum() / totals["rows"]
        up_B, down_B = seen["real"] * liked, seen["real"] * ~liked
        mean = lambda weight: (beta * seen["ratio"] * weight).sum() / jnp.maximum(weight.sum(), 1)
        right_B = (seen["ratio"] > baseline) == liked
        terms = {
            "preference": value,
            "baseline": baseline,
            "liked_reward": mean(up_B),
            "disliked_reward": mean(down_B),
            "margin": mean(up_B) - mean(down_B),
            "accuracy": (right_B * seen["real"]).sum() / totals["rows"],
        }
        return value, Aux(terms)

    def weigh(batch: Thumbs):
        return {
            "rows": jnp.maximum((count(lm.tokens(batch.answer)) > 0).sum(), 1).astype(jnp.float32)
        }

    return Objective(Spanning(encode, score), weigh)
