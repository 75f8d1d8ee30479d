"""What a training process of one method holds in memory: measured in a process of its own.

    python -m eval.peft_memory --model runs/backbone_small/model --task bitext --method lora --cache DIR

Prints {"peak_mb", "idle_mb"}: the most it held, and what it held before the weights were read (Python, jax and the
libraries). `--cache` is jax's compilation cache: where the program lies in it, compiling is not part of the peak.
"""

import argparse
import json
import sys

import jax

from jaxrec.usage import peak_mb


def main() -> int:
    """Builds the method, makes a few steps, prints one line of JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.peft_memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="a Hugging Face folder or hub id")
    parser.add_argument("--task", required=True)
    parser.add_argument("--method", required=True)
    parser.add_argument("--sizes", type=json.loads, default={}, help="JSON: fields of Sizes")
    parser.add_argument("--cache", help="folder of compiled programs")
    flags = parser.parse_args()
    if flags.cache:
        jax.config.update("jax_compilation_cache_dir", flags.cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    from jaxrec import config, mesh
    from jaxrec.eval.peft_tasks import task
    from jaxrec.eval.peft_training import Method, Sizes
    from jaxrec.models.language.top_layers import load_top

    devices = mesh.make(devices=jax.devices()[:1])
    asked = task(flags.task)
    idle = peak_mb()
    sizes = config.from_dict(Sizes, flags.sizes)
    method = Method(flags.method, load_top(flags.model, sizes.top), asked, sizes, devices)
    method.train(1e-4, 0, steps=4)
    print(json.dumps({"peak_mb": peak_mb(), "idle_mb": idle}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
