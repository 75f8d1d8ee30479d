"""Floor 3: Deltas as HF PEFT folders and back: LoRA (rsLoRA, DoRA), IA3, prefix tuning, prompt tuning.

    save_peft("out/peft", delta, spec, cfg)             PeftModel.from_pretrained(model, "out/peft") answers as we do
    delta, spec = load_peft("out/peft", cfg, params)    and the other way round

Ours lead with layers and a row, theirs are one matrix [out, in] for each module; layers are numbered across stacks.
Three things differ in more than their layout: DoRA's magnitude is an offset relative to the base's own column here and
absolute there; IA3's factors are offsets from 1 here; and a prefix's keys are used as they are at both ends, but peft's
real tokens begin at position P, ours at 0: rotary scores know only distances, so the keys turn by P on their way.
In layers that see a window, peft's prefix goes out of sight as tokens do, where ours stays: longer texts differ, and
it is said.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxrec import delta as deltas
from jaxrec import files
from jaxrec.delta import DeltaConfig
from jaxrec.hub.config import read_config
from jaxrec.hub.peft_config import (
    CONFIG,
    PeftError,
    feeds_forward,
    read_peft_config,
    value_of,
    write_peft_config,
)
from jaxrec.hub.peft_lora import lora_delta, lora_tensors
from jaxrec.hub.peft_modules import (
    PREFIX,
    check_modules,
    check_shape,
    is_bare,
    modules_of,
    read_tensors,
    target_options,
    write_tensors,
)
from jaxrec.hub.published import hub_name
from jaxrec.hub.weights import find
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.nn.rope import frequencies, rotate
from jaxrec.nn.stack import stack_sizes
from jaxrec.structs import Delta, LayerDelta, OuterDelta, Prefix

PROMPT = "prompt_embeddings"
_log = logging.getLogger(__name__)


def save_peft(
    folder: str | Path,
    delta: Delta,
    spec: DeltaConfig,
    cfg: DecoderConfig,
    *,
    params: PyTree | None = None,
    base: str = "",
) -> None:
    """Writes a Delta of one row and one kind as a PEFT folder, in place of an adapter that was there.

    Args:
      folder: where adapter_model.safetensors and adapter_config.json go.
      delta: the changes, every leaf with a single row.
      spec: the layout that it was made with; LoRA's alpha and rsLoRA's root are read from it.
      cfg: of the base.
      params: the base's, needed for DoRA only.
      base: its folder or hub id, which PEFT keeps with the adapter. A folder is named by its whole path, as PEFT looks
        for a relative one from wherever it is started.

    Raises PeftError for a Delta of several rows or kinds, of a kind that PEFT does not have, or for another model
    than the base (one that was cut, say).
    """
    folder, base = Path(folder), _checked_base(base, cfg)
    try:
        delta = deltas.materialise(delta)
        deltas.check(delta, Decoder.sites(cfg))
        rows = deltas.batch_size(delta)
    except ValueError as error:
        raise PeftError(f"this Delta is not for this model: {error}") from error
    if rows != 1:
        raise PeftError(f"a PEFT folder holds one tenant, this Delta {rows}: take one row of it")
    # in bf16 a magnitude near 1 would lose most of what it says
    delta, kind = jax.tree.map(lambda x: np.asarray(x, np.float32), delta), _kind(delta)
    if kind == "LORA":
        tensors, options = lora_tensors(delta, spec, cfg, params)
    else:
        write = {"IA3": _ia3_out, "PREFIX_TUNING": _prefix_out, "PROMPT_TUNING": _prompt_out}
        tensors, options = write[kind](delta, cfg)
    with files.replace_files(folder, _is_adapter, CONFIG) as fresh:
        write_tensors(fresh, tensors)
        write_peft_config(fresh, kind, options | {"base_model_name_or_path": base or None})


def load_peft(
    source: str | Path, cfg: DecoderConfig, params: PyTree | None = None, *, base: str = ""
) -> tuple[Delta, DeltaConfig]:
    """(a Delta of one row, the DeltaConfig whose layout it has) of a PEFT folder or hub id.

    Args:
      source: of the adapter.
      cfg: of the base, whose layers and cuts the Delta gets.
      params: the base's, needed for DoRA only.
      base: what the base is called; an adapter that names another one is refused.

    Raises ModelMissing when a file is not there, and PeftError when one is damaged, the method or an option
    is not supported, or the adapter is for another model.
    """
    folder = find(source)
    config = read_peft_config(folder)
    named = config["base_model_name_or_path"] or ""
    # The last part of the name, because one side may hold a hub id and the other a folder of the same name.
    if base and named and Path(hub_name(base)).name.casefold() != Path(named).name.casefold():
        raise PeftError(f"{folder} is an adapter of {named!r}, not of {base!r}")
    tensors = read_tensors(folder)
    if config["peft_type"] == "LORA":
        delta, spec = lora_delta(tensors, config, cfg, params)
    else:
        read = {"IA3": _ia3_in, "PREFIX_TUNING": _prefix_in, "PROMPT_TUNING": _prompt_in}
        delta, spec = read[config["peft_type"]](tensors, config, cfg)
    deltas.check(delta, Decoder.sites(cfg))
    return delta, spec


def _checked_base(base: str, cfg: DecoderConfig) -> str:
    """The base as PEFT will find it. Raises PeftError for a folder whose model is another than that of `cfg`."""
    base = hub_name(base)
    folder = Path(base).expanduser()
    if not base or not (folder / "config.json").is_file():
        return base
    there, _ = read_config(folder)
    for name in ("layers", "d_model", "heads", "groups", "head_dim", "d_ff", "vocab"):
        own, other = getattr(cfg, name), getattr(there, name)
        if own != other:
            raise PeftError(
                f"the adapter is for a model with {name}={own}, the base {base} has {other}: PEFT would put it onto"
                " another model than it was trained on"
            )
    return str(folder.resolve())


def _is_adapter(path: Path) -> bool:
    return path.name.startswith(("adapter_model.", "adapter_config."))


def _kind(delta: Delta) -> str:
    """The peft_type that holds a Delta. Raises PeftError when there is none, or more than one."""
    known = {"lora": "LORA", "scale": "IA3", "prefix": "PREFIX_TUNING"}
    kinds = {kind for s in delta.stacks.values() for kind, sites in vars(s).items() if sites}
    outer = {name for name, x in vars(delta.outer).items() if x is not None}
    strange = sorted(kinds - set(known)) + sorted(outer & {"embed_BD"})
    if strange:
        raise PeftError(
            f"PEFT has no {strange[0]}; it holds LoRA, IA3, a prefix or a soft prompt. Save the Delta as a folder of"
            " its own instead"
        )
    types = {known[kind] for kind in kinds}
    types |= {"PROMPT_TUNING" if name == "prompt_BPD" else "LORA" for name in outer}
    if len(types) != 1:
        raise PeftError(f"a PEFT folder holds one method, this Delta {len(types)}: {sorted(types)}")
    return types.pop()


# --------------------------------------------------------------------------------------------------- IA3


def _ia3_out(delta: Delta, cfg: DecoderConfig) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    tensors, chosen, fed = {}, [], []
    for module in modules_of(cfg).values():
        stack = delta.stacks.get(module.stack)
        own = stack.scale if stack is not None else {}
        sites = [module.site] + ["hidden"] * (module.site == "down")
        sites = [site for site in sites if site in own]
        if not sites:
            continue
        # PEFT has one vector a module, and says by `feedforward_modules` on which side of the matrix it stands.
        if len(sites) == 2:
            raise PeftError("PEFT's IA3 scales what the MLP's last matrix reads or gives, not both")
        # PEFT keeps what scales a matrix's input as [1, in], and what scales its output as [out, 1].
        factor = 1 + np.asarray(own[sites[0]][module.layer, 0])
        reads = sites[0] == "hidden"
        tensors[f"{PREFIX}{module.name}.ia3_l"] = factor[None] if reads else factor[:, None]
        chosen.append(module)
        fed += [module] * reads
    options = target_options(chosen, cfg, by_layer=False)
    feeding = target_options(fed, cfg, by_layer=False)["target_modules"]
    if not set(feeding) <= set(options["target_modules"]):  # names of one sort in both lists
        feeding = [module.name for module in fed]
    return tensors, options | {"feedforward_modules": feeding}


def _ia3_in(
    tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], cfg: DecoderConfig
) -> tuple[Delta, DeltaConfig]:
    modules = modules_of(cfg, bare=is_bare(list(tensors)))
    factors = {}
    for name, x in tensors.items():
        if not name.endswith(".ia3_l"):
            raise PeftError(f"the adapter holds {name}, for which a Delta has no place")
        factors[name.removesuffix(".ia3_l")] = x
    check_modules(list(factors), modules, config, cfg)
    widths = next(iter(Decoder.sites(cfg).stacks.values())).scale
    sizes = stack_sizes(cfg.layers, cfg.cuts)
    scales: dict[str, dict[str, np.ndarray]] = {}
    for name, x in factors.items():
        module = modules[name]
        site, reads = module.site, feeds_forward(config, name)
        if reads and site != "down":
            raise PeftError(f"IA3 on what {name} reads is supported for the MLP's last matrix only")
        site = "hidden" if reads else site
        width = widths[site]
        check_shape(name, x.shape, (1, width) if reads else (width, 1))
        # All layers of a stack share one array; a layer that the adapter leaves alone keeps 0, the identity.
        zeros = np.zeros((sizes[module.stack], 1, width), np.float32)
        scales.setdefault(module.stack, {}).setdefault(site, zeros)[module.layer, 0] = x.ravel() - 1
    sites = [site for site in widths if any(site in own for own in scales.values())]
    stacks = {
        stack: LayerDelta(
            scale={
                site: jnp.asarray(own.get(site, np.zeros((sizes[stack], 1, widths[site]), "f4")))
                for site in sites
            }
        )
        for stack, own in scales.items()
    }
    pattern = ".*" if len(stacks) == len(sizes) else "|".join(stacks)
    return Delta(stacks), DeltaConfig(scale=True, scale_sites="|".join(sites), stacks=pattern)


# ---------------------------------------------------------------------------------------- prefix and prompt


def _prefix_out(delta: Delta, cfg: DecoderConfig) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if len(delta.stacks) != len(cfg.cuts) + 1:
        raise PeftError(
            f"PEFT has a prefix in all {cfg.layers} layers; this Delta only in {sorted(delta.stacks)}"
        )
    flat, start = [], 0
    for stack, n in stack_sizes(cfg.layers, cfg.cuts).items():
        own = slice(start, start := start + n)
        prefix = delta.stacks[stack].prefix["attn"]
        if prefix.gate_NBH is not None and not np.allclose(prefix.gate_NBH, 1, rtol=0, atol=1e-6):
            raise PeftError(
                "PEFT's prefixes have no gate, and a learned one cannot become part of the keys: train with"
                " prefix_gate=False to export"
            )
        length = prefix.k_NBPGK.shape[2]
        # Scores of rotary attention depend on distances alone: PEFT's queries stand P places further, so keys go along.
        keys = _turned(prefix.k_NBPGK[:, 0], cfg, cfg.types[own], length)
        # PEFT's table is one row a virtual token: for each layer its keys, then its values, head by head.
        both = np.stack([np.asarray(keys), np.asarray(prefix.v_NBPGK[:, 0])], axis=1)  # N 2 P G K
        flat += list(both.transpose(0, 2, 1, 3, 4).reshape(len(both), length, -1))
    _say_window(cfg, length)
    width = cfg.groups * cfg.head_dim
    tensors = {PROMPT: np.concatenate(flat, axis=1)}
    return tensors, _sizes(cfg, length, cfg.groups, width) | {"encoder_hidden_size": width}


def _prefix_in(
    tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], cfg: DecoderConfig
) -> tuple[Delta, DeltaConfig]:
    length = value_of(config, "num_virtual_tokens")
    _check_sizes(config, cfg, cfg.groups, cfg.groups * cfg.head_dim)
    flat = _only(tensors, (length, cfg.layers * 2 * cfg.groups * cfg.head_dim))
    flat = flat.reshape(length, cfg.layers, 2, cfg.groups, cfg.head_dim).transpose(1, 2, 0, 3, 4)
    _say_window(cfg, length)
    # Turned back by P, because our real tokens begin at position 0.
    keys = _turned(flat[:, 0], cfg, cfg.types, -length)[:, None]
    values = jnp.asarray(flat[:, 1])[:, None]
    stacks, start = {}, 0
    for stack, n in stack_sizes(cfg.layers, cfg.cuts).items():
        own = slice(start, start + n)
        stacks[stack] = LayerDelta(prefix={"attn": Prefix(keys[own], values[own])})
        start += n
    return Delta(stacks), DeltaConfig(prefix_length=length, prefix_gate=False)


def _say_window(cfg: DecoderConfig, length: int) -> None:
    if cfg.window:
        _log.warning(
            "local layers see %d keys: peft lets this prefix of %d go out of their sight after %d tokens, we keep it",
            cfg.window, length, max(cfg.window - length, 0),
        )  # fmt: skip


def _turned(k_NPGK: Any, cfg: DecoderConfig, types: Sequence[str], positions: int) -> Any:
    """Keys of layers of these types turned as by so many positions more, without the factor that some scalings put on
    cosines and sines."""
    inv_N11K = np.stack([frequencies(cfg.rotary_dim, *cfg.rope_of(t))[0] for t in types])[
        :, None, None
    ]
    shape = (*k_NPGK.shape[:2], 1, inv_N11K.shape[-1])
    turn = tuple(
        jnp.broadcast_to(jnp.asarray(f(positions * inv_N11K), jnp.float32), shape)
        for f in (np.cos, np.sin)
    )
    return rotate(jnp.asarray(k_NPGK, jnp.float32), turn)


def _prompt_out(delta: Delta, cfg: DecoderConfig) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    prompt_PD = np.asarray(delta.outer.prompt_BPD[0])
    return {PROMPT: prompt_PD}, _sizes(cfg, len(prompt_PD), cfg.heads, cfg.d_model)


def _prompt_in(
    tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], cfg: DecoderConfig
) -> tuple[Delta, DeltaConfig]:
    length = value_of(config, "num_virtual_tokens")
    _check_sizes(config, cfg, cfg.heads, cfg.d_model)
    prompt_PD = _only(tensors, (length, cfg.d_model))
    outer = OuterDelta(prompt_BPD=jnp.asarray(prompt_PD)[None])
    return Delta(outer=outer), DeltaConfig(prompt_length=length)


def _sizes(cfg: DecoderConfig, length: int, heads: int, width: int) -> dict[str, Any]:
    return {
        "num_attention_heads": heads,
        "num_layers": cfg.layers,
        "num_virtual_tokens": length,
        "token_dim": width,
    }


def _check_sizes(config: Mapping[str, Any], cfg: DecoderConfig, heads: int, width: int) -> None:
    wanted = _sizes(cfg, config["num_virtual_tokens"], heads, width) | {
        "num_transformer_submodules": 1
    }
    for option, size in wanted.items():
        if value_of(config, option) != size:
            raise PeftError(
                f"the adapter is for a model of another shape: {CONFIG} says {option}={config[option]}, this model"
                f" has {size}"
            )


def _only(tensors: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    if set(tensors) != {PROMPT}:
        raise PeftError(f"a prompt's adapter holds {PROMPT} alone, not {sorted(tensors)}")
    check_shape(PROMPT, tensors[PROMPT].shape, shape)
    return tensors[PROMPT]
