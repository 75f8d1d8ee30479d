"""What an accelerator can do at most, and how much of that a call of known work reaches.

mfu            model FLOP utilisation: operations that no implementation can leave out, over the chip's peak (PaLM,
               Chowdhery et al. 2022); recomputation does not count
of_bandwidth   likewise bytes that must be read, over what the memory delivers
"""

from collections.abc import Callable, Mapping
from typing import Any

# Part of the device's name -> (dense bfloat16 TFLOP/s, memory GB/s), from the makers' data sheets. Longer names first.
PEAKS: dict[str, tuple[float, float]] = {
    "B200": (2250, 8000),
    "H200": (989, 4800),
    "H100 PCIe": (756, 2000),
    "H100": (989, 3350),
    "A100-SXM4-40GB": (312, 1555),
    "A100": (312, 2039),
    "L40S": (362, 864),
    "L4": (121, 300),
    "RTX 4090": (165, 1008),
    "TPU v6 lite": (918, 1640),
    "TPU v5 lite": (197, 819),
    "TPU v5p": (459, 2765),
    "TPU v4": (275, 1228),
}


def peaks(kind: str) -> tuple[float, float] | None:
    """(TFLOP/s, GB/s) of a device of this name, None where it is not in the table."""
    return next((most for name, most in PEAKS.items() if name in kind), None)


def rates(info: Mapping[str, Any], seconds: float) -> dict[str, float]:
    """What a call that took `seconds` reached: of its `flops` and `moved` bytes, on its `chip`, as `info` has them."""
    most = peaks(info.get("chip", ""))
    reached: dict[str, float] = {}
    for done, unit, name, share, peak in (
        ("flops", 1e12, "tflops_s", "mfu", most and most[0]),
        ("moved", 1e9, "gb_s", "of_bandwidth", most and most[1]),
    ):
        if done in info:
            rate = info[done] / seconds / unit
            reached[name] = float(f"{rate:.4g}")
            if peak:
                reached[share] = round(rate / peak, 4)
    return reached


def ours() -> str:
    """The name of the device that JAX computes on."""
    import jax

    return jax.devices()[0].device_kind


def our_memory() -> Callable[[], int] | None:
    """Gives the most megabytes that JAX has held on its accelerator; None on a CPU, where the system is asked."""
    import jax

    device = jax.devices()[0]
    if device.platform == "cpu":
        return None
    return lambda: device.memory_stats()["peak_bytes_in_use"] // 2**20


def peers_memory(device: str) -> Callable[[], int] | None:
    """Likewise of torch."""
    import torch

    return None if device == "cpu" else lambda: torch.cuda.max_memory_allocated() // 2**20


def peers(device: str) -> str:
    """The name of torch's device."""
    import torch

    return "cpu" if device == "cpu" else torch.cuda.get_device_name()


def sft_flops(shape: Mapping[str, Any], batch: int, length: int, rank: int) -> float:
    """Operations of a LoRA step on the model `shape` (HF's names): `growth_paper.sft`."""
    from bench.growth_paper import Sizes, sft

    return sft(
        Sizes(
            batch=batch, length=length, layers=shape["num_hidden_layers"], vocabulary=shape["vocab_size"],
            width=shape["hidden_size"], inner=shape["intermediate_size"], heads=shape["num_attention_heads"],
            groups=shape["num_key_value_heads"], head_dim=shape["head_dim"], rank=rank,
        )
    ).flops  # fmt: skip


def decoding_bytes(
    shape: Mapping[str, Any], batch: int, prompt: int, new: int, width: int
) -> float:
    """Bytes read to write `new` tokens after `prompt`: all matrices and the cache once a token. width: of a number."""
    from bench.growth_paper import Sizes, products, sites

    sizes = Sizes(
        width=shape["hidden_size"], inner=shape["intermediate_size"], heads=shape["num_attention_heads"],
        groups=shape["num_key_value_heads"], head_dim=shape["head_dim"],
    )  # fmt: skip
    layers = shape["num_hidden_layers"]
    weights = layers * products(sites(sizes)) + shape["hidden_size"] * shape["vocab_size"]
    keys = 2 * layers * sizes.groups * sizes.head_dim * batch * (prompt + (new + 1) / 2)
    return width * new * (weights + keys)
