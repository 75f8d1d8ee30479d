"""Floor 4: the retriever stage: a question must find its text among those of the batch and the hard negatives."""

from typing import Any

import jax.numpy as jnp

from jaxrec.losses.ranking import found_among
from jaxrec.models.personal.profile import ProfileEncoder
from jaxrec.models.text.retriever import (
    RetrieverBatch,
    profiles_of,
    question_vectors,
    text_vectors,
)
from jaxrec.objectives.objective import Objective
from jaxrec.structs import Aux
from jaxrec.training.gradients import Spanning
from jaxrec.training.partition import merge


def retriever(encoder: ProfileEncoder | None = None, temperature: float = 0.05) -> Objective:
    """Trains "retriever", with "encoder" (p of who asks, from what is known) where it takes a person.

    frozen: "questions", "texts" and, with an encoder, "known": unit vectors that a batch points into. Spans the batch:
    take `gradients.spanning(accum)`. Metrics: `nce` (nats a question), `hits`.
    """

    def encode(params, frozen, extra, batch: RetrieverBatch, key_B) -> dict[str, Any]:
        del extra, key_B
        tree = merge(params, frozen)
        p_BE = profiles_of(encoder, tree, batch.shown_BS, batch.kind_BS)
        own, texts = tree["retriever"], tree["texts"]
        hard_BJD = texts[batch.hard_BJ]
        flat = text_vectors(own, hard_BJD.reshape(-1, hard_BJD.shape[-1]))
        return {
            "question": question_vectors(own, tree["questions"][batch.question_B], p_BE),
            "right": text_vectors(own, texts[batch.right_B]),
            "hard": flat.reshape(hard_BJD.shape),
        }

    def score(params, frozen, extra, seen, batch: RetrieverBatch, totals, key_B):
        del params, frozen, extra, key_B
        hard_CD = seen["hard"].reshape(-1, seen["hard"].shape[-1])
        sums = found_among(
            seen["question"],
            jnp.concatenate([seen["right"], hard_CD]),
            batch.right_B,
            jnp.concatenate([batch.right_B, batch.hard_BJ.reshape(-1)]),
            temperature,
        )
        nce, hits = sums["nce"] / totals["rows"], sums["hits"] / totals["rows"]
        return nce, Aux({"nce": nce, "hits": hits})

    weigh = lambda batch: {"rows": jnp.float32(batch.right_B.shape[0])}
    return Objective(Spanning(encode, score), weigh)
