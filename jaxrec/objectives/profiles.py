"""Floor 4: what makes p tell tenants apart: the two halves of what is known of one must find each other in a batch.

As speaker embeddings are trained (Wan 2018). Alone it costs no pass through a model, so an encoder can learn it first.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrec.losses.ranking import info_nce
from jaxrec.objectives.objective import Objective
from jaxrec.structs import Aux, Turns
from jaxrec.training.gradients import Spanning

Module = Any  # a flax module: what it is made of is no business of an objective


def profiles(encoder: Module) -> Objective:
    """Telling tenants apart by p alone: `universal`'s InfoNCE without its answers, so that no model is run.

    Trains "encoder". Metrics: `contrast` (nats), `tenants_told_apart`.
    """

    def encode(params, frozen, extra, batch: Turns, key_B):
        del frozen, extra, key_B
        one = lambda half: encoder.apply({"params": params["encoder"]}, half)
        first_BE, second_BE = map(one, halves(batch.evidence))
        return {"first": first_BE, "second": second_BE}

    def score(params, frozen, extra, seen, batch: Turns, totals, key_B):
        del params, frozen, extra, key_B
        nce = told_apart(seen, batch)
        contrast = nce["nce"] / totals["rows"]
        return contrast, Aux(
            {"contrast": contrast, "tenants_told_apart": nce["hits"] / totals["rows"]}
        )

    weigh = lambda batch: {"rows": jnp.float32(batch.tenant_B.shape[0])}
    return Objective(Spanning(encode, score), weigh)


def told_apart(seen: Any, batch: Turns) -> dict[str, Array]:
    """InfoNCE between the two halves of each row's evidence (`losses.ranking.info_nce`).

    seen: "first" and "second", p of each half [B, E]. batch: whose the rows are.
    """
    # A batch may hold a tenant more than once: such rows are not each other's negatives.
    same_BB = batch.tenant_B[:, None] == batch.tenant_B[None, :]
    return info_nce(seen["first"], seen["second"], 0.1, same_BB)


def halves(evidence: Any) -> tuple[Any, Any]:
    """Evidence as two sets: its first and its second half along S."""
    middle = evidence.mask_BS.shape[1] // 2
    return tuple(
        jax.tree.map(lambda x, cut=cut: x[:, cut], evidence)
        for cut in (slice(middle), slice(middle, None))
    )
