"""A Llama of random weights, made shard by shard and loaded quantised: how much memory does loading take at its peak?

    python -m bench.quant_load --size 7b --scratch /tmp/llama_7b

Writes bf16 shards (13.5 GB for 7b) into SCRATCH, which must not exist and is removed afterwards, and loads them in a
process of its own. Writes RESULTS/load.json. A child's own part: `--read FOLDER`.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec import results
from jaxrec.config import RunError
from jaxrec.usage import peak_mb

_SHAPE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": 32000,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
SIZES = {
    name: _SHAPE | dict(zip(
        ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
        numbers, strict=True,
    ))
    for name, numbers in {
        "tiny": (128, 344, 2, 4, 4),
        "1b": (2048, 5632, 22, 32, 4),  # TinyLlama's
        "7b": (4096, 11008, 32, 32, 32),  # Llama 2's
    }.items()
}  # fmt: skip


def make(folder: Path, size: str) -> int:
    """Writes the model, a layer a shard, and gives its bytes. Weights are drawn from a pool of 16M normal numbers."""
    import ml_dtypes
    from safetensors.numpy import save_file

    c, rng = SIZES[size], np.random.default_rng(0)
    d, f, vocab = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    narrow = d // c["num_attention_heads"] * c["num_key_value_heads"]
    pool = (rng.standard_normal(1 << 24, np.float32) * 0.02).astype(ml_dtypes.bfloat16)

    def matrix(out: int, into: int) -> np.ndarray:
        return np.resize(np.roll(pool, int(rng.integers(len(pool)))), (out, into))

    ones = np.ones(d, ml_dtypes.bfloat16)
    weight_map, total = {}, 0
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(c["num_hidden_layers"] + 1):
        at = f"model.layers.{n}."
        if n == c["num_hidden_layers"]:
            shard = {
                "model.embed_tokens.weight": matrix(vocab, d),
                "lm_head.weight": matrix(vocab, d),
            }
            shard["model.norm.weight"] = ones
        else:
            sizes = {
                "self_attn.q_proj": (d, d),
                "self_attn.o_proj": (d, d),
                "mlp.down_proj": (d, f),
            }
            sizes |= dict.fromkeys(("self_attn.k_proj", "self_attn.v_proj"), (narrow, d))
            sizes |= dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (f, d))
            shard = {f"{at}{name}.weight": matrix(*shape) for name, shape in sizes.items()}
            shard |= {f"{at}{name}_layernorm.weight": ones for name in ("input", "post_attention")}
        file = f"model-{n:05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
        total += sum(x.nbytes for x in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(c))
    return total


def read(folder: Path, kind: str) -> dict[str, Any]:
    """Loads the model and tells what it took. To be called in a process of its own."""
    import jax

    from jaxrec import quant
    from jaxrec.hub import quantised

    idle, start = peak_mb(), time.perf_counter()
    _, params = quantised.load(folder, kind, head=True)
    jax.block_until_ready(params)
    return {
        "kind": kind,
        "parameters": quant.parameters(params),
        "weights_gb": quant.size_bytes(params) / 1e9,
        "bytes/parameter": quant.size_bytes(params) / quant.parameters(params),
        "peak_gb": peak_mb() * 2**20 / 1e9,
        "idle_gb": idle * 2**20 / 1e9,
        "seconds": time.perf_counter() - start,
    }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.quant_load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", choices=SIZES, default="7b")
    parser.add_argument("--scratch", type=Path, help="a folder that is made and removed")
    parser.add_argument("--kinds", nargs="+", default=["nf4", "int8"], help="nf4, int8")
    parser.add_argument("--results", type=Path, default=Path("results/quant"))
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.read:
        print(json.dumps(read(flags.read, flags.kinds[0])))
        return 0
    try:
        measure(flags)
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def measure(flags: argparse.Namespace) -> None:
    """Makes the folder, reads it in a process for each kind, writes the results, removes the folder."""
    if flags.scratch is None or flags.scratch.exists():
        raise RunError("--scratch names a folder that does not exist yet: it is made, and removed")
    start = time.perf_counter()
    try:
        total = make(flags.scratch, flags.size)
        made_s, rows = time.perf_counter() - start, []
        for kind in flags.kinds:
            command = [
                sys.executable,
                "-m",
                "bench.quant_load",
                "--read",
                str(flags.scratch),
                "--kinds",
                kind,
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RunError(f"loading failed: {done.stderr.strip().splitlines()[-1]}")
            rows.append({"size": flags.size, "file_gb": total / 1e9} | json.loads(done.stdout))
    finally:
        shutil.rmtree(flags.scratch, ignore_errors=True)
    results.print_table(rows)
    results.write_results(
        flags.results, "quant", rows, config={"size": flags.size, "made_s": made_s},
        wall_s=time.perf_counter() - start, filename="load.json", part="load",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
