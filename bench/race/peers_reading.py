"""The others' readers: grain over an ArrayRecord, shuffled by row; `datasets` streaming Parquet through a buffer."""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from bench.race import token_rows
from bench.race.worker import Work

_BUFFER = 1000  # rows that `datasets` shuffles among


def prepare(engine: str = "grain") -> dict[str, Work]:
    """Batches of ids and marks, with one thread that reads ahead; nothing is made of the marks."""
    begin, names = {
        "grain": (_grain, ("grain", "array_record")),
        "datasets": (_datasets, ("datasets", "pyarrow")),
    }[engine]
    return token_rows.race(begin, {name: version(name) for name in names})


def _grain() -> Iterator[np.ndarray]:
    import grain

    path = token_rows.once("rows.array_record", _write_records)
    source = grain.sources.ArrayRecordDataSource([str(path)])
    decode = lambda row: np.frombuffer(row, np.int32).reshape(2, token_rows.LENGTH)
    rows = grain.MapDataset.source(source).seed(0).shuffle().repeat().map(decode)
    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2 * token_rows.BATCH)
    for batch in rows.to_iter_dataset(ahead).batch(token_rows.BATCH):
        yield batch[:, 0]


def _write_records(path: Path) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    file = ArrayRecordWriter(str(path), "group_size:1")  # a row by itself, as it is shuffled
    for row in token_rows.planes():
        file.write(row.tobytes())
    file.close()


def _datasets() -> Iterator[np.ndarray]:
    import datasets

    path = token_rows.once("rows.parquet", _write_table)
    rows = datasets.load_dataset("parquet", data_files=[str(path)], split="train", streaming=True)
    rows = rows.shuffle(seed=0, buffer_size=_BUFFER).with_format("numpy")
    epoch = 0
    while True:
        rows.set_epoch(epoch)
        for batch in rows.iter(batch_size=token_rows.BATCH):
            yield np.asarray(batch["ids"])
        epoch += 1


def _write_table(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fixed = lambda x: pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), token_rows.LENGTH)
    ids, marks = np.moveaxis(token_rows.planes(), 1, 0)
    pq.write_table(pa.table({"ids": fixed(ids), "marks": fixed(marks)}), path, row_group_size=1024)
