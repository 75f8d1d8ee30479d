"""Floor 2: attention over the sequence itself or over a memory, with every personal change that it accepts.

    scores = q k^T / sqrt(K) + bias                      bias: MPNet's own, and the row's AttnBias
    out    = (exp(scores) v + g exp(q k_p) v_p) / Z      (k_p, v_p): the row's prefix, its mass times the gate g

Heads are grouped: H query heads share G key heads. Everything is written as batched matmuls on [B, G, H/G * L, K],
which compiles to far better code on CPUs than a five-letter einsum does. Softmax is in f32.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxrec import mesh as meshes
from jaxrec.nn.cache import LayerCache
from jaxrec.nn.layers import Dense, Norm, adapt, change_at
from jaxrec.nn.rope import rotate
from jaxrec.structs import AttnBias, LayerDelta, Prefix

_UNSEEN = -1e30  # beside it a score vanishes, and its exp is exactly 0
_BLOCK, _BLOCKS = 128, 8  # queries of a block at least, and blocks of a row at most
_FAR = 60.0  # exp(60) is finite in f32: how far a closed prefix may lie above the keys before its gradient is cut


def attend(
    q_BLHK: Float[Array, "B L H K"],
    k_BMGK: Float[Array, "B M G K"],
    v_BMGK: Float[Array, "B M G K"],
    mask_BLM: Bool[Array, "_ L M"],
    bias_BHLM: Float[Array, "_ H L M"] | None = None,
    prefix: Prefix | None = None,
) -> Float[Array, "B L H K"]:
    """Softmax attention (Vaswani 2017) of each query over the keys that it is shown. A query that sees none gives 0.

    Args:
      q_BLHK: queries, H heads of size K.
      k_BMGK, v_BMGK: keys and values; G divides H, and H / G query heads share each (grouped queries, Ainslie 2023).
      mask_BLM: which keys a query sees; leads with 1 where that is the same for all rows.
      bias_BHLM: added to the scores, by head.
      prefix: the row's own keys and values before all others (prefix-tuning, Li and Liang 2021), with their gate.
    """
    heads_first = lambda x: x.swapaxes(1, 2)
    return attend_by_head(
        q_BLHK, heads_first(k_BMGK), heads_first(v_BMGK), mask_BLM, bias_BHLM, prefix
    )


def attend_by_head(
    q_BLHK: Float[Array, "B L H K"],
    k_BGMK: Float[Array, "B G M K"],
    v_BGMK: Float[Array, "B G M K"],
    mask_BLM: Bool[Array, "_ L M"],
    bias_BHLM: Float[Array, "_ H L M"] | None = None,
    prefix: Prefix | None = None,
) -> Float[Array, "B L H K"]:
    """`attend` over keys and values that lie head by head, as a cache keeps them: nothing is copied to read them.

    Args:
      q_BLHK, mask_BLM, bias_BHLM, prefix: as of `attend`.
      k_BGMK, v_BGMK: keys and values, their heads before their places.
    """
    b, length, h, size = q_BLHK.shape
    g = k_BGMK.shape[1]
    # The query heads of a group become further rows of one product, X = H / G * L: a group's keys are read once and
    # never repeated for each of its heads.
    q_BGXK = q_BLHK.reshape(b, length, g, h // g, size).transpose(0, 2, 3, 1, 4)
    q_BGXK = q_BGXK.reshape(b, g, h // g * length, size)
    q_BGXK, k_BGMK, v_BGMK = meshes.put((q_BGXK, k_BGMK, v_BGMK), "heads")

    def scores(k_BGMK: Array) -> Array:
        s = jnp.einsum("bgxk,bgmk->bgxm", q_BGXK, k_BGMK, preferred_element_type=jnp.float32)
        # Without the root, scores spread with K and the softmax has next to no slope (Vaswani 2017, 3.2.1).
        return (s / math.sqrt(size)).reshape(b, h, length, -1)

    by_group = lambda x_BHLX: x_BHLX.reshape(b, g, h // g * length, -1)
    whole_heads = lambda o_BGXK: o_BGXK.reshape(b, h, length, size).swapaxes(1, 2)

    def mix(weights_BHLM: Array, v_BGMK: Array) -> Array:
        return _product(by_group(weights_BHLM), v_BGMK).reshape(b, h, length, size)

    s_BHLM = scores(k_BGMK)
    if bias_BHLM is not None:
        s_BHLM = s_BHLM + bias_BHLM
    # added, not selected: compiled for a CPU the softmax takes as little as half the time
    s_BHLM = s_BHLM + jnp.where(mask_BLM, 0.0, _UNSEEN)[:, None]
    # A softmax is the same whatever is subtracted, so the maximum keeps exp finite and needs no gradient.
    top = jax.lax.stop_gradient(s_BHLM.max(-1, keepdims=True))
    sees = mask_BLM.any(-1)[:, None, :, None]
    if prefix is None:
        e = jnp.exp(s_BHLM - top)
        # Without a visible key all scores are the same -1e30 and all weights 1; an infinite total makes the mean 0.
        total = jnp.where(sees, e.sum(-1, keepdims=True), jnp.inf)
        return whole_heads(_mean(by_group(e), by_group(total), v_BGMK))
    return _with_prefix(s_BHLM, sees, top, v_BGMK, prefix, scores, mix)


def attend_causally(
    q_BLHK: Float[Array, "B L H K"],
    k_BGLK: Float[Array, "B G L K"],
    v_BGLK: Float[Array, "B G L K"],
    mask_BLL: Bool[Array, "_ L L"],
    bias_BHLL: Float[Array, "_ H L L"] | None = None,
    prefix: Prefix | None = None,
) -> Float[Array, "B L H K"]:
    """`attend_by_head` where no query sees a later key: a block of queries at a time, over the keys up to its last.

    The other keys, up to 7/16 of all, are not multiplied, and the scores of a block are more likely to stay in cache.
    It is the outer loop of FlashAttention (Dao 2022) without the inner one: nothing is carried from block to block,
    so masks, biases and prefixes need no form of their own.

    Args:
      q_BLHK, k_BGLK, v_BGLK: queries, keys and values of the same L places.
      mask_BLL: which of the earlier keys a query sees.
      bias_BHLL: added to the scores.
      prefix: as of `attend`; every block sees it.
    """
    length = q_BLHK.shape[1]
    # The loop stands in the program, so a long row has longer blocks and not more of them.
    size = max(_BLOCK, -(-length // _BLOCKS))

    def block(start: int) -> Array:
        end = min(start + size, length)
        bias = None if bias_BHLL is None else bias_BHLL[:, :, start:end, :end]
        return attend_by_head(
            q_BLHK[:, start:end], k_BGLK[:, :, :end], v_BGLK[:, :, :end],
            mask_BLL[:, start:end, :end], bias, prefix,
        )  # fmt: skip

    return jnp.concatenate([block(start) for start in range(0, length, size)], axis=1)


def attend_fused(
    q_BLHK: Float[Array, "B L H K"],
    k_BGLK: Float[Array, "B G L K"],
    v_BGLK: Float[Array, "B G L K"],
    mask_BLL: Bool[Array, "_ L L"],
    bias_BHLL: Float[Array, "_ H L L"] | None = None,
    prefix: Prefix | None = None,
    kernel: str = "cudnn",
) -> Float[Array, "B L H K"]:
    """`attend_by_head` by one of the fused kernels that `jax.nn.dot_product_attention` knows.

    Args:
      q_BLHK, k_BGLK, v_BGLK: queries, keys and values of the same L places, in 16 bits.
      mask_BLL, bias_BHLL: as of `attend_causally`.
      prefix: must be None.
      kernel: "cudnn" is NVIDIA's FlashAttention, for GPUs from Ampere on.

    Raises ValueError for a prefix, which no such kernel knows; jax itself raises where the device or the types don't
    suit.
    """
    if prefix is not None:
        raise ValueError('a prefix needs attention="own": fused kernels have no place for its gate')
    bias = None if bias_BHLL is None else bias_BHLL.astype(q_BLHK.dtype)
    k_BLGK, v_BLGK = k_BGLK.swapaxes(1, 2), v_BGLK.swapaxes(1, 2)
    mask = mask_BLL[:, None]
    out = jax.nn.dot_product_attention(
        q_BLHK, k_BLGK, v_BLGK, bias=bias, mask=mask, implementation=kernel
    )
    # A kernel's softmax has nothing to go by where no key is seen; `attend` gives 0 there, and so does this.
    return jnp.where(mask_BLL.any(-1)[..., None, None], out, 0)


def _product(e_BGXM: Array, v_BGMK: Array) -> Array:
    return jnp.einsum(
        "bgxm,bgmk->bgxk", e_BGXM.astype(v_BGMK.dtype), v_BGMK, preferred_element_type=jnp.float32
    )


@jax.custom_vjp
def _mean(e_BGXM: Array, total_BGX1: Array, v_BGMK: Array) -> Array:
    """The mean of v with weights e, whose sum is `total`: divided after the product, there are fewer numbers then."""
    return (_product(e_BGXM, v_BGMK) / total_BGX1).astype(v_BGMK.dtype)


def _mean_forward(e_BGXM: Array, total_BGX1: Array, v_BGMK: Array) -> tuple[Array, tuple]:
    return _mean(e_BGXM, total_BGX1, v_BGMK), (e_BGXM, total_BGX1, v_BGMK)


def _mean_backward(kept: tuple, do_BGXK: Array) -> tuple[Array, Array, Array]:
    """As of a softmax: the slopes of a row's weights less their own mean. From the mean of v (do . o, as in flash
    attention) it would be one pass less, but where values are nearly equal the difference is mostly rounding."""
    e_BGXM, total_BGX1, v_BGMK = kept
    dw_BGXM = jnp.einsum("bgxk,bgmk->bgxm", do_BGXK, v_BGMK, preferred_element_type=jnp.float32)
    mean_BGX1 = (e_BGXM * dw_BGXM).sum(-1, keepdims=True) / total_BGX1
    do_BGXK = (do_BGXK / total_BGX1).astype(v_BGMK.dtype)
    dv_BGMK = jnp.einsum("bgxm,bgxk->bgmk", e_BGXM.astype(v_BGMK.dtype), do_BGXK)
    # The slope through `total`, which is the sum of e, is in the first result already.
    return (dw_BGXM - mean_BGX1) / total_BGX1, jnp.zeros_like(total_BGX1), dv_BGMK


_mean.defvjp(_mean_forward, _mean_backward)


def _with_prefix(s_BHLM, sees, top, v_BGMK, prefix: Prefix, scores, mix) -> Float[Array, "B L H K"]:
    """Keys and prefix in one softmax, the prefix's mass times its gate.

    The shared maximum leaves out a head whose gate is 0: then the sum over keys is, bit for bit, the one without a
    prefix, and the gate still has its gradient exp(s_p) (v_p - out) / Z. Adding log(gate) to the scores has none.
    """
    b = s_BHLM.shape[0]
    whole = lambda x: jnp.broadcast_to(x, (b, *x.shape[1:])).astype(v_BGMK.dtype).swapaxes(1, 2)
    gate = jnp.ones((1, 1)) if prefix.gate_NBH is None else prefix.gate_NBH
    gate = gate.astype(jnp.float32)[:, :, None, None]
    # a mass is not negative: below 0 the gate is closed, yet keeps the gradient that can open it again
    gate = gate + jax.lax.stop_gradient(jnp.maximum(gate, 0.0) - gate)
    s_BHLP = scores(whole(prefix.k_NBPGK))
    top_p = jax.lax.stop_gradient(s_BHLP.max(-1, keepdims=True))
    # rows that see no key have no maximum of their own: theirs is the prefix's
    top = jnp.where((gate != 0) | ~sees, jnp.maximum(top, top_p), top)
    e = jnp.exp(s_BHLM - top)
    # A closed prefix has no part in the maximum and may lie far above it: exp would be inf, and inf * 0 is NaN.
    e_p = jnp.exp(jnp.minimum(s_BHLP - top, _FAR)) * gate
    total = e.sum(-1, keepdims=True) + e_p.sum(-1, keepdims=True)
    # No key and a closed gate leave no mass at all: 0 / 1 instead of 0 / 0, in the gradient too.
    total = jnp.where(total > 0, total, 1.0)
    out_BHLK = (mix(e, v_BGMK) + mix(e_p, whole(prefix.v_NBPGK))) / total
    return out_BHLK.astype(v_BGMK.dtype).swapaxes(1, 2)


# ------------------------------------------------------------------------------------------- masks, biases


def self_mask(
    mask_BL: Bool[Array, "B L"],
    causal: bool,
    segments_BL: Int[Array, "B L"] | None = None,
    shared: int = 0,
) -> Bool[Array, "B L L"]:
    """Which key each query sees in its own row.

    Args:
      mask_BL: real tokens; padding is seen by nobody.
      causal: a query sees no later key.
      segments_BL: of packed examples, which don't see each other.
      shared: how many positions at the front (a soft prompt) are seen from all segments.
    """
    length = mask_BL.shape[1]
    seen = mask_BL[:, None, :] & mask_BL[:, :, None]
    if causal:
        seen = seen & jnp.tril(jnp.ones((length, length), bool))[None]
    if segments_BL is not None:
        same = segments_BL[:, None, :] == segments_BL[:, :, None]
        seen = seen & (same | (jnp.arange(length) < shared)[None, None, :])
    return seen


def distance_buckets(
    distance: Int[Array, "*b"], buckets: int, causal: bool, far: int = 128
) -> Int[Array, "*b"]:
    """T5's buckets (Raffel 2020) of relative distances: exact when near, logarithmic further away.

    Args:
      distance: key position - query position, of any shape.
      buckets: how many there are.
      causal: all buckets are for keys that came before; else half of them are for those behind.
      far: the distance from which on all fall into the last bucket.
    """
    offset = 0
    if causal:
        n = jnp.maximum(-distance, 0)
    else:
        buckets //= 2
        offset = (distance > 0) * buckets
        n = jnp.abs(distance)
    exact = max(buckets // 2, 1)
    ratio = jnp.log(jnp.maximum(n, 1).astype(jnp.float32) / exact) / np.log(far / exact)
    large = exact + (ratio * (buckets - exact)).astype(n.dtype)
    return offset + jnp.where(n < exact, n, jnp.minimum(large, buckets - 1))


def distance_bias(
    table_BHX: Float[Array, "_b H X"],
    query_BL: Int[Array, "_q L"],
    key_BM: Int[Array, "_k M"],
    causal: bool,
) -> Float[Array, "_o H L M"]:
    """The bias of each query-key pair by its distance bucket. Any of the three arrays may lead with 1.

    Args:
      table_BHX: the bias of each of X buckets, by head.
      query_BL, key_BM: positions of the queries and of the keys.
      causal: as of `distance_buckets`.
    """
    between = key_BM[:, None, :] - query_BL[:, :, None]
    bucket_BLM = distance_buckets(between, table_BHX.shape[-1], causal)
    b = max(table_BHX.shape[0], bucket_BLM.shape[0])
    # Distances that all rows share are looked up once, and the bias keeps its leading 1.
    if bucket_BLM.shape[0] == 1:
        return table_BHX.astype(jnp.float32)[:, :, bucket_BLM[0]]
    table_BHX = jnp.broadcast_to(table_BHX, (b, *table_BHX.shape[1:])).astype(jnp.float32)
    return jax.vmap(lambda table_HX, bucket_LM: table_HX[:, bucket_LM])(table_BHX, bucket_BLM)


def segment_bias(
    table_BHX: Float[Array, "_b H X"], segment_BM: Int[Array, "B M"]
) -> Float[Array, "B H 1 M"]:
    """The bias of each key of a memory by the segment it belongs to (0: the turn's own, 1...: retrieved)."""
    table = jnp.broadcast_to(table_BHX, (segment_BM.shape[0], *table_BHX.shape[1:]))
    return jax.vmap(lambda t_HX, s_M: t_HX[:, s_M])(table.astype(jnp.float32), segment_BM)[
        :, :, None
    ]


def _sum(*biases: Array | None) -> Array | None:
    given = [b for b in biases if b is not None]
    return sum(given[1:], given[0]) if given else None


# ------------------------------------------------------------------------------------------------- modules


class Attention(nn.Module):
    """Self-attention (`attn`) with projections q, k, v, o; or cross-attention over a memory (`cross=True`).

    Its sites in a delta are q, k, v, o and `attn`, or cross_q, cross_k, cross_v, cross_o and `cross`. Keys and values
    of a memory are made by `remember`, once for all the tokens that will be decoded against it.
    """

    width: int  # of what it adds to
    heads: int
    groups: int
    head_dim: int
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm_eps: float | None = None  # a norm on each head's q and k (Qwen3, Gemma 3), or none
    qk_norm: str = "rms"  # its kind
    query_scalar: float | None = None  # scores are divided by its root; None: the heads' size
    cross: bool = False
    causal: bool = True
    fused: bool = False  # whole rows by cuDNN; what is decoded or remembered is not
    init_std: float = 0.02
    out_std: float = 0.02

    def setup(self):
        into = lambda n: Dense(n * self.head_dim, self.qkv_bias, self.init_std)
        self.q, self.k, self.v = into(self.heads), into(self.groups), into(self.groups)
        self.o = Dense(self.width, self.o_bias, self.out_std)
        if self.qk_norm_eps is not None:
            self.q_norm = Norm(self.qk_norm, self.qk_norm_eps)
            self.k_norm = Norm(self.qk_norm, self.qk_norm_eps)

    def __call__(
        self,
        x_BLD: Array,
        mask_BLM: Array,
        delta: LayerDelta | None = None,
        *,
        turn: tuple[Array, Array] | None = None,
        positions: tuple[Array, Array] | None = None,
        cache: LayerCache | None = None,
        bias_BHLM: Array | None = None,
    ) -> tuple[Array, LayerCache | None]:
        """Self-attention: (what is added to the residual stream, the cache with these tokens in it).

        With a cache the new keys and values are written into it first, and the queries see the cache's slots.

        Args:
          x_BLD: the normed residual stream.
          mask_BLM: which keys, or slots of the cache, each query sees.
          delta: this layer's changes.
          turn: rotary (cos, sin); None where positions enter otherwise.
          positions: those of (queries, keys), for a distance bias.
          cache: this layer's view of the cache.
          bias_BHLM: added to the scores of all rows, beside the delta's own bias.
        """
        q, k, v = (self._heads_of(name, x_BLD, delta) for name in "qkv")
        # keys are turned before they are kept: a rotation depends on a key's own place alone, so the cache never turns
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        if cache is not None:
            k, v, cache = cache.extend(k, v)
        change: AttnBias | None = change_at(delta, "attn_bias", "attn")
        if change is not None:
            bias_BHLM = _sum(
                bias_BHLM, distance_bias(change.distance_NBHX, *positions, self.causal)
            )
        prefix = self._prefix(delta)
        # against a cache there are few queries and many slots, of which the mask shows the filled ones: no blocks there
        attend = attend_causally if self.causal and cache is None else attend_by_head
        if self.fused and cache is None:
            attend = attend_fused
        out = attend(q, k.astype(q.dtype), v.astype(q.dtype), mask_BLM, bias_BHLM, prefix)
        return self._out(out, delta), cache

    def remember(self, memory_BMD: Array, delta: LayerDelta | None = None) -> tuple[Array, Array]:
        """Keys and values [B, G, M, K] of a memory."""
        k, v = (self._heads_of(name, memory_BMD, delta) for name in "kv")
        return k.swapaxes(1, 2), v.swapaxes(1, 2)

    def over(
        self,
        x_BLD: Array,
        memory: tuple[Array, Array],
        mask_BM: Array,
        delta: LayerDelta | None = None,
        segment_BM: Array | None = None,
    ) -> Array:
        """Cross-attention: what x takes from a memory whose keys and values were made beforehand.

        Args:
          x_BLD: the normed residual stream, which asks.
          memory: keys and values from `remember`, both [B, G, M, K].
          mask_BM: which places of the memory are there.
          delta: this layer's changes.
          segment_BM: each key's segment (0: the turn's own, 1 and above: retrieved), for a segment bias.
        """
        k, v = memory
        q = self._heads_of("q", x_BLD, delta)
        change: AttnBias | None = change_at(delta, "attn_bias", "cross")
        bias = None
        if change is not None and change.segment_NBHX is not None:
            if segment_BM is None:
                segment_BM = jnp.zeros(mask_BM.shape, jnp.int32)
            bias = segment_bias(change.segment_NBHX, segment_BM)
            bias = jnp.broadcast_to(bias, (*bias.shape[:2], x_BLD.shape[1], bias.shape[3]))
        seen = jnp.broadcast_to(
            mask_BM[:, None, :], (mask_BM.shape[0], x_BLD.shape[1], mask_BM.shape[1])
        )
        out = attend_by_head(
            q, k.astype(q.dtype), v.astype(q.dtype), seen, bias, self._prefix(delta)
        )
        return self._out(out, delta)

    def _site(self, name: str) -> str:
        return f"cross_{name}" if self.cross else name

    def _prefix(self, delta: LayerDelta | None) -> Prefix | None:
        return change_at(delta, "prefix", "cross" if self.cross else "attn")

    def _heads_of(self, name: str, x_BLD: Array, delta: LayerDelta | None) -> Array:
        """The projection `q`, `k` or `v` of x, cut into heads [B, L, H or G, K]."""
        y = getattr(self, name)(x_BLD, delta, self._site(name))
        y = y.reshape(*x_BLD.shape[:2], -1, self.head_dim)
        normed = self.qk_norm_eps is not None and name != "v"
        y = getattr(self, f"{name}_norm")(y) if normed else y
        if self.query_scalar is None or name != "q":
            return y
        # Scores are divided by the root of the heads' size; the query carries what another divisor differs by.
        return y * math.sqrt(self.head_dim / self.query_scalar)

    def _out(self, out_BLHK: Array, delta: LayerDelta | None) -> Array:
        y = self.o(out_BLHK.reshape(*out_BLHK.shape[:2], -1), delta, self._site("o"))
        return adapt(y, change_at(delta, "adapter", "cross" if self.cross else "attn"))
