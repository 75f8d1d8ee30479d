"""Many answers, batch by batch, kept in a file as they come: an interrupted run goes on from those that it wrote."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from jaxrec.files import write_json_lines


def in_parts(
    lengths: Sequence[int],
    write: Callable[[Sequence[int], int], Sequence[str]],
    part: Path,
    of: str,
    *,
    rows: int,
    seed: int = 0,
) -> list[str]:
    """An answer to each prompt, similar lengths together.

    Args:
      lengths: of the prompts, in any unit.
      write: (places of prompts, seed) -> their answers.
      part: the file in which each batch is kept until all are there; it is then removed.
      of: a hash of everything that the answers depend on: what was kept of anything else is not taken.
      rows: answers at a time.
      seed: of the first batch; that of row i, in the order of the lengths, has seed + i.
    """
    # A batch decodes until its longest row is done and is padded to its longest prompt: alike lengths waste the least.
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    texts = _kept(part, of, rows)
    if texts:
        print(f"{len(texts)} answers are there from an interrupted run", flush=True)
    # Written anew, so that half a batch, or what was kept of something else, is gone before anything is added.
    write_json_lines(part, [{"of": of}, *({"text": text} for text in texts)])
    for start in tqdm(range(0, len(order), rows), "answers", disable=None):
        if start < len(texts):
            continue
        texts += [text.strip() for text in write(order[start : start + rows], seed + start)]
        with part.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts[start:])
    part.unlink()
    out = dict(zip(order, texts, strict=True))
    return [out[i] for i in range(len(order))]


def _kept(part: Path, of: str, rows: int) -> list[str]:
    """The answers that an interrupted run of the same left, whole batches alone."""
    # The last piece behind a newline is empty, or a line that was cut short when the run was killed.
    lines = part.read_text("utf-8").split("\n")[:-1] if part.is_file() else []
    if not lines or json.loads(lines[0]) != {"of": of}:
        return []
    # Seeds go by the batch's place, so a batch is either taken as a whole or written again as a whole.
    whole = (len(lines) - 1) // rows * rows
    return [json.loads(line)["text"] for line in lines[1 : 1 + whole]]
