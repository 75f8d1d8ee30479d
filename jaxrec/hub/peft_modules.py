"""Floor 3: an adapter's tensors and the modules of the model that they belong to."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.hub.config import ModelMissing, family_of
from jaxrec.hub.names import NAMES
from jaxrec.hub.peft_config import CONFIG, WEIGHTS, PeftError, is_target
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.nn.stack import stack_sizes

PREFIX = "base_model.model."
HEAD = "lm_head"


@dataclasses.dataclass(frozen=True)
class Module:
    """One matrix of the model: its name there, and where it is here."""

    name: str
    number: int  # of its layer in the whole model
    stack: str
    layer: int  # in its stack
    site: str


def modules_of(cfg: DecoderConfig, bare: bool = False) -> dict[str, Module]:
    """Every matrix in the layers of a model by its name, layer by layer; `bare`: of the backbone without its head.

    Raises ModelError when no supported HF architecture holds the model.
    """
    # PEFT counts layers through the whole model; here each stack counts its own.
    names, sites = NAMES[family_of(cfg)], Decoder.sites(cfg).stacks
    found, number = {}, 0
    for stack, layers in stack_sizes(cfg.layers, cfg.cuts).items():
        for layer in range(layers):
            for site in sites[stack].lora:
                name = names[f"layer/{'/'.join(Decoder.path_of(site))}/kernel"].format(n=number)
                name = name.removesuffix(".weight").removeprefix("model." if bare else "")
                found[name] = Module(name, number, stack, layer, site)
            number += 1
    return found


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of a PEFT folder, f32, by their names without the wrapper's prefix.

    Raises ModelMissing when there is no adapter_model.safetensors and PeftError when it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS
    if not path.is_file():
        other = "; weights in other formats must be saved as safetensors first"
        raise ModelMissing(f"{path} is missing" + other * (folder / "adapter_model.bin").is_file())
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise PeftError(f"{path} is damaged: {error}") from error
    return {name.removeprefix(PREFIX): x.astype(np.float32) for name, x in arrays.items()}


def write_tensors(folder: Path, tensors: Mapping[str, Any]) -> None:
    """Writes adapter_model.safetensors, names as given."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    save_file(arrays, folder / WEIGHTS, metadata={"format": "pt"})


def is_bare(names: Sequence[str]) -> bool:
    """Whether tensors are named as those of a backbone without its head."""
    return any(name.startswith("layers.") for name in names)


def check_modules(
    found: Sequence[str], modules: Mapping[str, Module], config: Mapping[str, Any], cfg: Any
) -> None:
    """Raises PeftError when an adapter changes a module that the model does not have, or that its own config does not
    target, or lacks one that it does.

    Args:
      found: names of the modules that the adapter has tensors for.
      modules: every matrix in the model's layers, from `modules_of`.
      config: of the adapter, which says what it targets.
      cfg: of the model.
    """
    family = family_of(cfg)
    for name in found:
        output = name == HEAD
        if not output and name not in modules:
            raise PeftError(
                f"the adapter changes {name}, which this {family} model of {cfg.layers} layers does not have: it is"
                " for another model"
            )
        if not is_target(config, name, output):
            raise PeftError(f"the adapter holds {name}, but {CONFIG} does not target it")
    lacking = [m for m in modules if m not in found and is_target(config, m)]
    if lacking:
        raise PeftError(
            f"{CONFIG} targets {lacking[0]}, which {WEIGHTS} lacks ({len(lacking)} modules in all): it is cut short,"
            f" or for a model with fewer layers than {cfg.layers}"
        )


def check_shape(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Raises PeftError when a tensor has another shape than the model and the config ask for."""
    if tuple(found) != tuple(wanted):
        raise PeftError(
            f"the adapter is for a model of another shape: {name} has shape {tuple(found)}, this model and {CONFIG}"
            f" ask for {tuple(wanted)}"
        )


def target_options(chosen: Sequence[Module], cfg: DecoderConfig, by_layer: bool) -> dict[str, Any]:
    """`target_modules` that name just these modules, and `layers_to_transform` where `by_layer` allows it."""
    leaves: dict[int, set[str]] = {}
    for module in chosen:
        leaves.setdefault(module.number, set()).add(module.name.rsplit(".", 1)[-1])
    first = next(iter(leaves.values()), set())
    alike = all(x == first for x in leaves.values())
    # Short names reach into every layer, so they stand only where all layers are changed alike.
    if alike and len(leaves) in (0, cfg.layers):
        return {"target_modules": sorted(first)}
    if alike and by_layer:
        layers = {"layers_to_transform": sorted(leaves), "layers_pattern": "layers"}
        return layers | {"target_modules": sorted(first)}
    return {"target_modules": sorted(module.name for module in chosen)}
