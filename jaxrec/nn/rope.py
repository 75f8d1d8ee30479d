"""Floor 2: rotary position embeddings (Su 2021) and the ways to stretch them over longer texts."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

SCALINGS = ("default", "linear", "llama3", "yarn")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How frequencies are stretched, in the words of HF's `rope_scaling`. Fields that a kind lacks are ignored."""

    kind: str = "default"
    factor: float = 1.0
    original_max: int = 0  # the length that the model was first trained on
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn: given outright ...
    mscale: float | None = None  # ... or from these two
    mscale_all_dim: float | None = None
    truncate: bool = True  # yarn: round the correction range to whole dimensions

    def __post_init__(self):
        if self.kind not in SCALINGS:
            raise ValueError(
                f"rope scaling {self.kind!r} is not supported; supported are {', '.join(SCALINGS)}"
            )


def frequencies(dim: int, theta: float, scaling: RopeScaling | None) -> tuple[np.ndarray, float]:
    """(inverse frequencies [dim / 2], the factor on cosines and sines) for a rotary width of `dim`."""
    inv = 1.0 / theta ** (np.arange(0, dim, 2, dtype=np.float64) / dim)
    if scaling is None or scaling.kind == "default":
        return inv, 1.0
    if scaling.kind == "linear":
        return inv / scaling.factor, 1.0
    if scaling.kind == "llama3":
        return _llama3(inv, scaling), 1.0
    return _yarn(inv, dim, theta, scaling), _yarn_attention(scaling)


def _llama3(inv: np.ndarray, s: RopeScaling) -> np.ndarray:
    """Short waves stay, long ones are divided by the factor, those between are mixed linearly in turns made."""
    turns = s.original_max * inv / (2 * math.pi)
    mix = np.clip((turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor), 0.0, 1.0)
    return inv * (mix + (1 - mix) / s.factor)


def _yarn(inv: np.ndarray, dim: int, theta: float, s: RopeScaling) -> np.ndarray:
    """YaRN (Peng 2023, section 3.2): a ramp over dimensions between extrapolation and interpolation."""

    def dimension_of(
        turns: float,
    ) -> float:  # the dimension that turns so often over the first length
        return dim * math.log(s.original_max / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension_of(s.beta_fast), dimension_of(s.beta_slow)
    if s.truncate:
        low, high = math.floor(low), math.ceil(high)
    # The bounds of the published code, dim - 1 among them, although the ramp has only dim / 2 places.
    low, high = max(low, 0), min(high, dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / max(high - low, 0.001), 0.0, 1.0)
    return inv * ((1 - ramp) + ramp / s.factor)


def _yarn_attention(s: RopeScaling) -> float:
    """YaRN's temperature, put on cosines and sines (so squared in the scores)."""
    warm = lambda m: 0.1 * m * math.log(s.factor) + 1.0 if s.factor > 1 else 1.0
    if s.attention_factor is not None:
        return s.attention_factor
    if s.mscale and s.mscale_all_dim:
        return warm(s.mscale) / warm(s.mscale_all_dim)
    return warm(1.0)


def rotary(
    positions_BL: Int[Array, "B L"], dim: int, theta: float, scaling: RopeScaling | None = None
) -> tuple[Float[Array, "B L 1 half"], Float[Array, "B L 1 half"]]:
    """(cosines, sines) of each position, f32, with an axis for the heads (RoPE, Su 2021). Made once for all layers.

    Args:
      positions_BL: of the tokens.
      dim: how many of a head's dimensions turn; half as many angles.
      theta: the base of the wavelengths.
      scaling: how they are stretched for texts longer than those of the pretraining.
    """
    inv, factor = frequencies(dim, theta, scaling)
    # In f32 throughout: bfloat16 has no odd numbers above 256, so distant tokens would share their angles.
    angle = positions_BL[:, :, None, None].astype(jnp.float32) * jnp.asarray(
        inv, jnp.float32
    ).reshape(1, 1, 1, -1)
    return jnp.cos(angle) * factor, jnp.sin(angle) * factor


def rotate(
    x_BLHK: Float[Array, "B L H K"], turn: tuple[Float[Array, "B L 1 _h"], Float[Array, "B L 1 _h"]]
) -> Float[Array, "B L H K"]:
    """Rotates the first 2 * half dimensions of each head, halves paired; the rest (Phi-2) passes unchanged."""
    cos, sin = (t.astype(x_BLHK.dtype) for t in turn)
    half = cos.shape[-1]
    # Dimension i turns with i + half, as Hugging Face's weights have it. Where neighbours are paired instead
    # (llama.cpp's `llama`), the rows of q and k lie in another order: `hub.gguf` turns them.
    a, b, rest = x_BLHK[..., :half], x_BLHK[..., half : 2 * half], x_BLHK[..., 2 * half :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], -1)
