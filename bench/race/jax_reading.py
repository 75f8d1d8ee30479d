"""Our reader: a store, through the source that a stage reads it by, one thread ahead."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.race import token_rows
from bench.race.worker import Work


def prepare() -> dict[str, Work]:
    """Batches as `train.sft` gets them: ids, mask, weights, segments and positions."""
    from importlib.metadata import version

    from jaxrec.data.store.reading import open_stores

    folder = token_rows.once("store", _write)

    def batches() -> Iterator[np.ndarray]:
        source = open_stores([str(folder)], "texts", token_rows.LENGTH).source(token_rows.BATCH)
        state = source.init()
        while True:
            tokens, state = source(0, None, state)
            yield tokens.ids_BL

    return token_rows.race(batches, {"tensorstore": version("tensorstore")})


def _write(folder: Path) -> None:
    from jaxrec.data.store import arrays
    from jaxrec.data.store.manifest import Plan, Shard, rows_name, write_manifest
    from jaxrec.data.store.place import Place

    place, records = Place(str(folder)), []
    for number, part in enumerate(np.array_split(token_rows.planes(), 8)):
        about = arrays.write(place, rows_name(number, "tokens"), part)
        size = len(part)
        shard = Shard(size, size * token_rows.LENGTH, size, 0, {}, {}, "", {"tokens": about})
        records.append(json.dumps(shard.__dict__).encode())
    write_manifest(place, Plan("texts", {"names": []}, token_rows.LENGTH), records)
