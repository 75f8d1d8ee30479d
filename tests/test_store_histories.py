"""Histories in a store are those of memory, event for event and batch for batch; nothing is read before it is asked."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrec.config import RunError
from jaxrec.data import tokenise
from jaxrec.data.histories import EventColumn, histories, leave_one_out
from jaxrec.data.history_rows import DrawnItems, Negatives, PackedHistories, pack
from jaxrec.data.interaction_sets import DataConfig, read
from jaxrec.data.source import ArraySource
from jaxrec.data.store.events import open_histories
from jaxrec.data.store.place import StoreError
from jaxrec.data.store.reading import StoredSource
from jaxrec.data.tokenise import TokeniseConfig
from jaxrec.train import sequential

COLUMNS = ("item_T", "time_T", "rating_T", "start_B", "user_B")


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    """events.csv, a table of single events; people.jsonl, a person a line; and a store of each."""
    at, rng = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    people, lines = [], ["user,item,rating,time"]
    for user in range(40):
        count = int(rng.integers(1, 14))
        items, times = rng.integers(0, 30, count).tolist(), rng.permutation(1000)[:count].tolist()
        people.append({"items": items, "times": times})
        lines += [f"{user},{i},{i % 5 + 1},{t + 10**9}" for i, t in zip(items, times, strict=True)]
    (at / "events.csv").write_text("\n".join(lines) + "\n")
    people.insert(7, {"items": ["a text"], "times": [1]})
    (at / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in people))
    return at


def made(at: Path, name: str, **more) -> str:
    out = str(at / Path(name).stem)
    tokenise.main(TokeniseConfig((str(at / name),), out, "histories", documents=9, **more))
    return out


def same(one, other) -> None:
    for name in COLUMNS:
        x, y = getattr(one, name), getattr(other, name)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), strict=True)


def test_a_table_of_events_is_read_back_and_split_as_in_memory(at):
    memory = histories(read(DataConfig(path=str(at / "events.csv"))).interactions)
    stored = open_histories(made(at, "events.csv"))
    assert isinstance(stored.item_T, EventColumn) and not isinstance(memory.item_T, EventColumn)
    assert (stored.n_users, stored.n_items) == (memory.n_users, memory.n_items)
    same(memory, stored)
    assert isinstance(stored.in_memory().item_T, np.ndarray)
    same(memory, stored.in_memory())
    one, other = leave_one_out(memory), leave_one_out(stored)
    for part in ("valid", "test"):
        asked, again = getattr(one, part), getattr(other, part)
        same(asked.histories, again.histories)
        np.testing.assert_array_equal(asked.target_B, again.target_B)
    same(
        one.train.newest(3).take(np.array([5, 2, 2])),
        other.train.newest(3).take(np.array([5, 2, 2])),
    )
    np.testing.assert_array_equal(one.train.padded(4), other.train.padded(4))

    rows, asked = (
        pack(one.train, 16, 6, windows=True),
        PackedHistories(other.train, 16, 6, windows=True),
    )
    for wrap in (lambda s, h: Negatives(s, h, 2), lambda s, h: DrawnItems(s, h, 3, 0.5)):
        memory_rows = wrap(ArraySource(rows, 4), one.train)
        stored_rows = wrap(StoredSource(asked, 4), other.train)
        state = memory_rows.init()
        for step in range(9):
            (x, after), (y, _) = memory_rows(step, None, state), stored_rows(step, None, state)
            jax.tree.map(np.testing.assert_array_equal, x, y)
            state = after
    assert (
        StoredSource(asked, 4).content().tobytes()
        != StoredSource(PackedHistories(other.train, 16, 5), 4).content().tobytes()
    )


def test_people_are_streamed_in_the_order_of_time_and_a_bad_one_is_named(at, capsys):
    store = made(at, "people.jsonl")
    assert "1 malformed: items: whole numbers are expected" in capsys.readouterr().out
    found = open_histories(store)
    assert len(found) == 41 and found.length_B[7] == 0 and found.n_items == 30
    rows = [json.loads(line) for line in (at / "people.jsonl").read_text().splitlines()]
    for person, row in enumerate(rows):
        if person != 7:
            order = np.argsort(row["times"], kind="stable")
            assert found[person].tolist() == np.array(row["items"])[order].tolist()
    with pytest.raises(StoreError, match="whole numbers are expected"):
        tokenise.main(
            TokeniseConfig((str(at / "people.jsonl"),), str(at / "s"), "histories", strict=True)
        )
    with pytest.raises(StoreError, match="one source"):
        tokenise.main(TokeniseConfig((store, store), str(at / "t"), "histories"))
    with pytest.raises(RunError, match="is a store: train"):
        read(DataConfig(path=store))
    whole = sequential.people(DataConfig(path=store))
    assert isinstance(whole.item_T, EventColumn) and "41 people" in capsys.readouterr().out
