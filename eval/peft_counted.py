"""What each method trains of a Llama-2-7B, counted from shapes alone, beside what the specifications claim."""

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxrec import delta as deltas
from jaxrec import hub
from jaxrec.delta import DeltaConfig
from jaxrec.nn.decoder import Decoder, DecoderConfig

LLAMA_2_7B = DecoderConfig(
    vocab=32000, d_model=4096, layers=32, heads=32, groups=32, head_dim=128, d_ff=11008,
    norm_eps=1e-5, max_positions=4096,
)  # fmt: skip
_QKV = DeltaConfig(lora_rank=16, lora_alpha=32.0, lora_sites="q|k|v")

# (what is claimed, by which specification, the settings that it names or that come nearest, the range claimed)
CLAIMS: tuple[tuple[str, str, DeltaConfig, tuple[float, float], str], ...] = (
    ("LoRA trains about 0.2%", "001 (r 16 on q, k, v)", _QKV, (0.15, 0.25), "percent"),
    ("LoRA trains 6.5M parameters", "001 (r 16 on q, k, v)", _QKV, (6.4e6, 6.6e6), "parameters"),
    (
        "LoRA trains 6.5M parameters", "001, at r 8 instead",
        dataclasses.replace(_QKV, lora_rank=8), (6.4e6, 6.6e6), "parameters",
    ),
    (
        "LoRA trains 1-2%", "004 (no rank named), at r 16 on q, k, v, o",
        dataclasses.replace(_QKV, lora_sites="q|k|v|o"), (1.0, 2.0), "percent",
    ),
    (
        "LoRA trains 1-2%", "004, at r 32 on all seven sites",
        DeltaConfig(lora_rank=32, lora_sites=".*"), (1.0, 2.0), "percent",
    ),
    (
        "adapters train 2-5%", "004 (no width named), at 64",
        DeltaConfig(adapter_size=64), (2.0, 5.0), "percent",
    ),
    (
        "adapters train 2-5%", "004, at 512",
        DeltaConfig(adapter_size=512), (2.0, 5.0), "percent",
    ),
)  # fmt: skip


def size_of(shapes: Any) -> int:
    """Numbers in a tree of shapes; a LoRA's scale is a constant, no parameter."""
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    return sum(int(np.prod(x.shape)) for k, x in leaves if "scale_NB" not in str(k[-1]))


def counted(cfg: DecoderConfig = LLAMA_2_7B) -> list[dict[str, Any]]:
    """A row a method: parameters and percent of the model, bytes in f32. Nothing is allocated."""
    whole = size_of(hub.shapes_of(cfg))
    rows = []
    for name, spec in deltas.METHODS.items():
        own = whole if spec.empty else size_of(deltas.shapes(Decoder.sites(cfg), spec))
        rows.append(
            {"method": name, "parameters": own, "percent": 100 * own / whole, "mb": own * 4 / 1e6}
        )
    return rows


def claims(cfg: DecoderConfig = LLAMA_2_7B) -> list[dict[str, Any]]:
    """A row a claim: what is said, what is counted with the settings that it names, and whether that is so."""
    whole = size_of(hub.shapes_of(cfg))
    rows = []
    for said, where, spec, (low, high), unit in CLAIMS:
        own = size_of(deltas.shapes(Decoder.sites(cfg), spec))
        found = own if unit == "parameters" else 100 * own / whole
        rows.append(
            {
                "claim": said, "specification": where, "parameters": own,
                "percent": 100 * own / whole, "holds": bool(low <= found <= high),
            }
        )  # fmt: skip
    return rows
