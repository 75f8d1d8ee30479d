"""The race's model as a GGUF file in f32, for llama.cpp. Our own Python writes it, the peers' can't: it needs jax.

    python -m bench.race.gguf_file 30m

Prints the file's path. llama.cpp wants a tokenizer in the file, which a race over token ids never asks: a small one
of this project's stands in.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.race import real, shape

LETTER = 80  # the token "a" of its tokenizer
_TOKENS = 300  # that the tokenizer knows; the others are ids without a text


def letter_of(size: str) -> int:
    """The id of the token "a" in the file's tokenizer."""
    return real.letter(shape.model_folder(size)) if size in real.LANGUAGE else LETTER


def gguf_file(size: str, kind: str = "f32") -> Path:
    """The file, written at the first call by the Python that runs the races (`harness.quiet_environment`).

    Raises ModuleNotFoundError where that Python lacks the package `gguf`.
    """
    if size in real.LANGUAGE:
        return real.made(size, kind, shape.CACHE)
    path = shape.CACHE / f"llama_{size}.gguf"
    if not path.exists():
        python = os.environ.get("JAXREC_BENCH_PYTHON", sys.executable)
        if subprocess.run([python, "-c", "import gguf"], stderr=subprocess.DEVNULL).returncode:
            raise ModuleNotFoundError("no gguf", name="gguf (extra `gguf`), which writes the file,")
        subprocess.run([python, "-m", "bench.race.gguf_file", size], check=True)
    return path


def write(size: str) -> Path:
    """Writes it, whole or not at all. The shape's vocabulary has room for the tokenizer."""
    from jaxrec.data.text import train_tokenizer
    from jaxrec.hub import gguf, weights

    path = shape.CACHE / f"llama_{size}.gguf"
    cfg, params = weights.load(shape.model_folder(size))
    with tempfile.TemporaryDirectory(dir=shape.CACHE) as building:
        folder = Path(building)
        tokenizer = train_tokenizer(shape.texts(64), _TOKENS)
        assert tokenizer.encode("a") == [LETTER]
        tokenizer.save(folder / "tokenizer.json")
        gguf.export(folder / path.name, cfg, params, folder, "f32")
        os.replace(folder / path.name, path)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.race.gguf_file")
    parser.add_argument("size", help=f"the model's shape: {', '.join(shape.SHAPES)}")
    print(write(parser.parse_args().size))
