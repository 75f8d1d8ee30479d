"""A task's instructions as token rows; where only the top layers are changed, with what the layers below give of them.

    instructions --> examples --> rows as wide as the longest (measuring), or packed (training)
                         '--frozen lower layers, once--> states on disk, by example --> laid where the example lies

An example's states do not know where it is packed: positions restart with it and it sees no neighbour.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from jaxrec.data.feature_store import FeatureStore
from jaxrec.data.instructions import Instruction
from jaxrec.data.row_buckets import cut, lengths, take
from jaxrec.data.text import Example, best_fit, pack, packing_order, pad
from jaxrec.structs import Tokens

_ROUNDED = 16  # widths are multiples of it, so that few programs are compiled

# (rows, what they are of) -> the states of the frozen layers [N, L, D]
Keep = Callable[[Tokens, str], FeatureStore]


def spread(rows: Sequence[Instruction], count: int) -> list[Instruction]:
    """At most `count` of them, evenly from all places: rows of one kind stand together."""
    count = min(count, len(rows))
    return [rows[math.floor(i * len(rows) / count)] for i in range(count)]


def told(rows: Sequence[Instruction], system: str) -> list[Instruction]:
    """Each with `system` said before it, as a system turn; as they are where it is empty."""
    if not system:
        return list(rows)
    opening = ("system", system)
    return [dataclasses.replace(one, messages=(opening, *one.messages)) for one in rows]


def packed_rows(
    examples: Sequence[Example], length: int, pad_id: int, keep: Keep | None, what: str
) -> Tokens:
    """Rows [M, length] of several examples each, to train on, with their states where they are kept.

    Args:
      examples: token sequences of at most `length`.
      length: of a row.
      pad_id: the token that fills up.
      keep: gives the states of single examples; None: there are none.
      what: the examples are, for a line.
    """
    ordered = packing_order(examples)
    rows = Tokens(**pack(ordered, length, pad_id))
    if keep is None:
        return rows
    store = keep(padded_rows(ordered, length, pad_id), what)
    places, count = best_fit([len(one.ids) for one in ordered], length)
    states_MLD = np.zeros((count, length, store.shape[-1]), store.dtype)
    for n, (row, start, _) in enumerate(places):
        size = len(ordered[n].ids)
        states_MLD[row, start : start + size] = store[np.asarray([n])][0, :size]
    return rows.replace(states_BLD=states_MLD)


def padded_rows(examples: Sequence[Example], length: int, pad_id: int) -> Tokens:
    """An example a row, as wide as the longest, at most `length`; `pad_id` fills up."""
    longest = max(len(one.ids) for one in examples)
    return Tokens(**pad(examples, min(-(-longest // _ROUNDED) * _ROUNDED, length), pad_id))


def by_length(tokens: Tokens, rows: int) -> list[tuple[np.ndarray, Tokens]]:
    """(numbers of the rows, those rows cut to the longest of them), rows of like length together.

    tokens: rows. rows: a batch; the last one repeats its last row, whose number then stands once.
    """
    found, order = [], np.argsort(lengths(tokens), kind="stable")
    for at in range(0, len(order), rows):
        chosen = order[at : at + rows]
        batch = take(tokens, np.pad(chosen, (0, rows - len(chosen)), mode="edge"))
        width = -(-int(lengths(batch).max()) // _ROUNDED) * _ROUNDED
        found.append((chosen, cut(batch, min(width, tokens.ids_BL.shape[1]))))
    return found
