"""Floor 3: the metadata of a GGUF file as the contents of a Hugging Face `config.json`.

What a file doesn't say follows from its tensors: whether the head is tied, which biases there are, and Llama 3's way of
stretching its rotary frequencies, of which a file holds the resulting factors alone.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrec.hub.config import ModelError
from jaxrec.hub.gguf_file import GgufHead, read_rows
from jaxrec.hub.gguf_names import ARCHITECTURES, FACTORS
from jaxrec.hub.names import ARCHITECTURES as HF_CLASSES
from jaxrec.nn.rope import RopeScaling, frequencies

_FAMILIES = {theirs: ours for ours, (theirs, _) in ARCHITECTURES.items()}
_LAYER_TYPE = {True: "sliding_attention", False: "full_attention"}
_MISSING = object()


def config_of(head: GgufHead) -> dict[str, Any]:
    """The `config.json` of a file's model.

    Raises ModelError for an architecture that is not supported, a key that is missing, and options that no supported
    architecture has.
    """
    architecture = head.meta.get("general.architecture")
    if architecture not in _FAMILIES:
        raise ModelError(
            f"{head.path}: the architecture {architecture!r} is not supported; supported are {', '.join(_FAMILIES)}"
        )
    family, keys = _FAMILIES[architecture], _Keys(head, architecture)
    if keys.get("expert_count", 0):
        raise ModelError(f"{head.path}: mixtures of experts are not supported")
    if "token_embd.weight" not in head.tensors:
        raise ModelError(f"{head.path} lacks the tensor token_embd.weight")
    width, heads = keys.one("embedding_length"), keys.one("attention.head_count")
    head_dim = keys.one("attention.key_length", width // heads)
    if keys.one("attention.value_length", head_dim) != head_dim:
        raise ModelError(f"{head.path}: keys and values of different lengths are not supported")
    phi = family == "phi"
    rotary = keys.one("rope.dimension_count", head_dim)
    if rotary != head_dim and not phi:
        raise ModelError(
            f"{head.path}: a {architecture} that turns {rotary} of {head_dim} numbers of a head"
        )
    theta = float(keys.get("rope.freq_base", 10000.0))
    has = lambda *names: any(f"blk.0.{name}.bias" in head.tensors for name in names)
    config = {
        "architectures": [HF_CLASSES[family]],
        "model_type": family,
        "vocab_size": head.tensors["token_embd.weight"].shape[0],
        "hidden_size": width,
        "num_hidden_layers": keys.one("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.one("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": keys.one("feed_forward_length"),
        "hidden_act": "gelu_new" if phi else "silu",
        "max_position_embeddings": keys.one("context_length"),
        "rope_theta": theta,
        "rope_scaling": _scaling(keys, rotary, theta),
        "attention_bias": family == "llama" and has("attn_q", "attn_k", "attn_v", "attn_output"),
        "mlp_bias": has("ffn_gate", "ffn_up", "ffn_down"),
        "tie_word_embeddings": "output.weight" not in head.tensors,
    }
    if phi:
        eps = keys.get("attention.layer_norm_epsilon")
        return config | {"layer_norm_eps": _short(eps), "partial_rotary_factor": rotary / head_dim}
    config |= {"rms_norm_eps": _short(keys.get("attention.layer_norm_rms_epsilon"))}
    return config | (_gemma3(keys, config) if family == "gemma3_text" else {})


class _Keys:
    """The metadata of a file that belong to its architecture."""

    def __init__(self, head: GgufHead, architecture: str):
        self.head, self.architecture = head, architecture

    def get(self, key: str, default: Any = _MISSING) -> Any:
        value = self.head.meta.get(f"{self.architecture}.{key}", default)
        if value is _MISSING:
            raise ModelError(f"{self.head.path} lacks the metadata {self.architecture}.{key}")
        return value

    def one(self, key: str, default: Any = _MISSING) -> int:
        """A whole number that all layers share, whether it stands once or for each of them."""
        value = self.get(key, default)
        values = list(value) if isinstance(value, Sequence) else [value]
        if len(set(values)) != 1 or not isinstance(values[0], int) or values[0] < 1:
            raise ModelError(
                f"{self.head.path}: {self.architecture}.{key} is {str(value)[:60]}; one number of 1 or more for all"
                " layers is supported"
            )
        return values[0]


def _short(x: float) -> float:
    """A number as it was written before it became a float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(x)))


def _scaling(keys: _Keys, rotary: int, theta: float) -> dict[str, Any] | None:
    kind = keys.get("rope.scaling.type", "none")
    if FACTORS in keys.head.tensors:
        return _llama3(keys, rotary, theta)
    if kind == "none":
        return None
    factor = float(keys.get("rope.scaling.factor"))
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        yarn = {"rope_type": "yarn", "factor": factor}
        yarn["original_max_position_embeddings"] = keys.one("rope.scaling.original_context_length")
        for key in ("yarn_log_multiplier", "yarn_ext_factor", "yarn_attn_factor"):
            if keys.get(f"rope.scaling.{key}", None) is not None:
                raise ModelError(f"{keys.head.path}: YaRN with {key} is not supported")
        # llama.cpp multiplies YaRN's own temperature by this, where Hugging Face's field takes its place.
        more = keys.get("rope.scaling.attn_factor", None)
        if more is not None:
            yarn["attention_factor"] = _short(more) * (0.1 * math.log(factor) + 1)
        for beta in ("beta_fast", "beta_slow"):
            if (value := keys.get(f"rope.scaling.yarn_{beta}", None)) is not None:
                yarn[beta] = _short(value)
        return yarn
    raise ModelError(
        f"{keys.head.path}: rope scaling {kind!r} is not supported; linear, yarn and Llama 3's are"
    )


def _llama3(keys: _Keys, rotary: int, theta: float) -> dict[str, Any]:
    """Llama 3's stretching, found again from the factors that the file holds.

    Its three numbers count in turns of a first length, so a common factor in them changes nothing: the low bound is 1,
    and the length that gives these factors is sought among powers of two, with Llama's own high bound.
    """
    factors = read_rows(keys.head.path, keys.head.tensors[FACTORS]).astype(np.float64)
    plain, _ = frequencies(rotary, theta, None)
    if factors.shape == plain.shape:
        factor = _short(factors.max())
        for power in range(24):
            tried = RopeScaling("llama3", factor, 2**power, 1.0, 4.0)
            slower, _ = frequencies(rotary, theta, tried)
            if np.allclose(plain / slower, factors, rtol=1e-5):
                return {
                    "rope_type": "llama3",
                    "factor": factor,
                    "original_max_position_embeddings": 2**power,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                }
    raise ModelError(
        f"{keys.head.path}: the rotary factors in {FACTORS} are not those of Llama 3's rule"
    )


def _gemma3(keys: _Keys, config: dict[str, Any]) -> dict[str, Any]:
    # Which layers are local, and their rotary base, are in newer files alone; elsewhere llama.cpp takes these.
    pattern = keys.get("attention.sliding_window_pattern", 6)
    if isinstance(pattern, int):
        types: dict[str, Any] = {"sliding_window_pattern": pattern}
    else:  # one a layer: whether it is local
        types = {"layer_types": [_LAYER_TYPE[bool(x)] for x in pattern]}
    # The 27B alone, known by its layers, divides its scores by another length than a head's; no key says it.
    large = config["num_hidden_layers"] == 62
    scalar = config["hidden_size"] // config["num_attention_heads"] if large else config["head_dim"]
    return types | {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": scalar,
        "sliding_window": keys.one("attention.sliding_window"),
        "rope_local_base_freq": float(keys.get("rope.freq_base_swa", 10000.0)),
        "final_logit_softcapping": keys.get("final_logit_softcapping", None),
    }
