import dataclasses
import json
import shutil
import tracemalloc

import numpy as np
import pytest

from jaxrec.retrieval import index_choice, top_k
from jaxrec.retrieval.exact import ExactSearch
from jaxrec.retrieval.index import Index, search_shards
from jaxrec.retrieval.index_choice import IndexConfig, choose
from jaxrec.retrieval.item_ids import ItemIds
from jaxrec.retrieval.top_k import SearchError
from jaxrec.types import Shortlist

N, D = 4000, 32
ONE = IndexConfig(threads=1)
CONFIGS = [
    IndexConfig(threads=1, kind="exact"),
    IndexConfig(threads=1, kind="flat"),
    IndexConfig(threads=1, kind="flat", code="sq8"),
    IndexConfig(threads=1, kind="flat", code="pq_fast"),
    IndexConfig(threads=1, kind="ivf", code="none", nlist=16, nprobe=6),
    IndexConfig(threads=1, kind="ivf", code="sq4", nlist=16, nprobe=6),
    IndexConfig(threads=1, kind="ivf", code="fp16", nlist=16, nprobe=6, store="float32"),
    IndexConfig(threads=1, kind="ivf", code="pq_fast", nlist=16, nprobe=6, rotate=True),
    IndexConfig(threads=1, kind="ivf", code="rabitq", nlist=16, nprobe=6),
    IndexConfig(threads=1, kind="hnsw", code="sq8", links=16, ef=64),
]


def named(config: IndexConfig) -> str:
    return f"{config.kind}-{config.code}"


@pytest.fixture(scope="module")
def world():
    """Vectors in clusters, queries near some of them, and the true order of all items."""
    rng = np.random.default_rng(0)
    centre = rng.standard_normal((60, D))
    x = (centre[rng.integers(0, 60, N)] + 0.7 * rng.standard_normal((N, D))).astype(np.float32)
    q = (x[rng.integers(0, N, 12)] + 0.2 * rng.standard_normal((12, D))).astype(np.float32)
    unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)
    scores = unit(q) @ unit(x).T
    labels = {"tenant": rng.integers(0, 40, N), "category": rng.integers(0, 5, N)}
    ids = rng.permutation(10 * N)[:N].astype(np.int64)
    return x, q, scores, labels, ids


def recall(found: Shortlist, wanted: np.ndarray) -> float:
    pairs = zip(found.items_BJ, wanted, strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs]))


@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_finds_saves_loads_and_forgets(config, world, tmp_path):
    x, q, scores, labels, ids = world
    index = Index.build(x, ids, labels, config)
    true = ids[np.argsort(-scores, 1)[:, :10]]
    found = index.search(q, 10)
    assert recall(found, true) >= (1 if config.kind in ("exact", "flat") else 0.95)
    # Scores are exact, up to the type of the store.
    own = np.take_along_axis(scores, index._ids.slots_of(found.items_BJ), 1)
    np.testing.assert_allclose(found.scores_BJ, own, atol=2e-3)
    assert (np.diff(found.scores_BJ) <= 0).all()

    index.save(tmp_path / "index")
    for mmap in (True, False):
        again = Index.load(tmp_path / "index", mmap=mmap)
        same = again.search(q, 10)
        np.testing.assert_array_equal(same.items_BJ, found.items_BJ)
        np.testing.assert_array_equal(same.scores_BJ, found.scores_BJ)
        assert (again.config, again.reason, len(again)) == (index.config, index.reason, N)

    # Through a memory-mapped index: remove, search, add again, and what is new is found.
    gone = found.items_BJ[0]
    assert again.remove(gone) == 10 and again.remove(gone) == 0 and len(again) == N - 10
    left = again.search(q[:1], 10)
    assert not set(gone) & set(left.items_BJ[0]) and (left.items_BJ >= 0).all()
    again.save(tmp_path / "less")
    less = Index.load(tmp_path / "less")
    np.testing.assert_array_equal(less.search(q[:1], 10).items_BJ, left.items_BJ)
    at = index._ids.slots_of(gone)
    less.add(x[at], gone, {name: column[at] for name, column in labels.items()})
    np.testing.assert_array_equal(less.search(q[:1], 10).items_BJ, found.items_BJ[:1])
    less.save(tmp_path / "less")  # over itself, while its files are mapped
    assert len(Index.load(tmp_path / "less")) == N


@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_a_tenant_never_sees_another_ones_items(config, world, monkeypatch):
    x, q, scores, labels, ids = world
    monkeypatch.setattr("jaxrec.retrieval.index.SCAN_ROWS", 150)  # so that both ways are taken
    index = Index.build(x, ids, labels, config)
    rng = np.random.default_rng(1)
    for trial in range(8):
        tenants = rng.choice(40, rng.integers(1, 25), replace=False)
        where = {"tenant": tenants.tolist() if trial % 2 else tenants}
        mask = np.isin(labels["tenant"], tenants)
        if trial % 3 == 0:
            where["category"] = int(rng.integers(0, 5))
            mask &= labels["category"] == where["category"]
        k = int(rng.choice([1, 10, 60]))
        if trial % 4 == 3:
            mask[index._ids.slots_of(gone := rng.choice(index.items, 50, replace=False))] = False
            index.remove(gone)
        mask &= index._ids.alive
        found = index.search(q, k, where)
        real = found.items_BJ >= 0
        assert set(found.items_BJ[real]) <= set(ids[mask])
        assert (real.sum(1) == min(k, mask.sum())).all()  # full, however narrow the partition
        true = ids[mask][np.argsort(-scores[:, mask], 1)[:, : min(k, mask.sum())]]
        found = Shortlist(found.items_BJ[:, : true.shape[1]], found.scores_BJ)
        assert recall(found, true) >= (0.9 if k <= 10 else 0.8)
    assert (index.search(q, 3, {"tenant": 999}).items_BJ == -1).all()


def test_shards_merge_to_one_index(world):
    x, q, _, labels, ids = world
    one = Index.build(x, ids, labels, IndexConfig(kind="exact", threads=1))
    cuts = [slice(0, 7), slice(7, 1500), slice(1500, N)]
    shards = [
        Index.build(x[c], ids[c], {n: column[c] for n, column in labels.items()}, config)
        for c, config in zip(cuts, (CONFIGS[0], CONFIGS[1], CONFIGS[0]), strict=True)
    ]
    shards[2].add(x[:1], ids[:1], {n: column[:1] for n, column in labels.items()})  # in two shards
    for where in (None, {"tenant": [1, 2, 3]}):
        whole = one.search(q, 20, where)
        for threads in (1, 3):
            merged = search_shards(shards, q, 20, where, threads=threads)
            np.testing.assert_array_equal(merged.items_BJ, whole.items_BJ)
            np.testing.assert_allclose(merged.scores_BJ, whole.scores_BJ, atol=1e-5)
    with pytest.raises(SearchError, match="different widths"):
        search_shards([one, Index.build(x[:, :16], config=ONE)], q, 5)


def test_streams_onto_disk_as_from_an_array(world, tmp_path):
    x, q, _, _, ids = world
    config = IndexConfig(kind="ivf", code="sq8", nlist=16, nprobe=8, threads=1)
    whole = Index.build(x, ids, config=config)
    blocks = ((ids[at : at + 600], x[at : at + 600]) for at in range(0, N, 600))
    streamed = Index.build(blocks, config=config, folder=tmp_path / "index")
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=x.shape)
    mapped[:] = x
    for other in (streamed, Index.build(mapped, ids, config=config)):
        np.testing.assert_array_equal(other.search(q, 10).items_BJ, whole.search(q, 10).items_BJ)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index", "x"]
    # A build that fails leaves the older index alone, and nothing beside it.
    bad = (x[at : at + 600] * (1 if at < 1200 else np.nan) for at in range(0, N, 600))
    with pytest.raises(SearchError, match="vector 1200 holds numbers that are not finite"):
        Index.build(bad, config=config, folder=tmp_path / "index")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index", "x"]
    assert len(Index.load(tmp_path / "index")) == N


def test_the_store_is_the_only_copy():
    x = np.random.default_rng(0).standard_normal((60_000, 64)).astype(np.float32)
    tracemalloc.start()
    index = Index.build(x, config=IndexConfig(kind="exact", store="float16", threads=1))
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert index.nbytes["store"] == x.nbytes // 2
    assert now < 1.6 * x.nbytes // 2 and peak < 2.6 * x.nbytes // 2


@pytest.mark.parametrize("name", ["vectors.bin", "structure.faiss", "items.npy", "label_t.npy"])
def test_damage_is_noticed(name, world, tmp_path):
    x, _, _, _, _ = world
    folder, label = tmp_path / "index", {"t": np.zeros(500, np.int64)}
    Index.build(x[:500], None, label, IndexConfig(kind="hnsw", links=8, threads=1), folder=folder)
    path, whole = folder / name, (folder / name).read_bytes()
    place = len(whole) // 2
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(SearchError, match=rf"{name} is damaged"):
        Index.load(folder)
    path.write_bytes(whole[:-1])
    with pytest.raises(SearchError, match=rf"{name} has {len(whole) - 1} bytes"):
        Index.load(folder, verify=False)
    path.unlink()
    with pytest.raises(SearchError, match=rf"{name} is missing"):
        Index.load(folder)


def test_other_versions_and_folders_are_refused(world, tmp_path):
    x = world[0]
    folder = tmp_path / "index"
    Index.build(x[:50], config=ONE, folder=folder)
    shutil.move(folder, tmp_path / "index.old")  # killed between the two renames
    assert len(Index.load(folder)) == 50
    shutil.move(tmp_path / "index.old", folder)
    head = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(head | {"version": 99}))
    with pytest.raises(SearchError, match="version 99"):
        Index.load(folder)
    (folder / "index.json").write_text("{")
    with pytest.raises(SearchError, match="damaged"):
        Index.load(folder)
    with pytest.raises(SearchError, match="there is no index in"):
        Index.load(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(SearchError, match="is no index"):
        Index.build(x[:50], config=ONE, folder=tmp_path / "other")
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"


def test_odd_sizes_and_inputs(world):
    x, q = world[:2]
    index = Index.build(x[:5], config=ONE)
    found = index.search(q, 8)
    assert (found.items_BJ[:, 5:] == -1).all() and np.isneginf(found.scores_BJ[:, 5:]).all()
    assert (np.sort(found.items_BJ[:, :5], 1) == np.arange(5)).all()
    assert index.search(q[:0], 3).items_BJ.shape == (0, 3)

    empty = Index.build(np.zeros((0, D), np.float32), labels={"t": np.zeros(0, int)}, config=ONE)
    assert len(empty) == 0 and (empty.search(q, 3).items_BJ == -1).all()
    empty.add(x[:3], np.array([7, 8, 9]), {"t": np.array([1, 1, 2])})
    assert set(empty.search(q[:1], 3, {"t": 1}).items_BJ[0]) == {7, 8, -1}

    zeros = x[:4].copy()
    zeros[2] = 0
    index = Index.build(zeros, config=ONE)
    assert index.search(np.zeros((1, D), np.float32), 4).items_BJ.tolist() == [[0, 1, 2, 3]]
    assert index.search(q[:1], 4).scores_BJ[0][index.search(q[:1], 4).items_BJ[0] == 2] == 0
    np.testing.assert_allclose(
        np.linalg.norm(index.vectors(np.array([[0, -1]])), axis=-1), [[1, 0]], atol=1e-6
    )

    whole = IndexConfig(kind="exact", metric="inner_product", threads=1)
    twins = Index.build(np.ones((6, 4), np.float32), np.array([9, 3, 5, 1, 7, 2]), config=whole)
    assert twins.search(np.ones((1, 4)), 6).items_BJ.tolist() == [[1, 2, 3, 5, 7, 9]]

    plain = Index.build(x, config=IndexConfig(kind="flat", metric="inner_product", threads=1))
    np.testing.assert_allclose(plain.search(q, 1).scores_BJ[:, 0], (q @ x.T).max(1), rtol=1e-5)


def test_bad_input_is_said(world):
    x, q, _, labels, ids = world
    index = Index.build(x, ids, labels, IndexConfig(kind="exact", threads=1))
    for match, call in {
        "does not fit": lambda: index.search(q[:, :5], 3),
        "query 1 holds": lambda: index.search(np.array([[0.0] * D, [np.inf] * D]), 3),
        "k is 0": lambda: index.search(q, 0),
        "no labels 'tenent'; it has: tenant, category": lambda: index.search(q, 3, {"tenent": 1}),
        "is empty": lambda: index.search(q, 3, {"tenant": []}),
        "is in the index already": lambda: index.add(x[:1], ids[:1], {n: c[:1] for n, c in labels.items()}),
        "comes twice": lambda: index.add(x[:2], np.array([-0, 0]) + 10**9, {n: c[:2] for n, c in labels.items()}),
        "the new items": lambda: index.add(x[:1], np.array([10**9])),
        "2 vectors, but 1 ids": lambda: index.add(x[:2], np.array([10**9])),
        "is negative": lambda: index.add(x[:1], np.array([-3]), {n: c[:1] for n, c in labels.items()}),
        "is not in the index": lambda: index.vectors(np.array([10**9])),
        "comes twice; ids": lambda: Index.build(x[:2], np.array([4, 4])),
        "2 whole numbers are needed": lambda: Index.build(x[:2], np.array([4])),
        "for each of the 2 items": lambda: Index.build(x[:2], labels={"t": np.zeros(3, int)}),
        "no block of vectors": lambda: Index.build(iter([])),
        "nlist is fixed": lambda: index.with_search(nlist=3),
        "at least 256 vectors": lambda: Index.build(x[:90], config=IndexConfig(kind="flat", code="pq")),
        "cells need as many": lambda: Index.build(x[:90], config=IndexConfig(kind="ivf", nlist=99)),
        "does not divide the width": lambda: Index.build(x, config=IndexConfig(kind="flat", code="pq", m=5)),
        "an hnsw index holds": lambda: IndexConfig(kind="hnsw", code="pq"),
        "nprobe is -1": lambda: IndexConfig(nprobe=-1),
        "does not fit float16": lambda: Index.build(
            x * 1e6, config=IndexConfig(kind="exact", metric="inner_product", store="float16")
        ),
    }.items():  # fmt: skip
        with pytest.raises(SearchError, match=match):
            call()
    assert len(index) == N and index._store.nbytes == N * D * 4  # nothing was half added


def test_the_choice_by_size_says_why():
    small, why = choose(1000, 768, IndexConfig())
    assert small.kind == "exact" and small.store == "float32" and "1,000 vectors" in why
    large, why = choose(1_570_000, 768, IndexConfig())
    assert (large.kind, large.code, large.store, large.nlist, large.m) == (
        "ivf",
        "pq_fast",
        "float16",
        4096,
        192,
    )
    assert "1,570,000 vectors" in why and str(large.nprobe) in why
    assert choose(1_570_000, 768, large)[0] == large  # a resolved config stays as it is
    limit = index_choice.EXACT_NUMBERS // 64
    assert [choose(n, 64, IndexConfig())[0].kind for n in (limit, limit + 1)] == ["exact", "ivf"]
    assert choose(10**6, 30, IndexConfig())[0].code == "sq8"  # no four-dimensional parts


def test_other_search_settings_share_the_structure(world):
    x, q, scores, _, _ = world
    config = IndexConfig(kind="ivf", code="sq8", nlist=64, nprobe=1, threads=1)
    index = Index.build(x, config=config)
    true = np.argsort(-scores, 1)[:, :10]
    some, more = (recall(index.with_search(nprobe=n).search(q, 10), true) for n in (1, 64))
    assert some < more == 1
    assert index.with_search(nprobe=4)._structure is index._structure and index.config.nprobe == 1
    index.remove(np.arange(3000))
    fresh = index.compact(IndexConfig(kind="exact", threads=1))
    assert len(fresh) == fresh._ids.slots == 1000
    best = 3000 + np.argsort(-scores[:, 3000:], 1)[:, :5]
    assert recall(fresh.search(q, 5), best) == 1
    assert recall(index.with_search(nprobe=64).search(q, 5), best) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("n,k", [(1, 1), (63, 5), (64, 64), (4097, 30), (9000, 3)])
def test_exact_search_is_a_sort(dtype, n, k, monkeypatch):
    monkeypatch.setattr("jaxrec.retrieval.exact._NUMBERS", 1 << 12)
    rng = np.random.default_rng(n)
    x = rng.integers(-3, 4, (n, 6)).astype(dtype)  # many ties
    q = rng.integers(-3, 4, (5, 6)).astype(np.float32)
    allowed = rng.random(n) < 0.5
    for mask in (None, allowed):
        scores = q @ x.T.astype(np.float32)
        if mask is not None:
            scores[:, ~mask] = -np.inf
        found = ExactSearch(x).search(q, k, mask)
        np.testing.assert_array_equal(found.scores_BJ, -np.sort(-scores, 1)[:, :k])
        real = found.items_BJ >= 0
        own = np.take_along_axis(scores, np.maximum(found.items_BJ, 0), 1)
        np.testing.assert_array_equal(own[real], found.scores_BJ[real])
        assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in found.items_BJ)


def test_ids_survive_a_long_history():
    rng = np.random.default_rng(0)
    ids, truth, slot = ItemIds(np.arange(0, 200, 2)), {i: i // 2 for i in range(0, 200, 2)}, 100
    for _ in range(200):
        gone = rng.choice(300, 3)
        ids.remove(gone)
        for item in gone.tolist():
            truth.pop(item, None)
        new = np.array(sorted(set(rng.choice(300, 4).tolist()) - set(truth)), np.int64)
        ids.check_new(new)
        ids.add(new)
        truth.update({item: slot + i for i, item in enumerate(new.tolist())})
        slot += len(new)
        if rng.random() < 0.1:
            ids._sort()
    every = np.arange(300)
    np.testing.assert_array_equal(ids.slots_of(every), [truth.get(i, -1) for i in every.tolist()])
    assert len(ids) == len(truth) == ids.alive.sum() and ids.slots == slot


def test_merge_keeps_the_better_score_of_an_item():
    a = Shortlist(np.array([[4, 2, -1]]), np.array([[0.9, 0.5, -np.inf]], np.float32))
    b = Shortlist(np.array([[2, 7]]), np.array([[0.7, 0.7]], np.float32))
    merged = top_k.merge([a, b], 4)
    assert merged.items_BJ.tolist() == [[4, 2, 7, -1]]
    np.testing.assert_allclose(merged.scores_BJ[0, :3], [0.9, 0.7, 0.7])
    assert dataclasses.is_dataclass(merged)
