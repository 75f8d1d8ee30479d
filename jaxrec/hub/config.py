"""Floor 3: a Hugging Face `config.json` as one of our configs, and back."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from jaxrec.config import RunError
from jaxrec.hub.names import ARCHITECTURES
from jaxrec.nn.cache import GLOBAL, LOCAL
from jaxrec.nn.decoder import DecoderConfig
from jaxrec.nn.encoder import EncoderConfig
from jaxrec.nn.rope import SCALINGS, RopeScaling
from jaxrec.nn.stack import cycle_of

ACTIVATION = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_HF_ACTIVATION = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}
# our RopeScaling field -> HF's key
_ROPE = {
    "factor": "factor",
    "original_max": "original_max_position_embeddings",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
    "mscale": "mscale",
    "mscale_all_dim": "mscale_all_dim",
    "truncate": "truncate",
}
_ROPE_OF = {
    "linear": ("factor",),
    "llama3": ("factor", "original_max", "low_freq_factor", "high_freq_factor"),
    "yarn": (
        "factor", "original_max", "beta_fast", "beta_slow",
        "attention_factor", "mscale", "mscale_all_dim", "truncate",
    ),
}  # fmt: skip

_TYPE = {"full_attention": GLOBAL, "sliding_attention": LOCAL}
_HF_TYPE = {ours: theirs for theirs, ours in _TYPE.items()}
# What transformers takes where a file of Gemma 3 leaves a field out.
_GEMMA3 = {
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131072,
    "query_pre_attn_scalar": 256,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "tie_word_embeddings": True,
}
# Families that are near to supported ones, and what they would lack here.
_NEAR = {
    "gemma": "the first Gemma is not read; Gemma 3 is (gemma3_text)",
    "gemma2": "it caps attention scores and logits, which is not supported; Gemma 3 is (gemma3_text)",
    "gemma3": "this is Gemma 3 with pictures; its text part alone, saved as gemma3_text, is supported",
    "gemma3n": "Gemma 3n has parts of its own; Gemma 3 is supported (gemma3_text)",
}

Config = DecoderConfig | EncoderConfig


class ModelMissing(RunError, FileNotFoundError):
    """A model folder, or a file in it, that is not there."""


class ModelError(RunError, ValueError):
    """A model folder that is not supported, or whose parts do not fit each other."""


def read_config(folder: str | Path) -> tuple[Config, str]:
    """(our config, the family) of a folder's `config.json`.

    Raises ModelMissing when there is none, ModelError when the architecture or one of its options is not
    supported, or a field is missing.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ModelMissing(f"{path} is missing: a model folder holds config.json and *.safetensors")
    try:
        contents = json.loads(path.read_text())
    except ValueError as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    return from_hf(contents)


def from_hf(hf: dict[str, Any]) -> tuple[Config, str]:
    """(our config, the family) of the contents of a `config.json`. Raises ModelError as `read_config`."""
    family = hf.get("model_type")
    if family in _NEAR:
        raise ModelError(f"model_type {family!r} is not supported: {_NEAR[family]}")
    if family not in ARCHITECTURES:
        raise ModelError(
            f"model_type {family!r} is not supported; supported are {', '.join(ARCHITECTURES)}"
        )
    try:
        return (
            _encoder(hf, family) if family in ("bert", "mpnet") else _decoder(hf, family)
        ), family
    except KeyError as missing:
        raise ModelError(f"config.json of a {family} model lacks the field {missing}") from None


def _decoder(hf: dict[str, Any], family: str) -> DecoderConfig:
    own: dict[str, Any] = {}
    if family == "gemma3_text":
        hf, own = _gemma3(_GEMMA3 | hf)
    elif family == "mistral" and (window := hf.get("sliding_window", 4096)):
        own = {"layer_types": (LOCAL,), "window": window}
    # Newer files gather in "rope_parameters" what older ones keep in several fields.
    rope = hf.get("rope_parameters") or {}
    heads, phi = hf["num_attention_heads"], family == "phi"
    _refuse(hf, "use_sliding_window", "sliding-window attention")
    _refuse(hf, "qk_layernorm", "Phi with normed queries and keys")
    bias = hf.get("attention_bias", False)
    cfg = DecoderConfig(
        vocab=hf["vocab_size"],
        d_model=hf["hidden_size"],
        layers=hf["num_hidden_layers"],
        heads=heads,
        # Files from before grouped queries do not name the key heads, or say null: there are as many as heads.
        groups=hf.get("num_key_value_heads") or heads,
        head_dim=hf.get("head_dim") or hf["hidden_size"] // heads,
        d_ff=hf["intermediate_size"],
        norm="layer" if phi else "rms",
        norm_eps=hf["layer_norm_eps"] if phi else hf.get("rms_norm_eps", 1e-6),
        gated=not phi,
        activation=_activation(hf.get("hidden_act", "gelu_new" if phi else "silu")),
        # Qwen2 has biases on q, k and v without saying so in its config.
        qkv_bias=phi or family == "qwen2" or bias,
        o_bias=phi or (bias and family != "qwen2"),
        mlp_bias=phi or hf.get("mlp_bias", False),
        head_bias=phi,
        qk_norm=family == "qwen3",
        parallel=phi,
        rope_theta=float(rope.get("rope_theta") or hf.get("rope_theta", 10000.0)),
        rope_fraction=_fraction(hf, rope, 0.5 if phi else 1.0),
        rope_scaling=_scaling(rope or hf.get("rope_scaling"), hf["max_position_embeddings"]),
        tied=hf.get("tie_word_embeddings", False),
        max_positions=hf["max_position_embeddings"],
        init_std=hf.get("initializer_range", 0.02),
    )
    return dataclasses.replace(cfg, **own)


def _gemma3(hf: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the same in the words of other decoders, our fields that only Gemma sets)."""
    for field in ("attn_logit_softcapping", "final_logit_softcapping"):
        _refuse(hf, field, "a cap on scores")
    _refuse(hf, "use_bidirectional_attention", "Gemma 3 that sees later tokens")
    rope = hf.get("rope_parameters") or {}
    full, near = rope.get("full_attention") or {}, rope.get("sliding_attention") or {}
    if (near.get("rope_type") or "default") != "default":
        raise ModelError(f"rope scaling {near['rope_type']!r} of local layers is not supported")
    # Older files stretch the global layers by "rope_scaling" and name both bases apart.
    scaling = full if full.get("rope_type") else hf.get("rope_scaling") or {}
    theta = full.get("rope_theta") or hf["rope_theta"]
    types, scalar = _layer_types(hf), hf["query_pre_attn_scalar"]
    if not isinstance(scalar, int | float) or scalar <= 0:
        raise ModelError(f"query_pre_attn_scalar={scalar!r} in config.json: it is a number above 0")
    own = {
        "norm": "rms_offset",
        "qk_norm": True,
        "post_norms": True,
        "embed_scaled": True,
        "query_scalar": None if scalar == hf["head_dim"] else float(scalar),
        "layer_types": types,
    }
    if LOCAL in types:
        window, local = hf["sliding_window"], near.get("rope_theta") or hf["rope_local_base_freq"]
        if not isinstance(window, int) or window < 1:
            raise ModelError(
                f"sliding_window={window!r} in config.json: local layers need a window"
            )
        own |= {"window": window, "local_rope_theta": float(local)}
    words = {
        "hidden_act": hf["hidden_activation"],
        "rope_parameters": {**scaling, "rope_theta": theta},
    }
    return hf | words, own


def _layer_types(hf: dict[str, Any]) -> tuple[str, ...]:
    """Which layers are local, as the shortest cycle: listed, or every n-th global where the file is older."""
    layers, pattern = hf["num_hidden_layers"], hf["sliding_window_pattern"]
    if not isinstance(pattern, int) or pattern < 1:
        raise ModelError(f"sliding_window_pattern={pattern!r} in config.json: it is 1 or more")
    listed = hf.get("layer_types") or [
        _HF_TYPE[LOCAL if (i + 1) % pattern else GLOBAL] for i in range(layers)
    ]
    unknown = [name for name in listed if name not in _TYPE]
    if unknown or len(listed) != layers:
        what = f"layer type {unknown[0]!r}" if unknown else f"{len(listed)} layer_types"
        raise ModelError(f"{what} in config.json: {layers} layers are each {' or '.join(_TYPE)}")
    return cycle_of([_TYPE[name] for name in listed])


def _encoder(hf: dict[str, Any], family: str) -> EncoderConfig:
    mpnet = family == "mpnet"
    if hf.get("position_embedding_type", "absolute") != "absolute":
        raise ModelError(f"position embeddings {hf['position_embedding_type']!r} are not supported")
    return EncoderConfig(
        vocab=hf["vocab_size"],
        d_model=hf["hidden_size"],
        layers=hf["num_hidden_layers"],
        heads=hf["num_attention_heads"],
        d_ff=hf["intermediate_size"],
        activation=_activation(hf.get("hidden_act", "gelu")),
        norm_eps=hf.get("layer_norm_eps", 1e-12),
        max_positions=hf["max_position_embeddings"],
        first_position=2 if mpnet else 0,  # MPNet counts on from its padding's row, 1
        types=0 if mpnet else hf.get("type_vocab_size", 2),
        distance_buckets=hf.get("relative_attention_num_buckets", 32) if mpnet else 0,
        init_std=hf.get("initializer_range", 0.02),
    )


def _activation(name: str) -> str:
    if name not in ACTIVATION:
        raise ModelError(
            f"activation {name!r} is not supported; supported are {', '.join(ACTIVATION)}"
        )
    return ACTIVATION[name]


def _refuse(hf: dict[str, Any], field: str, what: str) -> None:
    if hf.get(field):
        raise ModelError(f"{what} ({field} in config.json) is not supported")


def _fraction(hf: dict[str, Any], rope: dict[str, Any], default: float) -> float:
    return rope.get("partial_rotary_factor") or hf.get("partial_rotary_factor") or default


def _scaling(rope: dict[str, Any] | None, longest: int) -> RopeScaling | None:
    kind = (rope or {}).get("rope_type") or (rope or {}).get("type") or "default"
    if kind == "default":
        return None
    if kind not in SCALINGS:
        raise ModelError(
            f"rope scaling {kind!r} is not supported; supported are {', '.join(SCALINGS)}"
        )
    given = {
        ours: rope[_ROPE[ours]] for ours in _ROPE_OF[kind] if rope.get(_ROPE[ours]) is not None
    }
    # JSON may say 8 where 8.0 is meant
    given = {k: float(v) if type(v) is int and k != "original_max" else v for k, v in given.items()}
    if kind == "yarn":
        # As transformers does for YaRN where the file does not say which length came first.
        given.setdefault("original_max", longest)
    return RopeScaling(kind=kind, **given)


# ------------------------------------------------------------------------------------------------- and back


def family_of(cfg: Config) -> str:
    """The HF family that holds a model of this config. Raises ModelError when none does."""
    if isinstance(cfg, EncoderConfig):
        family = "mpnet" if cfg.distance_buckets else "bert"
    elif cfg.parallel:
        family = "phi"
    elif cfg.norm == "rms_offset":
        family = "gemma3_text"
    elif cfg.qk_norm:
        family = "qwen3"
    elif cfg.window:
        family = "mistral"
    else:
        family = "qwen2" if cfg.qkv_bias and not cfg.o_bias else "llama"
    # Whether a family holds the model is tried out: written and read again, it must be the same.
    back, _ = from_hf(to_hf(cfg, family))
    # cuts, precision, rematerialisation and kernels are how we run a model, not what it is
    own = {k: v for k, v in vars(cfg).items() if k not in ("cuts", "dtype", "remat", "attention")}
    lost = [k for k, v in own.items() if getattr(back, k) != v]
    if lost == ["layer_types"] and back.types == cfg.types:
        lost = []  # another cycle, cut short before it shows
    if isinstance(cfg, DecoderConfig) and cfg.rope_fraction != 1 and family != "phi":
        lost.append(
            "rope_fraction"
        )  # the file could say it, and transformers would turn all of a head
    if lost:
        raise ModelError(
            f"no supported HF architecture holds this model: as {family} it would lose {', '.join(lost)}"
        )
    return family


def to_hf(cfg: Config, family: str) -> dict[str, Any]:
    """The contents of a `config.json` for a model of this family."""
    shared = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": cfg.vocab,
        "hidden_size": cfg.d_model,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "intermediate_size": cfg.d_ff,
        "hidden_act": _HF_ACTIVATION[cfg.activation],
        "max_position_embeddings": cfg.max_positions,
        "initializer_range": cfg.init_std,
    }
    if isinstance(cfg, EncoderConfig):
        own = {"relative_attention_num_buckets": cfg.distance_buckets, "pad_token_id": 1}
        own = own if family == "mpnet" else {"type_vocab_size": cfg.types, "pad_token_id": 0}
        return shared | own | {"layer_norm_eps": cfg.norm_eps}
    if family == "gemma3_text":
        shared |= _gemma3_to_hf(cfg)
    elif family == "mistral":
        shared |= {"sliding_window": cfg.window or None}
    return shared | {
        "num_key_value_heads": cfg.groups,
        "head_dim": cfg.head_dim,
        "layer_norm_eps" if family == "phi" else "rms_norm_eps": cfg.norm_eps,
        "attention_bias": cfg.qkv_bias and cfg.o_bias,
        "mlp_bias": cfg.mlp_bias,
        "rope_theta": cfg.rope_theta,
        "partial_rotary_factor": cfg.rope_fraction,
        "rope_scaling": _hf_scaling(cfg.rope_scaling),
        "tie_word_embeddings": cfg.tied,
    }


def _gemma3_to_hf(cfg: DecoderConfig) -> dict[str, Any]:
    """What Gemma 3 says beside other decoders, in words that all versions of transformers read."""
    cycle, scalar = cycle_of(cfg.types), cfg.query_scalar or cfg.head_dim
    theirs = {
        "hidden_activation": "gelu_pytorch_tanh"
        if cfg.activation == "gelu_tanh"
        else cfg.activation,
        "query_pre_attn_scalar": int(scalar),
        "layer_types": [_HF_TYPE[t] for t in cfg.types],
        "sliding_window": cfg.window or None,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    }
    if cycle[-1] == GLOBAL and GLOBAL not in cycle[:-1]:
        theirs["sliding_window_pattern"] = len(cycle)
    if cfg.local_rope_theta is not None:
        theirs["rope_local_base_freq"] = cfg.local_rope_theta
    return theirs


def _hf_scaling(s: RopeScaling | None) -> dict[str, Any] | None:
    if s is None or s.kind == "default":
        return None
    fields = {_ROPE[k]: getattr(s, k) for k in _ROPE_OF[s.kind]}
    return {"rope_type": s.kind} | {k: v for k, v in fields.items() if v is not None}
