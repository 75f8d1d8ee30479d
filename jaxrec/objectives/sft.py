"""Floor 4: supervised fine-tuning: the next token of what the assistant says, and of nothing else.

Which parameters train (all, a Delta of any kind, a tenant's p) is the script's rule of paths; whose words they are
is the `LM`'s business. Rows may be packed: the denominator counts learned tokens, never rows.
"""

from typing import Any

from jaxrec.losses.tokens import token_sums
from jaxrec.models.language.tuned_lm import LM
from jaxrec.objectives.objective import Objective
from jaxrec.objectives.personal import targets
from jaxrec.structs import Aux
from jaxrec.training.partition import merge


def sft(lm: LM) -> Objective:
    """Mean cross-entropy of the learned tokens of `lm.tokens(batch)`.

    Metrics: `nll` (nats a learned token), `accuracy` (greedy hits), `tokens` (learned tokens of the batch).
    """

    def loss(params: Any, frozen: Any, extra: Any, batch: Any, totals: Any, key_B: Any):
        del extra
        tree = merge(params, frozen or {})
        said = lm.tokens(batch)
        # By log-probabilities and not by logits: a prompt, of which nothing is learned, then costs no scores.
        sums = token_sums(*lm.log_probs(tree, batch, key_B), said.loss_BL)
        nll = sums["nll"] / totals["tokens"]
        hits = sums["correct"] / totals["tokens"]
        return nll, Aux({"nll": nll, "accuracy": hits, "tokens": sums["tokens"]})

    return Objective(loss, lambda batch: {"tokens": targets(lm.tokens(batch))})
