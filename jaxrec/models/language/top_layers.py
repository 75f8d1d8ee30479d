"""Floor 3: a model of which only the highest layers are changed: cut there, its Delta there, the states below it kept.

No gradient passes below the cut, and what lies there is the same whatever trains above it: its states are computed once
(`personal.frozen_states`) and travel in `Tokens.states_BLD`. Layers are counted from the top; 0 means all of them.
"""

from pathlib import Path

import jax

from jaxrec.config import RunError
from jaxrec.delta import DeltaConfig
from jaxrec.hub.config import read_config
from jaxrec.hub.weights import find
from jaxrec.models.language.model_folder import part_of_run
from jaxrec.models.language.tuned_folder import Tuned, load_tuned
from jaxrec.models.personal.inside import cuts_between, spec_inside
from jaxrec.nn.decoder import DecoderConfig


def load_top(source: str | Path, top: int, devices: jax.sharding.Mesh | None = None) -> Tuned:
    """A plain model, cut below its highest `top` layers. Raises RunError where it does not have more than that.

    source: a folder, GGUF file, name or hub id. top: layers. devices: the mesh that weights are placed on.
    """
    if not top:
        return load_tuned(source, devices=devices)
    cfg, _ = read_config(find(part_of_run(source, ("model",))))
    layers = cfg.layers if isinstance(cfg, DecoderConfig) else 0
    if not 0 < top < layers:
        raise RunError(
            f"top={top}: {source} has {layers} layers, so 1 to {layers - 1} of them are the highest, and 0 means all"
        )
    return load_tuned(source, devices=devices, cuts=cuts_between(_depths(top, layers), cfg))


def on_top(spec: DeltaConfig, top: int, cfg: DecoderConfig) -> tuple[DeltaConfig, int]:
    """(`spec` on the highest `top` layers alone, how many layers lie below).

    spec: the changes. top: layers. cfg: of a model that `load_top` has cut.
    Raises RunError for changes that begin before the first layer.
    """
    if not top:
        return spec, 0
    if spec.prompt_length or spec.embed:
        raise RunError(
            f"a soft prompt and an offset of the first token begin before the first layer, not in the highest {top}:"
            " leave them out, or set top to 0"
        )
    return (
        spec if spec.empty else spec_inside(spec, _depths(top, cfg.layers), cfg)
    ), cfg.layers - top


def top_rule(top: int, cfg: DecoderConfig) -> str:
    """The rule of paths (`training.partition`) of the weights of the highest `top` layers themselves."""
    if not top:
        return "backbone/.*"
    own = spec_inside(DeltaConfig(norm=True), _depths(top, cfg.layers), cfg).stacks
    return f"backbone/({own})/.*"


def _depths(top: int, layers: int) -> tuple[int, ...]:
    return tuple(range(layers - top, layers))
