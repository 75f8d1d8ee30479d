"""Floor 3: how likely a model finds given answers, each by itself."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, PyTree

from jaxrec.data import text
from jaxrec.data.text import Example
from jaxrec.models.language.tuned_lm import TunedLM
from jaxrec.structs import Tokens

_STEP = 64  # rows are padded to a multiple of it, so that few programs are compiled


def nats(
    lm: TunedLM, tree: PyTree, examples: Sequence[Example], *, rows: int = 8, pad_id: int = 0
) -> Float[np.ndarray, "U 2"]:
    """Of each example (-log p of its learned tokens in nats, how many of them there are).

    lm, tree: the model. examples: token rows whose `loss` says what counts. rows: a batch; examples of similar length
    share one. pad_id: fills them up.
    """

    @jax.jit
    def sums(tree: PyTree, batch: Tokens):
        return -lm.log_probs(tree, batch).log_p_BL.sum(1)

    out = np.zeros((len(examples), 2))
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].ids))
    for start in range(0, len(order), rows):
        some = order[start : start + rows]
        batch = [examples[i] for i in some]
        width = -(-max(len(one.ids) for one in batch) // _STEP) * _STEP
        batch += batch[-1:] * (rows - len(batch))  # the last batch is full, too
        padded = Tokens(**text.pad(batch, min(width, lm.backbone.cfg.max_positions), pad_id))
        out[some, 0] = np.asarray(sums(tree, padded))[: len(some)]
        out[some, 1] = [sum(weight > 0 for weight in examples[i].loss[1:]) for i in some]
    return out
