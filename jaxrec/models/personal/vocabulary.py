"""A backbone's vocabulary as a head reads it: the frozen tables, borrowed, so that 150,000 words cost no new weights.

    ids --table [V, D]--> vectors [B, L, D] --from_table--> the head's layers --to_table--> [B, L, D] . classes [V, D]

A table is the largest matrix of a small model: 136 million numbers for Qwen2.5's 151,936 words, where a head of two
layers has one or two million. Tied input and output tables are Press and Wolf's (2017), the two thin matrices in
between are ALBERT's factorisation (Lan 2020), and the table itself stays where it lies, in params["backbone"]: it gets
no gradient, takes no room in the optimiser, and no copy of it goes into a checkpoint.
"""

from typing import Any

import flax.struct as struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxrec.losses import chunked_softmax
from jaxrec.losses.tokens import following
from jaxrec.nn.decoder import DecoderConfig
from jaxrec.nn.embed import scores_of, vectors_by_column
from jaxrec.structs import Leaf

NEVER = -1e30  # the score of an id that no token has: finite, so that no 0 * inf can become NaN


@struct.dataclass
class Vocabulary:
    """What ids mean on the way in (`table`), and what a vector is compared with on the way out (`classes`).

    Each is a float array [V, D], or the same quantised. `real_V`: ids that a token has; published tables are padded to
    round numbers, and what lies beyond the tokenizer must never be sampled. `scale`: of vectors on the way in, where a
    backbone has one.
    """

    table: Leaf
    classes: Leaf
    bias_V: Leaf | None = None
    real_V: Leaf | None = None
    scale: float = struct.field(pytree_node=False, default=1.0)

    def vectors(self, ids_BL: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """The vectors of these ids, f32."""
        x_BLD = vectors_by_column(self.table, ids_BL).astype(jnp.float32)
        return x_BLD if self.scale == 1 else x_BLD * self.scale

    def scores(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Logits of every id, f32."""
        y_BLV = scores_of(self.classes, x_BLD).astype(jnp.float32)
        bias_V = self._bias()
        return y_BLV if bias_V is None else y_BLV + bias_V[None, None]

    def log_probs(
        self,
        x_BLD: Float[Array, "B L D"],
        ids_BL: Int[Array, "B L"],
        counts_BL: Bool[Array, "B L"],
    ) -> tuple[Float[Array, "B L"], Bool[Array, "B L"]]:
        """(log p of the next token, nats; is it likelier than any other?), the logits never there as a whole.

        Args:
          x_BLD: what is compared with the classes at each place.
          ids_BL: the token rows themselves; each is told at the place before it.
          counts_BL: the places that are asked for; 0 and False elsewhere.
        """
        # made floats once for a step: [V, D] is the smaller array as long as a batch has more tokens than D
        classes_VD = self.classes.rows() if hasattr(self.classes, "matmul") else self.classes
        return chunked_softmax.log_probs(
            x_BLD, classes_VD, following(ids_BL), counts_BL, self._bias()
        )

    def _bias(self) -> Array | None:
        if self.real_V is None:
            return self.bias_V
        barred_V = jnp.where(self.real_V, 0.0, NEVER)
        return barred_V if self.bias_V is None else barred_V + self.bias_V


def vocabulary_of(cfg: DecoderConfig, params: PyTree, tokens: int = 0) -> Vocabulary:
    """The vocabulary of a decoder with these weights; nobody's gradient flows into it.

    Args:
      cfg: of the decoder. Where it ties its own head, ids are compared with the table that they are read from.
      params: of the decoder.
      tokens: how many ids there are tokens for; 0: for all.
    """
    table, bias = params["embed"]["table"], None
    if cfg.tied:
        classes = table
    else:
        kernel, bias = params["head"]["kernel"], params["head"].get("bias")
        # The rows of a quantised kernel are [F, D], which is [V, D] here; a float one lies as [D, V].
        classes = kernel if hasattr(kernel, "matmul") else kernel.T
    # Whatever else of the backbone trains, what a head borrows is the same for all who read it.
    table, classes, bias = jax.lax.stop_gradient((table, classes, bias))
    scale = cfg.d_model**0.5 if cfg.embed_scaled else 1.0
    return Vocabulary(table, classes, bias, real_ids(cfg.vocab, tokens), scale)


def real_ids(vocab: int, tokens: int) -> Bool[Array, " V"] | None:
    """Which of `vocab` ids are tokens; None where all are."""
    # None where all are real, so that no bias of [V] is added to every score for nothing.
    return None if tokens in (0, vocab) else jnp.arange(vocab) < tokens


def bar_padding(logits_BLV: Float[Array, "B L V"], tokens: int) -> Float[Array, "B L V"]:
    """Logits with the ids beyond the tokenizer barred. As they are where `tokens` is 0 or all."""
    real_V = real_ids(logits_BLV.shape[-1], tokens)
    return logits_BLV if real_V is None else jnp.where(real_V[None, None], logits_BLV, NEVER)


def principal(table: Any, size: int) -> Float[Array, "D R"]:
    """The `size` orthonormal directions in which a table [V, D] has most of its length: to project onto, and back.

    No other projection of that rank keeps more of the table (Eckart 1936), so scores of projected vectors are as near
    to the full ones as they can be. Read off the D x D matrix of second moments: the table is gone through once.
    """
    floats_VD = table.rows() if hasattr(table, "matmul") else jnp.asarray(table, jnp.float32)
    _, directions_DD = jnp.linalg.eigh(floats_VD.T @ floats_VD)  # rising
    return directions_DD[:, ::-1][:, :size]
