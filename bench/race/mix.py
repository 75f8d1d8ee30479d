"""Texts of very different lengths to fine-tune on: dialogues of `sgd` (JAXREC_DATA), whose system turns are learned.

Needs numpy alone, so both sides of the race read the same. A token is a word or a punctuation mark, its id a hash of
it: lengths and repetitions are those of real text, and a race is about time.
"""

import gzip
import json
import os
import re
import zlib
from pathlib import Path

from bench.race import shape

EXAMPLES = 84  # packed they make ten whole batches: an epoch of thousands has one ragged batch, so has none here
LONGEST = 512  # tokens; a longer dialogue loses its end
ROWS = 8  # dialogues a step, where each has a row of its own
PACKED_ROWS = 4  # rows of LONGEST tokens a step, where several share one: about as many real tokens
TOKENS = 19_560  # in EXAMPLES dialogues
_EVERY = 97  # each so-many-th dialogue, so that all services are among them
_MARKS = {"USER": 2, "SYSTEM": 3}

Example = tuple[list[int], list[float]]  # ids, and 1 where a token is learned


def examples(size: str = "30m", count: int = EXAMPLES) -> list[Example]:
    """(ids, weights) of `count` dialogues. Raises FileNotFoundError without the data set."""
    path = Path(os.environ.get("JAXREC_DATA", "")) / "sgd" / "train.jsonl.gz"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: set JAXREC_DATA")
    found = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for i, line in enumerate(lines):
            if i % _EVERY == 0:
                found.append(_encoded(json.loads(line)["turns"], shape.SHAPES[size]["vocab_size"]))
            if len(found) == count:
                break
    total = sum(len(ids) for ids, _ in found)
    if count == EXAMPLES and total != TOKENS:
        raise ValueError(f"{path} is another version: {total} tokens, not {TOKENS}")
    return found


def batches(found: list[Example], rows: int, grouped: bool) -> list[list[Example]]:
    """An epoch's batches of `rows` examples: as they come, or (grouped) those of similar length together."""
    order = sorted(found, key=lambda e: -len(e[0])) if grouped else found
    return [order[i : i + rows] for i in range(0, len(order), rows)]


def _encoded(turns: list[dict], vocab: int) -> Example:
    ids, weights = [1], [0.0]
    for turn in turns:
        words = re.findall(r"\w+|[^\w\s]", turn["utterance"].lower())
        own = [5 + zlib.crc32(word.encode()) % (vocab - 5) for word in words]
        learned = 1.0 if turn["speaker"] == "SYSTEM" else 0.0
        ids += [_MARKS[turn["speaker"]], *own, 4]
        weights += [0.0, *[learned] * (len(own) + 1)]
    return ids[:LONGEST], weights[:LONGEST]
