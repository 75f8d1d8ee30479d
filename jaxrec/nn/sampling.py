"""Floor 2: choosing the next token, each row by its own settings and its own random numbers.

What a row draws depends on its logits, its settings, its seed and the token's number alone, never on who shares the
batch. Sorting 16 rows of 152k scores takes over a second on a CPU, so rows are cut to their top 128 first; a row
whose choice that can't decide (no top-k, and a mass below its top-p) takes the exact path.
"""

from collections.abc import Sequence
from typing import no_type_check

import flax.struct as struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

TOP = 128
_BLOCK = 512
PerRow = int | float | Sequence[int | float] | np.ndarray  # one for all rows, or one for each


@no_type_check  # shapes and shardings stand in these places too
@struct.dataclass
class Sampling:
    """How each row's tokens are chosen. Build it with `sampling`."""

    temperature_B: Float[Array, "B"]  # 0: the most probable token
    top_k_B: Int[Array, "B"]  # 0: all tokens
    top_p_B: Float[Array, "B"]  # 1: all of the mass
    repetition_B: Float[Array, "B"]  # penalty on tokens seen before (Keskar 2019), 1: none
    max_new_B: Int[Array, "B"]
    seed_B: Int[Array, "B"]
    # What no row needs is not compiled in.
    greedy: bool = struct.field(pytree_node=False, default=False)
    penalised: bool = struct.field(pytree_node=False, default=True)
    spare_prompt: bool = struct.field(pytree_node=False, default=False)  # seen: new tokens alone


def sampling(
    batch: int,
    *,
    temperature: PerRow = 0.0,
    top_k: PerRow = 0,
    top_p: PerRow = 1.0,
    repetition: PerRow = 1.0,
    max_new: PerRow = 128,
    seed: PerRow = 0,
    spare_prompt: bool = False,
) -> Sampling:
    """Settings for a batch, each a number for all rows or one for each.

    Args:
      batch: how many rows.
      temperature: 0 takes the likeliest token.
      top_k: only that many tokens stay in the draw; 0: all.
      top_p: only the likeliest tokens that together reach this probability (Holtzman 2020); 1: all.
      repetition: what the logits of tokens seen before are divided by, or multiplied where negative (Keskar 2019).
      max_new: new tokens at most.
      seed: row i draws by its own; one number n stands for n + i.
      spare_prompt: the prompt's tokens count as seen only where they were written again: an answer from a page copies.

    Raises ValueError on a setting out of range, or not as many as rows.
    """

    def row(
        name: str, value: PerRow, low: float | int, high: float | int, dtype: type
    ) -> np.ndarray:
        x = np.asarray(value, dtype)
        if x.ndim and x.shape != (batch,):
            raise ValueError(f"{name} has {x.size} values for {batch} rows")
        if not ((x >= low) & (x <= high)).all():
            raise ValueError(f"{name}={value} must lie between {low} and {high}")
        return np.broadcast_to(x, (batch,))

    big = np.iinfo(np.int32).max
    t = row("temperature", temperature, 0.0, 1e4, np.float32)
    r = row("repetition", repetition, 1e-4, 1e4, np.float32)
    seeds = row("seed", seed, 0, big, np.int32)
    return Sampling(
        temperature_B=jnp.array(t),
        top_k_B=jnp.array(row("top_k", top_k, 0, big, np.int32)),
        top_p_B=jnp.array(row("top_p", top_p, 0.0, 1.0, np.float32)),
        repetition_B=jnp.array(r),
        max_new_B=jnp.array(row("max_new", max_new, 1, big, np.int32)),
        # One seed for all would make equal prompts write equal texts: each row gets the next one.
        seed_B=jnp.array(seeds if np.ndim(seed) else seeds + np.arange(batch, dtype=np.int32)),
        greedy=bool((t == 0).all()),
        penalised=bool((r != 1).any()),
        spare_prompt=spare_prompt,
    )


def choose(
    logits_BV: Float[Array, "B V"],
    how: Sampling,
    nth_B: Int[Array, " B"],
    seen_BV: Bool[Array, "B V"] | None = None,
) -> Int[Array, " B"]:
    """The next token of each row. As in HF: penalty, temperature, top-k, then top-p over what top-k left.

    Args:
      logits_BV: of the next token.
      how: the settings of each row.
      nth_B: which of the row's new tokens it is (0, 1, ...), which selects the draw.
      seen_BV: tokens in the row's text so far, for the repetition penalty.
    """
    if how.penalised and seen_BV is not None:
        logits_BV = penalise(logits_BV, seen_BV, how.repetition_B)
    best_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    if how.greedy:
        return best_B
    warm_B = how.temperature_B > 0
    # A greedy row has temperature 0; it is divided by 1 here and its draw is thrown away below.
    scores_BV = logits_BV / jnp.where(warm_B, how.temperature_B, 1.0)[:, None]
    # One number a token: an inverse CDF needs no more, where Gumbel noise would be drawn for the whole vocabulary.
    lot = lambda seed, n: jax.random.uniform(jax.random.fold_in(jax.random.key(seed), n))
    lot_B = jax.vmap(lot)(how.seed_B, nth_B)
    return jnp.where(warm_B, _draw(scores_BV, how, lot_B, warm_B), best_B)


def penalise(
    logits_BV: Float[Array, "B V"], seen_BV: Bool[Array, "B V"], penalty_B: Float[Array, " B"]
) -> Float[Array, "B V"]:
    """CTRL's penalty: a seen token's logit is divided by it when positive, multiplied when negative."""
    p = penalty_B[:, None]
    return jnp.where(seen_BV, jnp.where(logits_BV > 0, logits_BV / p, logits_BV * p), logits_BV)


def _draw(scores_BV: Array, how: Sampling, lot_B: Array, warm_B: Array) -> Array:
    n_vocab = scores_BV.shape[1]
    k_B = jnp.where(how.top_k_B == 0, n_vocab, jnp.minimum(how.top_k_B, n_vocab))
    p_B = how.top_p_B
    all_B = (k_B == n_vocab) & (p_B >= 1.0)  # nothing to cut: no need to sort either
    log_z_B = jax.nn.logsumexp(scores_BV, axis=-1)

    # Weighed against the whole vocabulary's mass, so a cut that is too small is noticed (`short_B`).
    top = min(TOP, n_vocab)
    best_BT, ids_BT = jax.lax.top_k(scores_BV, top)
    mass_B = jnp.exp(best_BT - log_z_B[:, None]).sum(-1)
    # with top-k beyond the cut, top-p's total is that of the k best, which the cut does not show
    short_B = ~all_B & ((k_B > top) & ((k_B < n_vocab) | (mass_B < p_B)))
    # a row without top-k measures top-p against the whole vocabulary, not against its best 128
    whole_B = k_B == n_vocab
    total_B = jnp.where(whole_B, log_z_B, _log_mass(best_BT, k_B))
    place_B = _pick(best_BT, k_B, p_B, total_B, lot_B)
    drawn_B = jnp.take_along_axis(ids_BT, place_B[:, None], axis=1)[:, 0]

    def exact(drawn_B: Array) -> Array:
        order_BV = jnp.argsort(-scores_BV, axis=-1)
        sorted_BV = jnp.take_along_axis(scores_BV, order_BV, axis=-1)
        place_B = _pick(sorted_BV, k_B, p_B, _log_mass(sorted_BV, k_B), lot_B)
        exact_B = jnp.take_along_axis(order_BV, place_B[:, None], axis=1)[:, 0]
        return jnp.where(short_B, exact_B, drawn_B)

    def uncut(drawn_B: Array) -> Array:
        return jnp.where(all_B, _from_all(scores_BV, log_z_B, lot_B), drawn_B)

    keep = lambda drawn_B: drawn_B
    # Conditions over the whole batch, so that a branch which no row needs is skipped; by row, both would be computed.
    drawn_B = jax.lax.cond((short_B & warm_B).any(), exact, keep, drawn_B)
    return jax.lax.cond((all_B & warm_B).any(), uncut, keep, drawn_B).astype(jnp.int32)


def _log_mass(sorted_BT: Array, k_B: Array) -> Array:
    """log sum exp of each row's k best."""
    inside = jnp.arange(sorted_BT.shape[1])[None] < k_B[:, None]
    return jax.nn.logsumexp(jnp.where(inside, sorted_BT, -jnp.inf), axis=-1)


def _pick(sorted_BT: Array, k_B: Array, p_B: Array, total_B: Array, lot_B: Array) -> Array:
    """The place of the drawn token among sorted scores: inverse CDF over those that top-k and top-p keep.

    Top-p keeps the tokens before which less than p of the mass lies, so the best one always.
    """
    probs_BT = jnp.exp(sorted_BT - total_B[:, None])
    below_BT = jnp.cumsum(probs_BT, axis=-1) - probs_BT
    place_1T = jnp.arange(sorted_BT.shape[1])[None]
    kept = (place_1T < k_B[:, None]) & (below_BT < p_B[:, None]) | (place_1T == 0)
    probs_BT = jnp.where(kept, probs_BT, 0.0)
    return _first_above(probs_BT, lot_B * probs_BT.sum(-1))[0]


def _from_all(scores_BV: Array, log_z_B: Array, lot_B: Array) -> Array:
    """The drawn token among all, without a sort: inverse CDF over blocks first, then inside the block."""
    batch, n_vocab = scores_BV.shape
    width = min(_BLOCK, n_vocab)
    probs_BV = jnp.exp(scores_BV - log_z_B[:, None])
    # Padded with probability 0 to whole blocks: such a place can never be drawn.
    probs_BV = jnp.pad(probs_BV, ((0, 0), (0, -n_vocab % width)))
    blocks_BTW = probs_BV.reshape(batch, -1, width)
    sums_BT = blocks_BTW.sum(-1)
    block_B, rest_B = _first_above(sums_BT, lot_B * sums_BT.sum(-1))
    own_BW = jnp.take_along_axis(blocks_BTW, block_B[:, None, None], axis=1)[:, 0]
    return block_B * width + _first_above(own_BW, rest_B)[0]


def _first_above(weights_BT: Array, target_B: Array) -> tuple[Array, Array]:
    """(the first place where the running sum passes the target, what is left of the target before it).

    A target that rounding put beyond the whole sum gets the heaviest place, never one of weight 0.
    """
    sums_BT = jnp.cumsum(weights_BT, axis=-1)
    passed = sums_BT > target_B[:, None]
    place_B = jnp.where(passed.any(-1), passed.argmax(-1), weights_BT.argmax(-1))
    at = lambda x: jnp.take_along_axis(x, place_B[:, None], axis=1)[:, 0]
    return place_B, target_B - (at(sums_BT) - at(weights_BT))
