"""Floor 3: models as GGUF files, which llama.cpp runs, and GGUF files as Hugging Face folders.

    python -m jaxrec.hub.gguf MODEL OUT.gguf --type q8_0
    python -m jaxrec.hub.gguf MODEL.gguf OUT --type bf16

MODEL is a folder, file, name or hub id of the Llama, Qwen2, Qwen3, Gemma 3 or Phi-2 family; tokenizer and template come
along. An adapter (`--adapter`, a PEFT folder) is merged into the weights, or with `--apart` written alone, as a GGUF
adapter.
Types: f32, f16, and q8_0 (8 bits, blocks of 32; a matrix whose rows 32 does not divide stays f16). Vectors are f32.

Where OUT does not end in .gguf it becomes a folder, which transformers loads: config.json, model.safetensors and the
tokenizer, the weights as f32, f16 or bf16. Every stage takes a GGUF file as its --base too, so a folder is needed only
for other programs.
"""

import argparse
import itertools
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import PyTree

from jaxrec import delta as deltas
from jaxrec import files, quant
from jaxrec.config import RunError
from jaxrec.hub.config import family_of
from jaxrec.hub.gguf_names import ARCHITECTURES, FACTORS, OFFSET, PERMUTED
from jaxrec.hub.gguf_tokenizer import write_tokenizer
from jaxrec.hub.peft import load_peft
from jaxrec.hub.weights import find, is_weights, load, write_model
from jaxrec.nn.cache import GLOBAL, LOCAL
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.nn.rope import frequencies
from jaxrec.nn.stack import cycle_of, stack_sizes
from jaxrec.structs import Delta

TYPES = ("f32", "f16", "q8_0")
FLOATS = {"f32": jnp.float32, "f16": jnp.float16, "bf16": jnp.bfloat16}  # of a folder
_BLOCK = 32  # of q8_0
_OF_27B = 62  # layers, by which llama.cpp knows the largest Gemma 3


class GgufError(RunError, ValueError):
    """A model, a Delta or a type that a GGUF file does not hold here."""


class Tensor(NamedTuple):
    """One tensor to be written: its shape there, and how it is made when its turn comes."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]


def export(
    out: str | Path, cfg: DecoderConfig, params: PyTree, tokenizer: str | Path, kind: str = "q8_0"
) -> None:
    """Writes a model with the tokenizer of the folder `tokenizer`; one tensor at a time is in memory as floats.

    Args:
      out: the file; its folder is made.
      cfg: of the decoder.
      params: its weights; quantised ones are written as what they stand for.
      tokenizer: a folder, whose tokenizer and chat template go along.
      kind: of the matrices, one of TYPES.

    Raises GgufError on an unknown kind or a model of another family, ModelError on a tokenizer that llama.cpp has no
    equal of.
    """
    family = check_model(cfg)
    _check_type(kind)
    import gguf

    writer = _writer(out, ARCHITECTURES[family][0])
    # "Mostly", because vectors, and matrices whose rows do not divide into blocks, are of another type.
    file_type = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}[kind]
    writer.add_type("model")
    writer.add_file_type(gguf.LlamaFileType[file_type])
    _write_config(writer, cfg, family)
    write_tokenizer(writer, tokenizer, cfg.vocab)
    _write(writer, list(_tensors(cfg, params, family)), kind)


def export_adapter(out: str | Path, cfg: DecoderConfig, delta: Delta, kind: str = "f32") -> None:
    """Writes the LoRA of a Delta (one row) as a GGUF adapter to a model of this config.

    Args:
      out: the file; its folder is made.
      cfg: of the decoder that the adapter belongs to.
      delta: one row, LoRA alone, all of one rank.
      kind: of the matrices, one of TYPES.

    Raises GgufError when the Delta holds anything else than LoRA, or more than one row.
    """
    family = check_model(cfg)
    _check_type(kind)
    architecture, names = ARCHITECTURES[family]
    tensors, ranks = [], set()
    for path, lora, at, layer in _loras(cfg, delta):
        if lora.magnitude_NBF is not None:
            raise GgufError("a GGUF adapter holds no DoRA; merge it into the weights instead")
        rows = {np.shape(leaf)[-3] for leaf in (lora.a_NBDR, lora.b_NBRF)}
        # A GGUF adapter is two matrices a module: it has no axis for rows.
        if rows != {1}:
            raise GgufError(f"a GGUF adapter holds one row of a Delta, not {max(rows)}: take one")
        if path == "head/kernel" and cfg.tied:
            raise GgufError(
                "the head is tied to the embedding, so a GGUF file has no output matrix that a LoRA could change"
            )
        if path not in names:
            raise GgufError(f"a {family} GGUF file has no matrix {path} that a LoRA could change")
        name = names[path].format(n=layer)
        parts = (lora.a_NBDR, lora.b_NBRF, lora.scale_NB)
        a, b, scale = (np.asarray(x, np.float32)[(*at, 0)] for x in parts)
        # GGUF's matrices lie as [out, in], as torch's. A permutation of q's rows permutes the outputs of `b` alone.
        down, up = a.T, _reordered((b * scale).T, path, cfg, family)
        tensors += [
            Tensor(f"{name}.lora_{x}", y.shape, lambda y=y: y) for x, y in (("a", down), ("b", up))
        ]
        ranks.add(a.shape[1])
    if not tensors:
        raise GgufError("the Delta holds no LoRA, and a GGUF adapter holds nothing else")
    if len(ranks) > 1:
        raise GgufError(f"LoRAs of several ranks {sorted(ranks)} have no common alpha in GGUF")
    writer = _writer(out, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(ranks.pop()))  # our scale is in b: theirs is 1
    _write(writer, tensors, kind)


def check_model(cfg: Any) -> str:
    """The family of a model that can be exported. Raises GgufError for others."""
    family = family_of(cfg)
    if family not in ARCHITECTURES:
        raise GgufError(
            f"a {family} model has no GGUF export; supported are {', '.join(ARCHITECTURES)}"
        )
    if family in ("qwen2", "phi") and cfg.heads * cfg.head_dim != cfg.d_model:
        raise GgufError(
            f"llama.cpp's {ARCHITECTURES[family][0]} has heads of d_model / heads only, not of {cfg.head_dim}"
        )
    if cfg.rope_scaling is not None and cfg.rope_scaling.kind not in (
        "default",
        "linear",
        "llama3",
    ):
        raise GgufError(
            f"rope scaling {cfg.rope_scaling.kind!r} has no GGUF export; linear and llama3 have"
        )
    if family == "gemma3_text":
        _check_gemma3(cfg)
    return family


def _check_gemma3(cfg: DecoderConfig) -> None:
    """llama.cpp takes some of Gemma's numbers for granted, and there is no key to say others."""
    scalar = cfg.d_model // cfg.heads if cfg.layers == _OF_27B else cfg.head_dim
    if (cfg.query_scalar or cfg.head_dim) != scalar:
        raise GgufError(
            f"llama.cpp divides the scores of a Gemma 3 of {cfg.layers} layers by the root of {scalar}, and a GGUF file"
            f" can't say {cfg.query_scalar or cfg.head_dim:g} instead"
        )
    cycle = cycle_of(cfg.types)
    if GLOBAL in cycle[:-1] and LOCAL in cycle:
        raise GgufError(
            f"a GGUF file says that every n-th layer of a Gemma 3 is global, and these are {', '.join(cycle)}"
        )
    if cfg.rope_scaling is not None and cfg.rope_scaling.kind == "llama3":
        raise GgufError("rope scaling 'llama3' has no GGUF export in a Gemma 3; linear has")


def _check_type(kind: str) -> None:
    if kind not in TYPES:
        raise GgufError(f"type {kind!r} is not known: choose one of {', '.join(TYPES)}")


def _writer(out: str | Path, architecture: str) -> Any:
    try:
        import gguf
    except ImportError as error:
        raise GgufError("the package gguf is not installed: pip install 'jaxrec[gguf]'") from error
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    return gguf.GGUFWriter(str(out), architecture)


def _write_config(writer: Any, cfg: DecoderConfig, family: str) -> None:
    writer.add_block_count(cfg.layers)
    writer.add_context_length(cfg.max_positions)
    writer.add_embedding_length(cfg.d_model)
    writer.add_feed_forward_length(cfg.d_ff)
    writer.add_head_count(cfg.heads)
    writer.add_head_count_kv(cfg.groups)
    writer.add_key_length(cfg.head_dim)
    writer.add_value_length(cfg.head_dim)
    writer.add_vocab_size(cfg.vocab)
    writer.add_rope_dimension_count(cfg.rotary_dim)
    writer.add_rope_freq_base(cfg.rope_theta)
    add_eps = writer.add_layer_norm_eps if family == "phi" else writer.add_layer_norm_rms_eps
    add_eps(cfg.norm_eps)
    if cfg.rope_scaling is not None and cfg.rope_scaling.kind == "linear":
        import gguf

        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(cfg.rope_scaling.factor)
    if cfg.window:
        cycle = cycle_of(cfg.types)
        writer.add_sliding_window(cfg.window)
        # "Every n-th is global": in a model without a global layer there are fewer than n.
        writer.add_sliding_window_pattern(len(cycle) if cycle[-1] == GLOBAL else cfg.layers + 1)
        writer.add_rope_freq_base_swa(cfg.local_rope_theta)


def _tensors(cfg: DecoderConfig, params: PyTree, family: str) -> Iterator[Tensor]:
    names = ARCHITECTURES[family][1]
    if cfg.rope_scaling is not None and cfg.rope_scaling.kind == "llama3":
        plain, _ = frequencies(cfg.rotary_dim, cfg.rope_theta, None)
        slower, _ = frequencies(cfg.rotary_dim, cfg.rope_theta, cfg.rope_scaling)
        # llama.cpp divides its plain frequencies by this vector; it has no metadata for Llama 3's own stretching.
        yield Tensor(FACTORS, plain.shape, lambda: plain / slower)
    starts = _starts(cfg)
    for path, leaf in flatten_dict(params, sep="/").items():
        stack = re.match(r"(stack_\d+)/", path)
        ours = path if stack is None else "layer/" + path[stack.end() :]
        if ours not in names:
            raise GgufError(f"a {family} GGUF file has no place for the parameter {path}")
        layers = [None] if stack is None else range(leaf.shape[0])
        shape = tuple(leaf.shape if stack is None else leaf.shape[1:])
        shape = shape[::-1] if ours.endswith("kernel") else shape
        for i in layers:
            # Defaults bind the loop's variables now: the tensor is made when its turn to be written comes.
            def make(leaf: Any = leaf, i: int | None = i, ours: str = ours) -> np.ndarray:
                one = leaf if i is None else jax.tree.map(lambda x: x[i], leaf)
                rows = (
                    one.rows()
                    if quant.is_quantised(one)
                    else one.T
                    if ours.endswith("kernel")
                    else one
                )
                rows = np.asarray(rows, np.float32)
                rows = rows + np.float32(OFFSET.get(family, 0)) if ours.endswith("scale") else rows
                return _reordered(rows, ours, cfg, family)

            n = None if stack is None else starts[stack[1]] + i
            yield Tensor(names[ours].format(n=n), shape, make)


def _starts(cfg: DecoderConfig) -> dict[str, int]:
    """{stack: the number of its first layer}."""
    sizes = stack_sizes(cfg.layers, cfg.cuts)
    return dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))


def _reordered(rows: np.ndarray, ours: str, cfg: DecoderConfig, family: str) -> np.ndarray:
    """Output rows of q and k in the order that llama.cpp's rotary embedding of this architecture wants."""
    if ours not in PERMUTED.get(family, ()):
        return rows
    heads = cfg.heads if "/q/" in ours else cfg.groups
    # From [half, pair] to [pair, half] within each head: row i and row i + half become neighbours.
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _loras(cfg: DecoderConfig, delta: Delta) -> Iterator[tuple[str, Any, tuple, int | None]]:
    """(our path, the LoRA, its place in it, the layer's number in the model) of every matrix that a Delta changes."""
    outer = {k: v for k, v in vars(delta.outer).items() if k != "head" and v is not None}
    if outer:
        raise GgufError(f"a GGUF adapter holds LoRA alone, not {', '.join(outer)}")
    for name, stack in delta.stacks.items():
        # Left out silently, a prefix or a norm would change what the adapter says.
        other = [k for k, v in vars(stack).items() if k != "lora" and v]
        if other:
            raise GgufError(f"a GGUF adapter holds LoRA alone, not {', '.join(other)}")
        for site, lora in (stack.lora or {}).items():
            part = "attn" if site in ("q", "k", "v", "o") else "mlp"
            for i in range(lora.a_NBDR.shape[0]):
                yield f"layer/{part}/{site}/kernel", lora, (i,), _starts(cfg)[name] + i
    if delta.outer.head is not None:
        yield "head/kernel", delta.outer.head, (), None


def _write(writer: Any, tensors: list[Tensor], kind: str) -> None:
    import gguf

    # GGUFWriter opens its path by itself: it gets one beside, so that OUT is whole or as it was
    out = Path(writer.path)
    fresh = writer.path = out.with_name(f".{out.name}.new")
    try:
        _write_all(writer, tensors, kind, gguf)
        fresh.replace(out)
    finally:
        fresh.unlink(missing_ok=True)


def _write_all(writer: Any, tensors: list[Tensor], kind: str, gguf: Any) -> None:
    # Names, shapes and types of all tensors stand in the file's head, before any number: they are known without
    # making one, so a single tensor at a time is in memory as floats.
    for tensor in tensors:
        form = _type_of(tensor.shape, kind)
        if form == "q8_0":
            of_blocks = gguf.GGMLQuantizationType.Q8_0
            shape = gguf.quant_shape_to_byte_shape(tensor.shape, of_blocks)
            writer.add_tensor_info(
                tensor.name, shape, np.dtype(np.uint8), int(np.prod(shape)), of_blocks
            )
        else:
            dtype = np.dtype(np.float16 if form == "f16" else np.float32)
            nbytes = int(np.prod(tensor.shape)) * dtype.itemsize
            writer.add_tensor_info(tensor.name, tensor.shape, dtype, nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        form, x = _type_of(tensor.shape, kind), np.ascontiguousarray(tensor.make(), np.float32)
        if form == "q8_0":
            x = gguf.quants.quantize(x, gguf.GGMLQuantizationType.Q8_0)
        elif form == "f16":
            x = x.astype(np.float16)
        writer.write_tensor_data(x)
    writer.close()


def _type_of(shape: tuple[int, ...], kind: str) -> str:
    # llama.cpp keeps norms and biases in f32 whatever the type of the file.
    if len(shape) < 2:
        return "f32"
    return "f16" if kind == "q8_0" and shape[-1] % _BLOCK else kind


def to_folder(source: str | Path, out: str | Path, kind: str | None = None) -> None:
    """Writes a model as a Hugging Face folder with its tokenizer; a model that is there is replaced as a whole.

    Args:
      source: a GGUF file, or whatever else `find` finds.
      out: the folder.
      kind: of the weights, one of FLOATS; that of the source when None, where quantised weights are f32.

    Raises GgufError on an unknown kind, and what `load` raises, before anything is written.
    """
    if kind is not None and kind not in FLOATS:
        raise GgufError(f"type {kind!r} is not known: choose one of {', '.join(FLOATS)}")
    folder = find(source)
    cfg, params = load(folder, param_dtype=None if kind is None else FLOATS[kind])
    with files.replace_files(out, is_model_file, "config.json") as fresh:
        for path in folder.iterdir():
            if path.is_file() and is_model_file(path) and not is_weights(path):
                shutil.copyfile(path, fresh / path.name)
        write_model(fresh, cfg, params)


def is_model_file(path: Path) -> bool:
    """Whether this file, by its name, is of a model's weights or tokenizer."""
    named = ("tokenizer", "special_tokens", "vocab", "merges", "generation_config", "chat_template")
    return is_weights(path) or path.name.startswith(named)


def main(argv: Sequence[str] | None = None) -> None:
    """The command. A mistake of its user is said in one line, with status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxrec.hub.gguf",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="a model's folder, GGUF file, name or hub id")
    parser.add_argument("out", help="the file to write, such as model.gguf; or else a folder")
    parser.add_argument(
        "--type",
        help=f"of a file {', '.join(TYPES)} (default: q8_0); of a folder {', '.join(FLOATS)} (default: as in MODEL)",
    )
    parser.add_argument("--adapter", default="", help="the PEFT folder of an adapter")
    parser.add_argument("--apart", action="store_true", help="write the adapter alone")
    flags = parser.parse_args(argv)
    try:
        _run(flags)
        out = Path(flags.out)
        parts = [out] if out.is_file() else out.glob("*.safetensors")
        print(
            f"{out}: {sum(x.stat().st_size for x in parts) / 1e6:.1f} MB, {flags.type or 'as it was'}"
        )
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _run(flags: argparse.Namespace) -> None:
    if not flags.out.endswith(".gguf"):
        if flags.adapter or flags.apart:
            raise GgufError(
                f"an adapter goes into a GGUF file, and {flags.out} does not end in .gguf"
            )
        to_folder(flags.model, flags.out, flags.type)
        return
    flags.type = flags.type or "q8_0"
    _check_type(flags.type)
    cfg, params = load(flags.model)
    delta = load_peft(flags.adapter, cfg, params)[0] if flags.adapter else None
    if flags.apart:
        if delta is None:
            raise GgufError("--apart writes an adapter, and there is none: name it by --adapter")
        export_adapter(flags.out, cfg, delta, flags.type)
        return
    if delta is not None:
        try:
            params = deltas.merge_params(params, delta, Decoder.path_of)
        except ValueError as error:
            raise GgufError(f"this adapter has no place in a GGUF file: {error}") from error
    export(flags.out, cfg, params, find(flags.model), flags.type)


if __name__ == "__main__":
    main()
