"""Writing a store: a block of the source becomes a shard; several processes take blocks by turns; what is done stays.

Shards depend on nothing but their block, so who makes them, in which order and how often decides nothing: a part that
was killed is started again, with as many processes as one likes, and makes what is missing. A shard's record is
written after its arrays; the manifest after all records, by whoever finds the last of them.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxrec.data.instructions import Skipped
from jaxrec.data.store import arrays
from jaxrec.data.store.manifest import (
    MANIFEST,
    PLAN,
    Manifest,
    Plan,
    Shard,
    held_name,
    manifest_of,
    record_name,
    rows_name,
    write_manifest,
)
from jaxrec.data.store.place import Place, StoreError
from jaxrec.data.store.row_kinds import RowKind
from jaxrec.data.store.row_sources import Block, PlacedRows
from jaxrec.files import content_hash

MakeShard = Callable[[Place, int, PlacedRows], Shard]


def begin(place: Place, plan: Plan) -> Manifest | None:
    """Writes the plan, or finds the same one there; the manifest where the store is whole already.

    Raises StoreError where a store of another plan was begun.
    """
    content = place.read(PLAN)
    if content is None:
        place.write(PLAN, (json.dumps(plan.as_dict(), indent=1) + "\n").encode())
        return None
    try:
        there = json.loads(content)
    except json.JSONDecodeError as error:
        raise StoreError(
            f"{place.where}/{PLAN} is damaged: remove the store and begin anew"
        ) from error
    asked = json.loads(json.dumps(plan.as_dict()))
    if there != asked and not place.names(
        "shards/"
    ):  # nothing was made by it: a name mistyped, say
        place.write(PLAN, (json.dumps(asked, indent=1) + "\n").encode())
    elif there != asked:
        other = [key for key in asked if there.get(key) != asked[key]]
        was = "; ".join(f"{key}: {_short(there.get(key))} -> {_short(asked[key])}" for key in other)
        raise StoreError(
            f"{place.where} was begun as another store ({was}): name another place, or remove it"
        )
    return manifest_of(place) if place.read(MANIFEST) is not None else None


def write_part(
    place: Place,
    blocks: Iterable[Block],
    make: MakeShard,
    part: int = 0,
    parts: int = 1,
) -> Iterator[tuple[int, Shard | None]]:
    """Makes the shards of one part of several: (number, shard) for each of them, None for one that is there.

    place: of the store, begun. blocks: of the whole source. make: a block's rows into a shard. part: of 0..parts - 1;
    it takes every `parts`-th block. The blocks are counted by `finish`, which whoever consumes this calls at the end.
    """
    there = set(place.names("shards/"))
    for block in blocks:
        name = record_name(block.number)
        if block.number % parts != part:
            continue
        if name in there:
            yield block.number, None
            continue
        shard = make(place, block.number, block.rows())
        place.write(name, json.dumps(shard.__dict__).encode())
        yield block.number, shard


def finish(place: Place, plan: Plan, count: int) -> Manifest | None:
    """The manifest, where all of `count` shards are there; None where other parts are still to come."""
    names = [record_name(number) for number in range(count)]
    if set(names) - set(place.names("shards/")):
        return None
    return write_manifest(place, plan, place.read_all(names))


def token_shard(kind: RowKind, hold_out_every: int = 0, strict: bool = False) -> MakeShard:
    """How a block of texts, chats or pairs becomes a shard.

    kind: of the rows. hold_out_every: about one in so many is held out, by a hash of its text or prompt, so that the
    choice depends on no order and equal ones go together; 0: none. strict: the first row that is malformed stops.
    """

    def make(place: Place, number: int, rows: PlacedRows) -> Shard:
        skipped, items, held = Skipped(), [], []
        for where, row in rows:
            try:
                item = kind.parse(where, row)
            except (KeyError, TypeError, ValueError) as error:
                reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
                if strict:
                    raise StoreError(f"{where}: {reason}") from error
                skipped.add(f"malformed: {reason}", where)
                continue
            if hold_out_every and _number(kind.key(item)) % hold_out_every == 0:
                held.append(kind.line(item, row))
            else:
                items.append(item)
        planes = kind.encode(items, skipped)
        about = arrays.write(place, rows_name(number, "tokens"), planes)
        if held:
            place.write(held_name(number), "".join(f"{line}\n" for line in held).encode())
        real = int((planes[:, 1::2] > 1).sum())
        return Shard(
            rows=len(planes), tokens=real, read=len(rows), held=len(held), dropped=skipped.counts,
            first=skipped.first, source=hash_of_rows(rows), arrays={"tokens": about},
        )  # fmt: skip

    return make


def hash_of_rows(rows: PlacedRows) -> str:
    """The hash of what was read of a source."""
    seen = hashlib.sha256()
    for _, row in rows:
        for part in row.items() if isinstance(row, Mapping) else ((row,),):
            for one in part:
                content = one if isinstance(one, np.ndarray) else repr(one)
                seen.update(content_hash(content).encode())
    return seen.hexdigest()


def check(place: Place) -> Manifest:
    """Reads a whole store and compares every checksum. Raises StoreError that names the first array that is wrong."""
    found = manifest_of(place)
    for number, shard in enumerate(found.shards):
        for name, about in shard.arrays.items():
            one = arrays.StoredArray(place, rows_name(number, name), about["shape"], about["dtype"])
            if content_hash(one[:]) != about["sha256"]:
                raise StoreError(f"{place.where}: {one.name} is not what was written")
    return found


def _number(key: str) -> int:
    return int(content_hash(key, digits=15), 16)


def _short(value: Any) -> str:
    said = json.dumps(value)
    return said if len(said) < 60 else f"{said[:40]}..."
