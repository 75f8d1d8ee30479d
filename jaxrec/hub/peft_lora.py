"""Floor 3: LoRA, rsLoRA and DoRA between our layout and PEFT's.

PEFT may give every module a rank and an alpha of its own. Here the modules of a stack share one array: the ranks are
filled up with zeros, and each layer keeps its own scale, so nothing is lost.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxrec.delta import DeltaConfig, column_norms
from jaxrec.hub.peft_config import CONFIG, WEIGHTS, PeftError, pattern_of, value_of
from jaxrec.hub.peft_modules import (
    HEAD,
    PREFIX,
    Module,
    check_modules,
    check_shape,
    is_bare,
    modules_of,
    target_options,
)
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.structs import Delta, LayerDelta, Lora, OuterDelta

_PART = re.compile(r"(.+)\.(lora_A|lora_B|lora_magnitude_vector)(\.weight)?")


def lora_tensors(
    delta: Delta, spec: DeltaConfig, cfg: DecoderConfig, params: PyTree | None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors, options of the config) of a Delta of LoRAs with one row.

    Args:
      delta: the changes, every leaf with a single row.
      spec: the layout that it was made with: alpha, and whether it is divided by the root of the rank.
      cfg: of the base.
      params: the base's weights, which DoRA's magnitudes are relative to; None where there is no DoRA.

    Raises PeftError for a settled DoRA, for a DoRA without the base's `params`, and for one beside plain LoRAs (on the
    output head too): PEFT would give those a magnitude as well.
    """
    tensors, ranks, alphas, chosen = {}, {}, {}, []

    def put(name: str, a: Any, b: Any, scale: Any) -> None:
        tensors[f"{PREFIX}{name}.lora_A.weight"] = np.asarray(a).T
        tensors[f"{PREFIX}{name}.lora_B.weight"] = np.asarray(b).T
        ranks[name] = rank = a.shape[-1]
        alphas[name] = _alpha(float(scale) * (rank**0.5 if spec.lora_rs else rank), spec)

    magnitudes = 0
    for module in modules_of(cfg).values():
        stack = delta.stacks.get(module.stack)
        lora = stack and (stack.lora or {}).get(module.site)
        if not lora:
            continue
        chosen.append(module)
        i = module.layer
        put(module.name, lora.a_NBDR[i, 0], lora.b_NBRF[i, 0], lora.scale_NB[i, 0])
        if lora.gain_NBF is not None:
            raise PeftError("a settled DoRA has lost its magnitude; save the Delta before settle()")
        if lora.magnitude_NBF is not None:
            magnitudes += 1
            # Ours is an offset relative to the column, so that zero is the identity; PEFT keeps the length itself.
            absolute_F = _norms(module, params) * (1 + np.asarray(lora.magnitude_NBF[i, 0]))
            tensors[f"{PREFIX}{module.name}.lora_magnitude_vector"] = absolute_F
    options = target_options(chosen, cfg, by_layer=True)
    if (head := delta.outer.head) is not None:
        put(HEAD, head.a_NBDR[0], head.b_NBRF[0], head.scale_NB[0])
        options["target_modules"] = [*options["target_modules"], HEAD]
    # `use_dora` is one option for the whole adapter, so PEFT would give a plain LoRA a magnitude of its own.
    if magnitudes and magnitudes != len(ranks):
        raise PeftError("PEFT has DoRA on all modules of an adapter or on none; this Delta mixes")
    # PEFT has one rank and alpha for all, and patterns for exceptions: the commonest makes the shortest config.
    rank, alpha = (Counter(x.values()).most_common(1)[0][0] for x in (ranks, alphas))
    return tensors, options | {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {name: a for name, a in alphas.items() if a != alpha},
        "use_rslora": spec.lora_rs,
        "use_dora": magnitudes > 0,
    }


def lora_delta(
    tensors: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    cfg: DecoderConfig,
    params: PyTree | None,
) -> tuple[Delta, DeltaConfig]:
    """(Delta, the DeltaConfig whose layout it has) of a LORA adapter's tensors.

    Args:
      tensors: [out, in] each, by their names without the wrapper's prefix.
      config: of the adapter, as `read_peft_config` gives it.
      cfg: of the base.
      params: the base's weights, needed for DoRA only.

    Raises PeftError when they do not fit the model or the adapter's config, and for a DoRA without `params`.
    """
    modules = modules_of(cfg, bare=is_bare(list(tensors)))
    parts = _parts(tensors, cfg, params)
    check_modules(list(parts), modules, config, cfg)
    sizes = next(iter(Decoder.sites(cfg).stacks.values())).lora
    dora = config["use_dora"]
    for name, part in parts.items():
        d, f = (cfg.d_model, cfg.vocab) if name == HEAD else sizes[modules[name].site]
        # Checked before anything is made: a mistake names its tensor, and not an array that could not be broadcast.
        r = _rank(config, name)
        wanted = {"lora_A": (r, d), "lora_B": (f, r)}
        wanted |= {"lora_magnitude_vector": (f,)} if dora else {}
        if dora and name == HEAD:
            raise PeftError("DoRA on the output head is not supported")
        if part.keys() != wanted.keys():
            odd = sorted(part.keys() ^ wanted.keys())
            raise PeftError(f"{WEIGHTS} and {CONFIG} disagree: {name} with or without {odd[0]}")
        for kind, shape in wanted.items():
            check_shape(f"{name}.{kind}", part[kind].shape, shape)

    touched = [modules[name] for name in parts if name != HEAD]
    sites = [site for site in sizes if any(m.site == site for m in touched)]
    rank = max((_rank(config, m.name) for m in touched), default=0)
    stacks = sorted({m.stack for m in touched}, key=lambda stack: int(stack.split("_")[1]))
    spec = DeltaConfig(
        lora_rank=rank,
        lora_alpha=float(value_of(config, "lora_alpha")),
        lora_rs=config["use_rslora"],
        lora_dora=dora,
        lora_sites="|".join(sites) or ".*",
        head_rank=_rank(config, HEAD) if HEAD in parts else 0,
        # All stacks are written as a pattern, which then also fits a base that is cut in another way.
        stacks="|".join(stacks) if 0 < len(stacks) < len(cfg.cuts) + 1 else ".*",
    )
    made = {
        stack: LayerDelta(
            lora={
                site: _stacked(
                    [m for m in modules.values() if (m.stack, m.site) == (stack, site)],
                    parts, config, spec, sizes[site], params,
                )
                for site in sites
            }
        )
        for stack in stacks
    }  # fmt: skip
    head = None
    if HEAD in parts:
        a, b = (jnp.asarray(parts[HEAD][k].T[None]) for k in ("lora_A", "lora_B"))
        head = Lora(a, b, jnp.array([_scale(config, HEAD)], jnp.float32))
    return Delta(made, OuterDelta(head=head)), spec


def _stacked(
    layers: list[Module],
    parts: Mapping[str, Mapping[str, np.ndarray]],
    config: Mapping[str, Any],
    spec: DeltaConfig,
    size: tuple[int, int],
    params: PyTree | None,
) -> Lora:
    """The LoRAs of one site in all layers of a stack; a layer that has none gets zeros, the identity."""
    (d, f), n, r = size, len(layers), spec.lora_rank
    a, b = np.zeros((n, 1, d, r), np.float32), np.zeros((n, 1, r, f), np.float32)
    scale = np.full((n, 1), spec.scaling(r), np.float32)
    magnitude = np.zeros((n, 1, f), np.float32) if spec.lora_dora else None
    for module in layers:
        if module.name not in parts:
            continue
        part, i, own = parts[module.name], module.layer, _rank(config, module.name)
        # Ranks differ by module in PEFT, here a stack has one array: columns beyond a module's own rank stay zero.
        a[i, 0, :, :own], b[i, 0, :own] = part["lora_A"].T, part["lora_B"].T
        scale[i] = _scale(config, module.name)
        if magnitude is not None:
            norm_F = _norms(module, params)
            # A column of zeros has no direction that a magnitude could stretch: 0 leaves it as it is.
            alive = norm_F > 0
            relative = part["lora_magnitude_vector"] / np.where(alive, norm_F, 1.0) - 1
            magnitude[i, 0] = np.where(alive, relative, 0.0)
    leaves = (a, b, scale) if magnitude is None else (a, b, scale, magnitude)
    return Lora(*map(jnp.asarray, leaves))


def _parts(
    tensors: Mapping[str, np.ndarray], cfg: DecoderConfig, params: PyTree | None
) -> dict[str, dict[str, np.ndarray]]:
    """{module: {"lora_A": ..., "lora_B": ...}}, whatever else there is refused by its name."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, x in tensors.items():
        if found := _PART.fullmatch(name):
            parts.setdefault(found[1], {})[found[2]] = x
        elif name != f"{HEAD}.base_layer.weight" or not _is_own_head(x, cfg, params):
            raise PeftError(f"the adapter holds {name}, for which a Delta has no place")
    return parts


def _is_own_head(head_VD: np.ndarray, cfg: DecoderConfig, params: PyTree | None) -> bool:
    """Whether the head that peft saved beside a LoRA on it is the one that the model has anyway."""
    if params is None:
        return False
    # peft saves the head beside a LoRA on it; only where that is the model's own may it be left out.
    own = params["embed"]["table"] if cfg.tied else params["head"]["kernel"].T
    return own.shape == head_VD.shape and np.allclose(np.asarray(own, np.float32), head_VD, 1e-3)


def _rank(config: Mapping[str, Any], module: str) -> int:
    return int(pattern_of(config["rank_pattern"], module, value_of(config, "r")))


def _scale(config: Mapping[str, Any], module: str) -> float:
    alpha, rank = (
        pattern_of(config["alpha_pattern"], module, value_of(config, "lora_alpha")),
        _rank(config, module),
    )
    return alpha / (rank**0.5 if config["use_rslora"] else rank)


def _alpha(alpha: float, spec: DeltaConfig) -> int | float:
    """As it was meant: a scale in f32 times a rank is not quite it."""
    for meant in (spec.lora_alpha, float(round(alpha))):
        if np.isclose(alpha, meant, rtol=1e-6, atol=0):
            alpha = meant
            break
    return int(alpha) if alpha == int(alpha) else alpha


def _norms(module: Module, params: PyTree | None) -> np.ndarray:
    """The column lengths of the base's matrix."""
    if params is None:
        raise PeftError("DoRA's magnitudes are relative to the base: give its params too")
    kernel = params[module.stack]
    for part in (*Decoder.path_of(module.site), "kernel"):
        kernel = kernel[part]
    return np.asarray(column_norms(jax.tree.map(lambda x: x[module.layer], kernel)))
