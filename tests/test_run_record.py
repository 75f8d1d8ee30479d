"""What a resume compares: settings that matter, by name, from and to; and the content of the data."""

import dataclasses

import numpy as np

from jaxrec.data.instruction_batches import batches
from jaxrec.data.source import ArraySource, Prefetch, data_hash
from jaxrec.data.text import Example
from jaxrec.run_record import record_of
from jaxrec.training.loop import LoopConfig


@dataclasses.dataclass(frozen=True)
class Config:
    base: str = "a"
    data: tuple[str, ...] = ("one.jsonl",)
    rows: int = 4
    out: str = "runs/x"
    merge: bool = False
    loop: LoopConfig = LoopConfig()


def changes(data="h", before="h", same_frozen=True, **more):
    earlier = record_of(Config(), before).as_dict()
    return record_of(dataclasses.replace(Config(), **more), data).changes(earlier, same_frozen)


def test_what_matters_is_named_from_and_to_and_the_rest_is_free():
    assert changes(rows=2) == ["rows: 4 -> 2"]
    assert changes(loop=LoopConfig(seed=3, monitor="x")) == [
        "loop.seed: 0 -> 3", "loop.monitor: 'train/loss' -> 'x'",
    ]  # fmt: skip
    free = {
        "steps": 9,
        "log_every": 1,
        "save_every": 3,
        "keep": 9,
        "progress": False,
        "patience": 2,
    }
    assert changes(loop=LoopConfig(**free), out="y", merge=True) == []
    assert changes(base="b") == [] and changes(base="b", same_frozen=False) == ["base: 'a' -> 'b'"]


def test_data_that_moved_are_the_same_and_data_that_changed_are_not():
    moved = record_of(dataclasses.replace(Config(), data=("elsewhere.jsonl",)), "h")
    assert moved.changes(record_of(Config(), "h").as_dict(), True) == []
    assert changes(data="i") == ["the data's contents: h -> i"]
    assert changes(data="", before="h") == []  # not known of one of the two
    older = record_of(Config(), "h").as_dict()
    del older["settings"]["rows"]  # of a version that had no such setting
    assert record_of(Config(rows=9), "h").changes(older, True) == []
    long = record_of(dataclasses.replace(Config(), base="x" * 500), "h")
    (said,) = long.changes(record_of(Config(), "h").as_dict(), False)
    assert len(said) < 100


def test_the_hash_of_data_is_of_their_content():
    rows = np.arange(40).reshape(20, 2)
    same = data_hash(ArraySource(rows, 4))
    assert len(same) == 12 and same == data_hash(Prefetch(ArraySource(rows.copy(), 4)))
    other = rows.copy()
    other[-1, -1] += 1
    assert data_hash(ArraySource(other, 4)) != same != data_hash(ArraySource(rows.astype("i4"), 4))
    table = lambda shift: ArraySource(np.arange(20), 4, make=lambda picked: rows[picked] + shift)
    assert data_hash(table(0)) == data_hash(table(0)) != data_hash(table(1))
    assert data_hash(lambda step, params, state: (None, state)) == ""
    names = [ArraySource(np.array(["x", said], object), 2) for said in ("y", "z")]
    assert data_hash(names[0]) != data_hash(names[1])


def test_every_way_of_batching_tells_its_content():
    examples = [[Example([n, k, 1], [0.0, 1.0, 1.0]) for n in range(6)] for k in (7, 8)]
    for how in ("padded", "bucketed", "packed"):
        one, two = (data_hash(batches(e, how, length=8, rows=2).source) for e in examples)
        assert one and two and one != two
