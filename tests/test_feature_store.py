"""Features on disk: equal to computed ones, resumed after a kill in mid-shard, computed anew for other weights."""

import dataclasses

import numpy as np
import pytest

from jaxrec.data.feature_store import FeatureConfig, FeatureError, open_features
from jaxrec.data.source import ArraySource, data_hash

SHAPE = (10, 3, 4)
ROWS = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def config(folder, **changes) -> FeatureConfig:
    return dataclasses.replace(FeatureConfig(str(folder), "float32", shard=4, rows=2), **changes)


def filled(folder, asked=None, facts=None, **changes):
    store = open_features(config(folder, **changes), facts or {"weights": "a"}, SHAPE)
    counted = lambda rows: asked.append(rows) or ROWS[rows] if asked is not None else ROWS[rows]
    store.fill(counted, "rows", progress=False)
    return store


def test_rows_come_back_as_they_were_whatever_their_order(tmp_path):
    store = filled(tmp_path)
    np.testing.assert_array_equal(store[np.array([9, 0, 4, 9])], ROWS[[9, 0, 4, 9]])
    np.testing.assert_array_equal(store[2:7], ROWS[2:7])
    assert len(store) == 10 and store.missing() == []


def test_a_shard_is_whole_or_not_there_and_a_killed_run_goes_on(tmp_path, capsys):
    def dies_in_the_second(rows):
        if rows.start == 4:
            raise KeyboardInterrupt
        return ROWS[rows]

    store = open_features(config(tmp_path), {"weights": "a"}, SHAPE)
    with pytest.raises(KeyboardInterrupt):
        store.fill(dies_in_the_second, "rows", progress=False)
    asked = []
    again = filled(tmp_path, asked)
    assert asked == [slice(4, 8), slice(8, 10)]
    assert "1 of 3 shards are there" in capsys.readouterr().out
    np.testing.assert_array_equal(again[0:10], ROWS)
    filled(tmp_path, asked)
    assert len(asked) == 2  # all is there: nothing is computed


def test_other_weights_are_computed_beside_and_that_is_said(tmp_path, capsys):
    first, asked = filled(tmp_path), []
    other = filled(tmp_path, asked, {"weights": "b"})
    assert len(asked) == 3 and other.folder != first.folder
    assert "none is there" in capsys.readouterr().out.splitlines()[-1]


def test_a_shard_of_zeros_is_there(tmp_path):
    store = open_features(config(tmp_path), {"weights": "zeros"}, SHAPE)
    store.fill(lambda rows: np.zeros_like(ROWS[rows]), "rows", progress=False)
    assert store.missing() == []


def test_a_source_reads_the_rows_of_a_batch_and_knows_them_by_their_key(tmp_path):
    store = filled(tmp_path)
    source = ArraySource({"x": store, "n": np.arange(10)}, 4)
    batch, _ = source(0, None, source.init())
    np.testing.assert_array_equal(batch["x"], ROWS[batch["n"]])
    other = ArraySource({"x": filled(tmp_path, facts={"weights": "b"}), "n": np.arange(10)}, 4)
    assert data_hash(source) and data_hash(source) != data_hash(other)


def test_damage_and_what_cannot_be_is_said(tmp_path):
    store = filled(tmp_path)
    shard = next(path for path in (store.folder / "features" / "c").rglob("*") if path.is_file())
    whole = shard.read_bytes()
    shard.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    again = open_features(config(tmp_path), {"weights": "a"}, SHAPE)
    with pytest.raises(FeatureError, match="are damaged: remove that folder"):
        again[0:10]
    with pytest.raises(FeatureError, match="rows 0 to 4 are not finite"):
        open_features(config(tmp_path), {"weights": "n"}, SHAPE).fill(
            lambda rows: ROWS[rows] * np.nan, "rows", progress=False
        )
    with pytest.raises(FeatureError, match="int8"):
        open_features(config(tmp_path, dtype="int8"), {}, SHAPE)
    (tmp_path / "file").write_text("")
    with pytest.raises(FeatureError, match="cannot keep features"):
        open_features(config(tmp_path / "file"), {}, SHAPE)
