"""Three ways to make batches of examples of very different lengths.

    padded     an example a row, all rows as long as asked for                     simplest, mostly padding
    bucketed   an example a row, each batch as long as its bucket                  a few static lengths, a program each
    packed     several examples a row, segments that attention never crosses      one program, next to no padding

All are sources (`data.source`): pure functions of a state that is in the checkpoint, so a resumed run sees the very
batches that an uninterrupted one would have. Each example counts the same in all three; what differs is which meet
in a batch.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from jaxrec.config import RunError
from jaxrec.data.row_buckets import BucketedRows
from jaxrec.data.source import ArraySource, Prefetch, Source
from jaxrec.data.text import Example, bucket, pack, packing_order, pad
from jaxrec.structs import Tokens

How = Literal["padded", "bucketed", "packed"]


class BatchError(RunError, ValueError):
    """Batches that cannot be made of these examples as asked."""


@dataclasses.dataclass(frozen=True)
class Batches:
    """A source of `Tokens`, and what is known of it before the first step.

    programs: how many batch shapes there are, each of which the step is compiled for. per_epoch: batches.
    fill: the part of all token places that hold a token.
    """

    source: Source
    programs: int
    per_epoch: float
    fill: float


def batches(
    examples: Sequence[Example],
    how: How,
    *,
    length: int,
    rows: int,
    buckets: Sequence[int] = (),
    seed: int = 0,
    share: slice | None = None,
    pad_id: int = 0,
) -> Batches:
    """A source over the examples, shuffled anew each epoch.

    length: of a row, in tokens. rows: of a batch. buckets: lengths for "bucketed"; by default the lengths below which
    a quarter, half, three quarters and all of the examples lie, in multiples of 8. share: this process's rows.
    how: "packed" (several examples a row), "bucketed" (one a row, of like lengths) or "padded" (one a row). seed: of
    the order. pad_id: of the token that fills rows up.
    Raises BatchError for an example longer than `length`, or buckets beyond it.
    """
    longest = max(len(e.ids) for e in examples)
    if longest > length:
        raise BatchError(f"an example has {longest} tokens, rows have {length}: cut or drop it")
    if how == "bucketed":
        lengths = [len(e.ids) for e in examples]
        sizes = tuple(sorted(buckets)) or quartiles(lengths, length)
        if sizes[-1] > length or sizes[-1] < longest:
            raise BatchError(
                f"buckets {list(sizes)}: the largest must lie between the longest example ({longest}) and length"
                f" ({length})"
            )
        trees = [
            Tokens(**pad([examples[i] for i in which], size, pad_id))
            for size, which in bucket(lengths, sizes).items()
        ]
        source = BucketedRows(trees, rows, seed=seed, share=share, pad_id=pad_id)
        places = sum(len(leaf.ids_BL) * leaf.ids_BL.shape[1] for leaf in source.buckets)
        return _made(source, len(source.buckets), float(source.total), places, lengths)
    if how == "packed":
        tokens = Tokens(**pack(packing_order(examples, seed), length, pad_id))
    else:
        tokens = Tokens(**pad(examples, length, pad_id))
    source = ArraySource(tokens, rows, seed=seed, share=share)
    per_epoch = len(tokens.ids_BL) / rows
    return _made(source, 1, per_epoch, tokens.ids_BL.size, [len(e.ids) for e in examples])


def quartiles(lengths: Sequence[int], length: int, step: int = 8) -> tuple[int, ...]:
    """The lengths below which a quarter, half, three quarters and all lie, rounded up to `step`, at most `length`."""
    edges = np.quantile(np.asarray(lengths), (0.25, 0.5, 0.75, 1.0), method="higher")
    return tuple(sorted({min(int(-(-edge // step) * step), length) for edge in edges}))


def _made(source: Any, programs: int, per_epoch: float, places: int, lengths: list[int]) -> Batches:
    return Batches(Prefetch(source), programs, per_epoch, sum(lengths) / places)
