"""Floor 4: the editor stage: DPO over the scores of drafts, and whether a draft may be kept."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrec.losses.labels import binary_cross_entropy
from jaxrec.losses.preference import sigmoid
from jaxrec.models.personal.editor import Editor, EditorBatch, profile_of, score_drafts
from jaxrec.models.personal.profile import ProfileEncoder
from jaxrec.objectives.objective import Objective
from jaxrec.structs import Aux
from jaxrec.training.partition import merge


def editor(
    head: Editor,
    encoder: ProfileEncoder | None = None,
    *,
    beta: float = 1.0,
    smoothing: float = 0.0,
    keep: float = 0.5,
) -> Objective:
    """The own draft (number 0) against each other one, and the cross-entropy of keeping it.

    A draft's log-policy is its score less a constant of the choice, which every margin loses: DPO's margin (Rafailov
    2023) is (s_0 - s_j) - (r_0 - r_j), r the reference's scores (an even policy where the batch has none). Each
    choice counts once, whatever its number of drafts. Metrics: `preference`, `accuracy` of pairs, `keep`,
    `keep_accuracy`.

    Args:
      head: scores drafts.
      encoder: from a person's pieces to p; None where the editor takes no person.
      beta: DPO's inverse temperature.
      smoothing: the part of choices that are taken to be the wrong way round.
      keep: weight of the cross-entropy of keeping.
    """

    def loss(params, frozen, extra, batch: EditorBatch, totals, key_B):
        del extra, key_B
        tree = merge(params, frozen)
        score_BJ, keep_BJ = score_drafts(head, tree, batch, profile_of(head, encoder, tree, batch))
        there_BJ = _pairs(batch)
        margin_BJ = score_BJ[:, :1] - score_BJ[:, 1:]
        if batch.reference_BJ is not None:
            margin_BJ = margin_BJ - (batch.reference_BJ[:, :1] - batch.reference_BJ[:, 1:])
        # Padding drafts have scores of any size: their margins are emptied before the loss and not only weighed by
        # 0 behind it, for 0 times infinity is NaN.
        margin_BJ = jnp.where(there_BJ > 0, margin_BJ, 0.0)
        # By choice and not by pair, or a choice among many drafts would outweigh one among two.
        share_BJ = there_BJ / jnp.maximum(there_BJ.sum(1, keepdims=True), 1.0)
        value_BJ = sigmoid(margin_BJ.reshape(-1), beta, smoothing).reshape(margin_BJ.shape)
        target_BJ = jnp.where(batch.draft_BJ >= 0, batch.keep_BJ, -1.0)
        kept = binary_cross_entropy(
            keep_BJ.reshape(-1, 1), target_BJ.reshape(-1, 1), jnp.ones(1), jnp.ones(keep_BJ.size)
        )
        terms = {
            "preference": jnp.sum(value_BJ * share_BJ) / totals["choices"],
            "accuracy": jnp.sum((margin_BJ > 0) * there_BJ) / totals["pairs"],
            "keep": kept["nll"][0] / totals["keeps"],
            "keep_accuracy": kept["correct"][0] / totals["keeps"],
        }
        return terms["preference"] + keep * terms["keep"], Aux(terms)

    def weigh(batch: EditorBatch) -> dict[str, Float[Array, ""]]:
        there_BJ, known = _pairs(batch), (batch.draft_BJ >= 0) & (batch.keep_BJ >= 0)
        atleast = lambda x: jnp.maximum(x.astype(jnp.float32), 1e-6)
        return {
            "choices": atleast((there_BJ.sum(1) > 0).sum()),
            "pairs": atleast(there_BJ.sum()),
            "keeps": atleast(known.sum()),
        }

    return Objective(loss, weigh)


def _pairs(batch: EditorBatch) -> Float[Array, "B W"]:
    """1 where the own draft meets another: a choice without its own draft has no pair."""
    there = (batch.draft_BJ[:, 1:] >= 0) & (batch.draft_BJ[:, :1] >= 0)
    return there.astype(jnp.float32)
