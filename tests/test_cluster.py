"""What `map_shards` promises in this process, and what it says where there is no cluster."""

import json
import socket
import sys
import time

import cluster_jobs as jobs
import numpy as np
import pytest

from jaxrec.cluster import ClusterError, ShardError, map_shards
from jaxrec.config import RunError


def test_results_come_in_order_and_one_by_one():
    read = []

    def shards():
        for x in range(5):
            read.append(x)
            yield x

    made = map_shards(jobs.square, shards())
    assert read == []
    assert next(made) == 0 and read == [0]
    assert list(made) == [1, 4, 9, 16]
    assert list(map_shards(jobs.square, [])) == []


def test_setup_is_done_once():
    made = list(map_shards(jobs.count, range(3), setup=jobs.counter))
    assert [(x, n) for x, _, n in made] == [(0, 1), (1, 2), (2, 3)]
    assert list(map_shards(jobs.count, [], setup=jobs.no_setup)) == []  # nothing to set up for


@pytest.mark.parametrize(
    ("shards", "said"),
    [
        ([2], r"^part 0 of three: KeyError: 'colour' \(cluster_jobs.py:\d+\)$"),
        ([1, 5], r"^part 1 of three: row 7 has no title$"),
    ],
)
def test_a_shard_that_raises_is_named(shards, said):
    with pytest.raises(ShardError, match=said):
        list(map_shards(jobs.raising, shards, name=lambda n, x: f"part {n} of three"))


def test_a_setup_that_fails_says_why():
    with pytest.raises(RunError, match=r"^the weights are not installed$"):
        list(map_shards(jobs.count, [1], setup=jobs.no_setup))
    with pytest.raises(ClusterError, match="could not be set up: ZeroDivisionError"):
        list(map_shards(jobs.count, [1], setup=lambda: 1 // 0))


def test_finished_shards_are_found_again(tmp_path):
    keep = {"keep": tmp_path / "parts", "mark": "a"}
    rows = {"text": "half of an emoji \ud83d", "n": [1, 2.5, None]}
    wanted = [rows, rows]
    assert list(map_shards(lambda x: rows, range(2), **keep)) == wanted
    asked = []

    def third(x):
        asked.append(x)
        return {"drawn": np.arange(3)}

    found = list(map_shards(third, range(3), **keep))
    assert found[:2] == wanted and asked == [2]
    np.testing.assert_array_equal(found[2]["drawn"], np.arange(3))
    again = list(map_shards(jobs.no_setup, range(3), **keep))
    np.testing.assert_array_equal(again[2]["drawn"], np.arange(3))
    assert again[2].keys() == {"drawn"}


def test_what_is_kept_is_what_is_given(tmp_path):
    """Fresh or found, a result has the same types: JSON knows no tuples."""
    fresh = list(map_shards(lambda x: (x, x), [1], keep=tmp_path / "p", mark="m"))
    assert fresh == [[1, 1]] == list(map_shards(jobs.square, [1], keep=tmp_path / "p", mark="m"))


def test_another_jobs_shards_are_refused(tmp_path):
    list(map_shards(jobs.square, [3], keep=tmp_path / "parts", mark="a"))
    with pytest.raises(ClusterError, match="holds shards of another job"):
        map_shards(jobs.square, [3], keep=tmp_path / "parts", mark="b")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("mine")
    with pytest.raises(ClusterError, match="holds no finished shards"):
        map_shards(jobs.square, [3], keep=tmp_path / "letters", mark="a")
    (tmp_path / "parts" / "job.json").write_text(json.dumps(["a"]))
    with pytest.raises(ClusterError, match="holds no finished shards"):
        map_shards(jobs.square, [3], keep=tmp_path / "parts", mark="a")


@pytest.mark.parametrize(
    "address", ["nonsense", "local:x", "host:port", "ray://", "tcp://a:1", "a b:1", "local:0"]
)
def test_what_is_no_address(address):
    with pytest.raises(ClusterError, match=r"is no address of a cluster|has no workers"):
        map_shards(jobs.square, [1], address=address)


def test_an_address_that_does_not_answer(monkeypatch):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        port = busy.getsockname()[1]
        with pytest.raises(
            ClusterError,
            match=rf"^no Ray cluster answers at 127.0.0.1:{port} within 10 seconds \(.+\)$",
        ):
            list(map_shards(jobs.square, [1], address=f"127.0.0.1:{port}"))
        busy.listen()  # and says nothing to whoever calls
        monkeypatch.setattr("jaxrec.cluster.connection.ANSWERS", 0.2)
        began = time.monotonic()
        with pytest.raises(ClusterError, match=r"within 0.2 seconds \(timed out\)"):
            list(map_shards(jobs.square, [1], address=f"ray://127.0.0.1:{port}"))
        assert time.monotonic() - began < 5
    with pytest.raises(ClusterError, match=r"no Ray cluster answers at 127.0.0.1:99999"):
        list(map_shards(jobs.square, [1], address="127.0.0.1:99999"))


def test_without_ray_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"pip install 'jaxrec\[cluster\]'"):
        list(map_shards(jobs.square, [1], address="local:2"))


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"threads": -1}, {"in_flight": -1}])
def test_numbers_that_are_not_possible(wrong):
    with pytest.raises(ClusterError, match="not possible"):
        map_shards(jobs.square, [1], **wrong)
