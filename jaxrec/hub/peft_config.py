"""Floor 3: what an `adapter_config.json` of HF PEFT says: read, checked against what a Delta can be, and written.

The layout is that of peft 0.21. An option that is set, and that a Delta cannot express, is refused by its name: what
loads here answers as it does there.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrec.config import RunError
from jaxrec.hub.config import ModelMissing

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LAYOUT = "0.21.2"  # the version of peft whose layout is written

_EVERYWHERE: dict[str, Any] = {
    "auto_mapping": None,
    "base_model_name_or_path": None,
    "inference_mode": True,
    "peft_version": LAYOUT,
    "revision": None,
    "task_type": "CAUSAL_LM",
}
_PROMPTS = {"modules_to_save": None, "num_transformer_submodules": 1}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "LORA": {
        "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "bias": "none",
        "corda_config": None, "ensure_weight_tying": False, "eva_config": None, "exclude_modules": None,
        "fan_in_fan_out": False, "init_lora_weights": True, "kasa_config": None, "layer_replication": None,
        "layers_pattern": None, "layers_to_transform": None, "loftq_config": {}, "lora_bias": False,
        "lora_dropout": 0.0, "lora_ga_config": None, "megatron_config": None,
        "megatron_core": "megatron.core", "modules_to_save": None, "monteclora_config": None,
        "qalora_group_size": 16, "rank_pattern": {}, "target_parameters": None,
        "trainable_token_indices": None, "use_bdlora": None, "use_dora": False, "use_qalora": False,
        "use_rslora": False, "velora_config": None,
    },
    "IA3": {
        "exclude_modules": None, "fan_in_fan_out": False, "init_ia3_weights": True,
        "modules_to_save": None,
    },
    "PREFIX_TUNING": _PROMPTS | {"init_weights": None, "prefix_projection": False},
    "PROMPT_TUNING": _PROMPTS | {
        "prompt_tuning_init": "RANDOM", "prompt_tuning_init_text": None, "tokenizer_kwargs": None,
        "tokenizer_name_or_path": None,
    },
}  # fmt: skip

# Options that say where an adapter came from or how it trains; what it computes does not depend on them. (peft too
# puts fan_in_fan_out aside for the linear layers that all our models have.)
_HARMLESS = {
    *_EVERYWHERE, "peft_type", "lora_dropout", "megatron_core", "qalora_group_size", "ensure_weight_tying",
    "eva_config", "fan_in_fan_out", "init_ia3_weights", "init_weights", "prefix_projection", "encoder_hidden_size",
    "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_kwargs", "tokenizer_name_or_path", "runtime_config",
}  # fmt: skip
_READ = {  # options that `hub.peft` follows
    "LORA": {
        "alpha_pattern", "bias", "exclude_modules", "init_lora_weights", "layers_pattern",
        "layers_to_transform", "lora_alpha", "r", "rank_pattern", "target_modules", "use_dora", "use_rslora",
    },
    "IA3": {"exclude_modules", "feedforward_modules", "target_modules"},
    "PREFIX_TUNING": {
        "num_attention_heads", "num_layers", "num_transformer_submodules", "num_virtual_tokens", "token_dim",
    },
    "PROMPT_TUNING": {
        "num_attention_heads", "num_layers", "num_transformer_submodules", "num_virtual_tokens", "token_dim",
    },
}  # fmt: skip
# Ways to start a LoRA that leave the base model as it is; the others (PiSSA, OLoRA, CorDA, LoftQ) change it.
_STARTS = (True, False, "gaussian", "eva", "orthogonal")


class PeftError(RunError, ValueError):
    """A PEFT folder that a Delta cannot hold or that is for another model, or a Delta that PEFT cannot hold."""


def read_peft_config(folder: Path) -> dict[str, Any]:
    """The contents of a folder's adapter_config.json, defaults filled in.

    Raises ModelMissing when there is none, PeftError when it is damaged, of an unsupported type, or sets an option
    that a Delta cannot express.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ModelMissing(f"{path} is missing: a PEFT folder holds {CONFIG} and {WEIGHTS}")
    try:
        said = json.loads(path.read_text())
    except ValueError as error:
        raise PeftError(f"{path} is damaged: {error}") from error
    kind = said.get("peft_type") if isinstance(said, dict) else None
    if kind not in _DEFAULTS:
        raise PeftError(
            f"{path}: peft_type {kind!r} is not supported; supported are {', '.join(_DEFAULTS)}"
        )
    for option, value in said.items():
        # An option that is empty or false changes nothing, whatever it means.
        if value and option not in _READ[kind] | _HARMLESS:
            raise PeftError(f"{path} sets {option}={value!r}, which a Delta cannot express")
    # Files of older versions of peft lack the newer options, which then have their defaults.
    config = _EVERYWHERE | _DEFAULTS[kind] | said
    if config.get("bias", "none") != "none":
        raise PeftError(f"{path}: bias={config['bias']!r} trains biases, which no Delta holds")
    if kind == "LORA" and config["init_lora_weights"] not in _STARTS:
        raise PeftError(
            f"{path}: init_lora_weights={config['init_lora_weights']!r} changes the base model; save the adapter"
            " converted to a plain LoRA (peft's path_initial_model_for_weight_conversion)"
        )
    return config


def write_peft_config(folder: Path, kind: str, options: Mapping[str, Any]) -> None:
    """Writes adapter_config.json of this type as peft does, what `options` leave out at its defaults."""
    contents = _EVERYWHERE | _DEFAULTS[kind] | dict(options) | {"peft_type": kind}
    (folder / CONFIG).write_text(json.dumps(contents, indent=2, sort_keys=True))


def value_of(config: Mapping[str, Any], option: str) -> Any:
    """A required option. Raises PeftError naming it where it is not set."""
    if config.get(option) is None:
        raise PeftError(f"{CONFIG} of a {config['peft_type']} adapter lacks {option}")
    return config[option]


def is_target(config: Mapping[str, Any], module: str, output: bool = False) -> bool:
    """Whether an adapter's config asks to change the module of this name (`output`: the model's last matrix)."""
    excluded, targets = config["exclude_modules"], value_of(config, "target_modules")
    if isinstance(excluded, str) and re.fullmatch(excluded, module):
        return False
    if isinstance(excluded, list) and _named(module, excluded):
        return False
    # peft leaves the output layer out of "all-linear".
    if targets == "all-linear":
        return not output
    # As in peft, a text is a pattern for the whole name, while a list holds names or their ends.
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    if module in targets:
        return True
    return _named(module, targets) and _layer_chosen(config, module)


def pattern_of(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value that rank_pattern or alpha_pattern has for a module: that of the first key that its name ends with."""
    for key, value in patterns.items():
        # peft's own expression: a key may be a pattern, and need only match the end of a name.
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def feeds_forward(config: Mapping[str, Any], module: str) -> bool:
    """Whether IA3 scales what this module reads, rather than what it gives."""
    modules = config.get("feedforward_modules") or []
    if isinstance(modules, str):
        return re.fullmatch(modules, module) is not None
    return any(module.endswith(name) for name in modules)


def _named(module: str, names: Sequence[str]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def _layer_chosen(config: Mapping[str, Any], module: str) -> bool:
    chosen = config.get("layers_to_transform")
    if chosen is None or chosen == []:
        return True
    patterns = config.get("layers_pattern") or [r"[^.]*"]
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if found := re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module):
            return int(found[1]) in ([chosen] if isinstance(chosen, int) else chosen)
    return False
