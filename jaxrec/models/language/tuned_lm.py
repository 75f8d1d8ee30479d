"""Floor 3: a language model as the tuning stages see it: what a batch says, how likely that is, how it goes on.

Which parameters train is the script's rule of paths, and what a Delta does is the decoder's business: so `sft`,
`prefer` and `ppo` are written once, for a model that is tuned whole, by a Delta of any kind, by its head, or by a
tenant's p alone.

    TunedLM    batch Tokens   tree {"backbone", "delta"?}
    TenantLM   batch Turns    tree {"backbone", "lfe", "head", "hypernet", "profile": {"p"}}
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from jaxrec import tables
from jaxrec.data import text
from jaxrec.data.text import Example
from jaxrec.delta import with_dropout
from jaxrec.losses import chunked_softmax
from jaxrec.losses.tokens import following, next_log_probs
from jaxrec.models.personal.inside import upper_half
from jaxrec.models.personal.personal_lm import Context, PersonalLM
from jaxrec.nn.decoder import Decoder, output_classes
from jaxrec.structs import Delta, HeadOutput, Tokens, Turns


class TokenLogProbs(NamedTuple):
    """Of each token but a row's first, told at the place from which it is predicted; 0 where nobody asked."""

    log_p_BL: Float[Array, "B L"]  # nats
    best_BL: Bool[Array, "B L"]  # it is likelier than any other


@runtime_checkable
class LM(Protocol):
    """What a tuning objective asks of a model."""

    def tokens(self, batch: PyTree) -> Tokens:
        """The token rows of a batch that are scored."""

    def outputs(
        self,
        tree: PyTree,
        batch: PyTree,
        key_B: Array | None = None,
        hidden: Sequence[int] = (),
        since: int = 0,
    ) -> HeadOutput:
        """Teacher-forced logits [B, L - since, V] of `tokens(batch)`.

        Args:
          tree: all parts of the model.
          batch: what the model's own `tokens` understands.
          key_B: a random key a row while training (dropout); None otherwise.
          hidden: which hidden states are given too.
          since: the first place whose logits are made.
        """

    def log_probs(
        self,
        tree: PyTree,
        batch: PyTree,
        key_B: Array | None = None,
        places_BL: Array | None = None,
    ) -> TokenLogProbs:
        """How likely each token of `tokens(batch)` is.

        Args:
          tree, batch, key_B: as of `outputs`.
          places_BL: not 0 where it is asked for; if not given, a token's `loss_BL`.
        """

    def reference(self, tree: PyTree) -> PyTree:
        """The same model untuned, as far as the tree still knows it: the Delta switched off, no second copy."""


@dataclasses.dataclass(frozen=True)
class TunedLM:
    """A decoder, tuned whole or by the Delta in `tree["delta"]`.

    `lora_dropout`: the part of a LoRA's input that is dropped where `outputs` is given `key_B`. `below`: how many of
    the lowest layers a batch with `states_BLD` has behind it; 0 or one of the decoder's cuts. `chunk`: positions whose
    scores are made at a time; where few of a batch count, few of a smaller chunk are made in vain.
    """

    backbone: Decoder
    lora_dropout: float = 0.0
    below: int = 0
    chunk: int = chunked_softmax.CHUNK

    def tokens(self, batch: Tokens) -> Tokens:
        """The rows themselves."""
        return batch

    def outputs(
        self,
        tree: PyTree,
        batch: Tokens,
        key_B: Array | None = None,
        hidden: Sequence[int] = (),
        since: int = 0,
    ) -> HeadOutput:
        """As `LM.outputs`, of tree, batch, key_B, hidden and since; packed rows keep their segments apart."""
        delta = tree.get("delta")
        # Dropout is data that travels in the Delta for one step, so `accum=4` drops what `accum=1` does.
        if delta is not None and key_B is not None:
            delta = with_dropout(delta, key_B, self.lora_dropout)
        backbone, params, states_BLD = self.backbone, tree["backbone"], batch.states_BLD
        if states_BLD is not None:
            backbone, params, delta = upper_half(backbone, params, delta, self.below)
        return backbone.apply(
            {"params": params},
            batch.ids_BL if states_BLD is None else None,
            batch.mask_BL,
            segments_BL=batch.segments_BL,
            positions_BL=batch.positions_BL,
            inputs_BLD=states_BLD,
            delta=delta,
            hidden=hidden,
            since=since,
        )

    def log_probs(
        self,
        tree: PyTree,
        batch: Tokens,
        key_B: Array | None = None,
        places_BL: Array | None = None,
    ) -> TokenLogProbs:
        """As `LM.log_probs`, of tree, batch, key_B and places_BL. The logits are never there at once, unless the head
        is quantised or has a Delta.
        """
        delta = tree.get("delta")
        head = output_classes(self.backbone.cfg, tree["backbone"])
        # A quantised head has no float classes to go through in chunks, and a LoRA on the head changes them by row.
        if head is None or (delta is not None and delta.outer.head is not None):
            logits_BLV = self.outputs(tree, batch, key_B).logits
            return _from_logits(logits_BLV, batch, places_BL)
        # under jit nobody asks for these logits, and they are not made
        z_BLD = self.outputs(tree, batch, key_B, hidden=(-1,)).hidden[0]
        counts_BL = following(batch.loss_BL if places_BL is None else places_BL) != 0
        asked = (following(batch.ids_BL), counts_BL, head[1], self.chunk)
        return TokenLogProbs(*chunked_softmax.log_probs(z_BLD, head[0], *asked))

    def reference(self, tree: PyTree) -> PyTree:
        """The tree without its Delta, or with the parts of `tree["start"]` (an earlier stage's, say) in their place."""
        # Without "delta" the same program computes the untuned model: no second copy of the backbone for the reference.
        rest = {name: part for name, part in tree.items() if name not in ("delta", "start")}
        return rest | tree.get("start", {})


@dataclasses.dataclass(frozen=True)
class TenantLM:
    """A personal model: each row is answered for the tenant that `tenant_B` names, by its p in the profile table.

    Whether a head answers or the backbone with the person inside is the model's own business.
    """

    lm: PersonalLM

    def tokens(self, batch: Turns) -> Tokens:
        """The answers."""
        return batch.answer

    def outputs(
        self,
        tree: PyTree,
        batch: Turns,
        key_B: Array | None = None,
        hidden: Sequence[int] = (),
        since: int = 0,
    ) -> HeadOutput:
        """As `LM.outputs`, of tree, batch, key_B, hidden and since. Raises ValueError for a hidden state other than
        the last (-1): a head gives no others.
        """
        del key_B
        if any(i != -1 for i in hidden):
            raise ValueError(f"a head gives its last hidden state (-1), not {tuple(hidden)}")
        # `since` is a slice afterwards: an answer begins at its first place, so there is little in front of it to save.
        out = self.lm.answer(tree, *self._parts(tree, batch))
        return out.replace(hidden=(out.hidden,) if hidden else None, logits=out.logits[:, since:])

    def log_probs(
        self,
        tree: PyTree,
        batch: Turns,
        key_B: Array | None = None,
        places_BL: Array | None = None,
    ) -> TokenLogProbs:
        """As `LM.log_probs`, of tree, batch, key_B and places_BL; against a backbone's vocabulary the logits are
        never there at once.
        """
        del key_B
        return TokenLogProbs(
            *self.lm.log_probs(tree, *self._parts(tree, batch), places_BL=places_BL)
        )

    def reference(self, tree: PyTree) -> PyTree:
        """The tree with `tree["start"]`, the profile table as it was before tuning, in the table's place."""
        return {**tree, "profile": {"p": tree["start"]}}

    def _parts(self, tree: PyTree, batch: Turns) -> tuple[Context, Tokens, Delta]:
        """(what is answered, the answers, each row's Delta)."""
        p_BE = tables.lookup(tree["profile"]["p"], batch.tenant_B)
        # p is looked up in the table, whose rows have the gradient; nothing is inferred here.
        context = self.lm.read(tree, batch.question, batch.states_BLD)
        return context, batch.answer, self.lm.personal(tree, p_BE)


def _from_logits(logits_BLV: Array, rows: Tokens, places_BL: Array | None) -> TokenLogProbs:
    counts_BL = following(rows.loss_BL if places_BL is None else places_BL) != 0
    # The places are masked and the logits not cut: a slice would be a copy of the largest array of the step.
    log_p_BL, best_BL = next_log_probs(logits_BLV, rows.ids_BL)
    return TokenLogProbs(jnp.where(counts_BL, log_p_BL, 0.0), counts_BL & best_BL)


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
    # By length, so that a batch is padded to rows of about its own length.
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
