"""The language feature extractor's own part: from a backbone's top hidden states to Z.

    H_{L-K+1..L} [B, L, D] x K  --concat-->  [B, L, K*D]  --LN, W_proj-->  z_seq [B, L, d_z]  --pool-->  z_cls [B, d_z]

Several layers are joined because each knows something else (ELMo, Peters 2018), and pooled by one learned query rather
than read off a special token, which a decoder does not have. Everything below is the frozen backbone, run by `extract`;
everything that is personal stands on z alone.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, PyTree

from jaxrec import mesh as meshes
from jaxrec.config import RunError
from jaxrec.structs import Delta, LFEOutput, Tokens


@dataclasses.dataclass(frozen=True)
class LFEConfig:
    """Size and form of Z."""

    d_z: int = 128
    top_k: int = 3  # how many of the highest hidden states are joined, 2 to 4
    pool: Literal["attention", "mean"] = "attention"
    norm: Literal["before", "after"] = "before"  # the layer norm's place, before W_proj or after it

    def __post_init__(self):
        if self.top_k < 1 or self.d_z < 1:
            raise ValueError(f"top_k and d_z must be positive: {self}")


def check_depth(cfg: LFEConfig, layers: int) -> None:
    """Raises RunError where the LFE joins more hidden states than a backbone of so many layers has."""
    if cfg.top_k > layers + 1:
        raise RunError(
            f"lfe.top_k={cfg.top_k}: a backbone of {layers} layers has {layers + 1} hidden states, its embedding among"
            " them"
        )


class LFE(nn.Module):
    """Projection and pooling: all that retrofitting keeps."""

    cfg: LFEConfig

    @nn.compact
    def __call__(
        self, hidden: tuple[Float[Array, "B L D"], ...], mask_BL: Bool[Array, "B L"]
    ) -> LFEOutput:
        """Z of `top_k` hidden states. Padding gives zeros; a row without a real token gives zeros too."""
        cfg = self.cfg
        if len(hidden) != cfg.top_k:
            raise ValueError(
                f"LFE joins top_k={cfg.top_k} hidden states, it was given {len(hidden)}"
            )
        # Joined and not added, so that W_proj weighs each layer's features by itself.
        h_BLW = meshes.put(jnp.concatenate(hidden, axis=-1), "residual")
        project = nn.Dense(cfg.d_z, use_bias=cfg.norm == "before", name="proj")
        norm = nn.LayerNorm(name="norm")
        z_BLD = project(norm(h_BLW)) if cfg.norm == "before" else norm(project(h_BLW))
        # The biases above would give padding a vector of its own.
        z_BLD = jnp.where(mask_BL[..., None], z_BLD, 0.0)
        if cfg.pool == "mean":
            weight_BL = mask_BL.astype(z_BLD.dtype)
        else:
            query_D = self.param("query", nn.initializers.normal(1.0), (cfg.d_z,))
            # The softmax by hand, because of rows without a real token: `jax.nn.softmax` of nothing but -inf is NaN.
            score_BL = jnp.where(mask_BL, z_BLD @ query_D / cfg.d_z**0.5, -jnp.inf)
            top_B = jnp.where(mask_BL.any(-1), score_BL.max(-1), 0.0)
            weight_BL = jnp.exp(score_BL - jax.lax.stop_gradient(top_B)[:, None])
        # A row without a real token has no weights to be divided by: its z_cls stays zero.
        weight_BL = weight_BL / jnp.maximum(weight_BL.sum(-1, keepdims=True), 1e-9)
        return LFEOutput(z_BLD, jnp.einsum("bl,bld->bd", weight_BL, z_BLD), mask_BL)


def extract(
    backbone: nn.Module,
    lfe: LFE,
    backbone_params: PyTree,
    lfe_params: PyTree,
    tokens: Tokens,
    delta: Delta | None = None,
) -> LFEOutput:
    """Z of a batch of texts over any backbone that gives its hidden states.

    Args:
      backbone: the module.
      lfe: projection and pooling.
      backbone_params, lfe_params: their weights.
      tokens: the texts.
      delta: changes of the backbone (a LoRA on its top layers, from the retrofit). Without one no gradient flows into
        it; with one it flows as far down as the delta reaches.
    """
    hidden = top_states(backbone, lfe.cfg.top_k, backbone_params, tokens, delta)
    # Cut above the backbone: without a Delta no activation of it is kept for a backward pass.
    hidden = hidden if delta is not None else jax.lax.stop_gradient(hidden)
    return lfe.apply({"params": lfe_params}, hidden, tokens.mask_BL)


def top_states(
    backbone: nn.Module, top_k: int, params: PyTree, tokens: Tokens, delta: Delta | None = None
) -> tuple[Float[Array, "B L D"], ...]:
    """The `top_k` highest hidden states of a batch of texts, which are what an LFE joins.

    backbone, params: any module that gives its hidden states. tokens: the texts. delta: changes of the backbone.
    """
    out = backbone.apply(
        {"params": params},
        tokens.ids_BL,
        tokens.mask_BL,
        delta=delta,
        hidden=tuple(range(-top_k, 0)),
        logits="none",
    )
    return out.hidden


def from_states(
    lfe: LFE, params: PyTree, states_BLW: Float[Array, "B L W"], mask_BL: Bool[Array, "B L"]
) -> LFEOutput:
    """Z of hidden states that were computed beforehand.

    lfe, params: projection and pooling. states_BLW: the `top_k` highest side by side, in any type. mask_BL: the real
    tokens.
    """
    states_BLW = jax.lax.stop_gradient(states_BLW.astype(jnp.float32))
    hidden = tuple(jnp.split(states_BLW, lfe.cfg.top_k, axis=-1))
    return lfe.apply({"params": params}, hidden, mask_BL)
