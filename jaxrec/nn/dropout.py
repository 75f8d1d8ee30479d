"""Floor 2: dropout whose bits are a hash of (the row's key, the place, the element), a few integer operations each.

A threefry draw for every activation costs more than the matmuls of a small model on a CPU. Dropout needs no such
strength: the murmur3 finaliser (Appleby 2008), fed with a counter and the two words of the row's key, is enough.
What a row drops depends on nothing but its own key, so microbatches and devices change nothing.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt32

# 2^32 over the golden ratio: multiples of it spread neighbouring counters over all 32 bits (Knuth, volume 3, 6.4).
_GOLDEN = 0x9E3779B9


def dropout(
    x_BX: Float[Array, "B *x"], rate: float, key_B: Key[Array, " B"] | None, site: int
) -> Float[Array, "B *x"]:
    """x with each element zero with probability `rate`, the others scaled by 1 / (1 - rate) (Srivastava 2014).

    Args:
      x_BX: any array whose rows lead.
      rate: in [0, 1).
      key_B: a key a row, so that what a row drops does not depend on who is beside it; None: no training, x as it is.
      site: tells the places of one model apart: two with the same number drop alike.

    Raises ValueError for a rate outside [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f"a dropout rate lies in [0, 1), not {rate}")
    if key_B is None or rate == 0:
        return x_BX
    # The bits are compared as integers, which saves turning each of them into a float.
    limit = jnp.uint32(min(round(rate * 2**32), 2**32 - 1))
    keep = hashed_bits(key_B, x_BX.shape[1:], site) >= limit
    # Scaled while training, so that nothing has to be done without dropout.
    return jnp.where(keep, x_BX * (1 / (1 - rate)), 0)


def hashed_bits(
    key_B: Key[Array, " B"], shape: tuple[int, ...], site: int
) -> UInt32[Array, "B ..."]:
    """32 bits for every element of [B, *shape]. Raises ValueError where a row has 2^32 elements or more."""
    if math.prod(shape) >= 2**32:
        raise ValueError(f"{shape} is more elements a row than a 32-bit counter tells apart")
    words_B2 = jax.random.key_data(key_B).astype(jnp.uint32)
    salt = jnp.uint32((site * _GOLDEN + 0x7F4A7C15) % 2**32)
    wide = lambda x_B: x_B.reshape(-1, *(1 for _ in shape))
    first = wide(_finalised(words_B2[:, 0] ^ salt))
    second = wide(_finalised(words_B2[:, 1] + salt))
    place = jnp.zeros((1, *shape), jnp.uint32)
    stride = 1
    for axis in range(len(shape), 0, -1):
        place += jax.lax.broadcasted_iota(jnp.uint32, place.shape, axis) * jnp.uint32(stride)
        stride *= shape[axis - 1]
    # The second word enters between the rounds, or the streams of two keys would be one stream, shifted.
    x = place * jnp.uint32(_GOLDEN) + first
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B) ^ second
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _finalised(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
