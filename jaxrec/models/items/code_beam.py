"""Floor 3: beam search that can only end at real items: a trie of their codes on the device, all beams in one program.

The trie is a CSR: the nodes of a level are its distinct prefixes in lexicographic order, so the children of node n are
`first[n] ... first[n + 1] - 1` of the next level, and a leaf's number is an item's place in that order. A level looks
at its beams' real children alone, `width` (the most that any node has) of them at most: no beam can leave the trie, and
since every item has one tuple, no two beams end at the same item.
"""

from collections.abc import Callable
from typing import Any

import flax.struct as struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrec.data.item_codes import ItemCodesError

Extend = Callable[[Any, int, Array, Array], tuple[Any, Array]]


@struct.dataclass
class Trie:
    """Level q: `first[q]` [nodes + 1] and `code[q]` [nodes of the level below], its children's codes."""

    first: tuple[Any, ...]
    code: tuple[Any, ...]
    item_I: Any  # the item at each leaf
    width: tuple[int, ...] = struct.field(pytree_node=False)

    @property
    def levels(self) -> int:
        """Q, the depth."""
        return len(self.code)


def build(codes_IQ: Int[np.ndarray, "I Q"]) -> Trie:
    """The trie of all items' codes. Raises ItemCodesError where two items have the same."""
    # lexsort takes its last key as the first to sort by, hence the reversal.
    order = np.lexsort(codes_IQ.T[::-1])
    ordered = codes_IQ[order]
    new_IQ = np.ones(ordered.shape, bool)
    # A prefix is new at a level as soon as any code up to there differs from the item before.
    new_IQ[1:] = np.cumsum(ordered[1:] != ordered[:-1], axis=1) > 0
    if not new_IQ[:, -1].all():
        count = int((~new_IQ[:, -1]).sum())
        raise ItemCodesError(
            f"{count} of {len(ordered)} items have codes that another item has: tell them apart first (extra_code)"
        )
    first, code, width = [], [], []
    starts = np.zeros(
        1, np.int64
    )  # of the nodes above: which place in the order each one begins at
    for level in range(codes_IQ.shape[1]):
        below = np.flatnonzero(new_IQ[:, level])
        edges = np.append(np.searchsorted(below, starts), len(below))
        first.append(jnp.asarray(edges, jnp.int32))
        code.append(jnp.asarray(ordered[below, level], jnp.int32))
        width.append(int(np.diff(edges).max()))
        starts = below
    return Trie(tuple(first), tuple(code), jnp.asarray(order, jnp.int32), tuple(width))


def free_slots(trie: Trie, beams: int) -> int:
    """How many tokens the beams of a row add before the last level."""
    count, total = 1, 0
    for width in trie.width[:-1]:
        count = min(beams, count * width)
        total += count
    return total


def search(
    trie: Trie,
    memory: Any,
    logits_B1C: Float[Array, "B 1 C"],
    extend: Extend,
    beams: int,
    banned_BS: Int[Array, "B S"] | None = None,
) -> tuple[Int[Array, "B J"], Float[Array, "B J"]]:
    """(items, log-probabilities) of the best `beams` real items of each row, best first; -1 and -inf where fewer.

    Probabilities are those of the model over all codes of a level, real or not.

    Args:
      trie: the codes of all items, sorted.
      memory: what the model gives after the history, whatever that is.
      logits_B1C: of the first level, from there.
      extend: (memory, level, codes, parents) -> (memory, logits of the next level) of beams that choose those codes.
      beams: how many are kept at each level.
      banned_BS: items (-1: none) that a row may not end at; they take no place among its beams.
    """
    rows = logits_B1C.shape[0]
    node_BJ, score_BJ = jnp.zeros((rows, 1), jnp.int32), jnp.zeros((rows, 1))
    logits_BJC = logits_B1C
    for level in range(trie.levels):
        width, count = trie.width[level], node_BJ.shape[1]
        begin, end = trie.first[level][node_BJ], trie.first[level][node_BJ + 1]
        child_BJW = begin[:, :, None] + jnp.arange(width)[None, None]
        real_BJW = child_BJW < end[:, :, None]
        # Nodes have fewer children than `width`: the places beyond read child 0 and can never win (-inf below).
        child_BJW = jnp.where(real_BJW, child_BJW, 0)
        code_BJW = trie.code[level][child_BJW]
        # Over all codes of the level, real or not, so that scores are the model's own probabilities of whole items.
        log_p = jax.nn.log_softmax(logits_BJC, axis=-1)
        gain_BJW = jnp.take_along_axis(log_p, code_BJW, axis=2)
        total_BJW = jnp.where(real_BJW, score_BJ[:, :, None] + gain_BJW, -jnp.inf)
        last = level == trie.levels - 1
        if last and banned_BS is not None:
            item_BJW = trie.item_I[child_BJW]
            hit = (item_BJW.reshape(rows, -1, 1) == banned_BS[:, None, :]).any(-1)
            # Banned before the last cut and not afterwards, so that no beam is lost to an item that may not be shown.
            total_BJW = jnp.where(hit.reshape(item_BJW.shape), -jnp.inf, total_BJW)
        best = min(beams, count * width)
        # One choice over all beams' children: a strong beam may fork, and a weak one ends.
        score_BJ, at_BJ = jax.lax.top_k(total_BJW.reshape(rows, -1), best)
        node_BJ = _picked(child_BJW, at_BJ)
        if not last:
            code_BJ = _picked(code_BJW, at_BJ)
            memory, logits_BJC = extend(memory, level, code_BJ, at_BJ // width)
    # A beam of probability 0 stands for no item: it is named as absent instead of as node 0.
    items_BJ = jnp.where(jnp.isneginf(score_BJ), -1, trie.item_I[node_BJ])
    short = ((0, 0), (0, beams - items_BJ.shape[1]))
    return (
        jnp.pad(items_BJ, short, constant_values=-1),
        jnp.pad(score_BJ, short, constant_values=-jnp.inf),
    )


def _picked(x_BJW: Array, at_BJ: Array) -> Array:
    return jnp.take_along_axis(x_BJW.reshape(x_BJW.shape[0], -1), at_BJ, axis=1)
