"""Published models in the races, as both sides read them: made once, of what `jaxrec.hub.fetch` fetched.

    smollm2, gemma3    a Hugging Face folder in f32; GGUF files in f32, f16 and q8_0; "q4", the very file that came
    mpnet              the folder as it came

Our own Python makes them, by `jaxrec.hub.gguf`: the peers' has no jax.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

LANGUAGE = ("smollm2", "gemma3")
SENTENCES = ("mpnet",)
FOLDER, FETCHED = "folder", "q4"


def made(name: str, kind: str, cache: Path) -> Path:
    """Where a model lies as `kind`: FOLDER, FETCHED (its 4-bit GGUF file), or a type of `jaxrec.hub.gguf`.

    Raises RuntimeError, with the last words of who should have made it, where it can't be made.
    """
    path = cache / (name if kind == FOLDER else f"{name}.{kind}.gguf")
    if (path / "config.json" if kind == FOLDER else path).exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    if kind == FETCHED or name in SENTENCES:
        found = Path(_ours("bench.race.real", name).splitlines()[-1])
        os.symlink(next(found.glob("*.gguf")) if kind == FETCHED else found, path)
    elif kind == FOLDER:
        _ours("jaxrec.hub.gguf", name, str(path), "--type", "f32")
    else:
        building = path.with_name(f"building-{path.name}")
        _ours("jaxrec.hub.gguf", name, str(building), "--type", kind)
        os.replace(building, path)
    return path


def prompts(folder: Path, texts: tuple[str, ...], batch: int, length: int) -> np.ndarray:
    """[batch, length] token ids of texts, one after the other; each row begins with the model's first token."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode(" ".join(texts), add_special_tokens=False).ids
    if len(ids) < batch * length:
        raise ValueError(f"{len(ids)} tokens of text, {batch * length} are asked for")
    rows = np.array(ids[: batch * length]).reshape(batch, length)
    known = [tokenizer.token_to_id(x) for x in ("<bos>", "<|im_start|>")]
    rows[:, 0] = next(first for first in known if first is not None)
    return rows


def letter(folder: Path) -> int:
    """The id of a token that is a whole letter."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("a")


def _ours(module: str, *words: str) -> str:
    python = os.environ.get("JAXREC_BENCH_PYTHON", sys.executable)
    done = subprocess.run([python, "-m", module, *words], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise RuntimeError(f"{module} {' '.join(words[:1])}: {last}")
    return done.stdout.strip()


def main() -> None:
    """Prints the folder of a fetched model."""
    from jaxrec.hub.published import locate

    print(locate(sys.argv[1]))


if __name__ == "__main__":
    main()
