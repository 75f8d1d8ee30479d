"""An index in shards finds what one index over all finds, and goes on after a kill."""

import json

import numpy as np
import pytest

from jaxrec.cluster import ShardError
from jaxrec.retrieval import sharded
from jaxrec.retrieval.catalog_vectors import embed_catalog
from jaxrec.retrieval.index import Index
from jaxrec.retrieval.index_choice import IndexConfig
from jaxrec.retrieval.sharded import ShardedConfig, build_shards, search_folder
from jaxrec.retrieval.top_k import SearchError

EXACT = IndexConfig(kind="exact")


@pytest.fixture
def vectors(tmp_path):
    rows_ID = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", rows_ID)
    return rows_ID


@pytest.mark.parametrize("shards", [1, 3, 50])
def test_shards_find_what_one_index_finds(shards, vectors, tmp_path):
    folders = build_shards(tmp_path / "vectors.npy", tmp_path / "index", shards, EXACT)
    assert len(folders) == shards
    q_BD = np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32)
    wanted = Index.build(vectors, config=EXACT).search(q_BD, 7)
    found = search_folder(tmp_path / "index", q_BD, 7)
    np.testing.assert_array_equal(found.items_BJ, wanted.items_BJ)
    np.testing.assert_allclose(found.scores_BJ, wanted.scores_BJ, rtol=1e-6)
    more = search_folder(tmp_path / "index", q_BD, 60)  # more than there are
    assert (more.items_BJ[:, 50:] == -1).all() and (
        np.sort(more.items_BJ[:, :50]) == np.arange(50)
    ).all()


def test_a_build_goes_on_after_a_kill(vectors, tmp_path, monkeypatch):
    build, built = sharded._build, []

    def killed(vectors, folder, config, rows):
        if rows.number == 2:
            raise KeyboardInterrupt
        built.append(rows.number)
        return build(vectors, folder, config, rows)

    monkeypatch.setattr(sharded, "_build", killed)
    with pytest.raises(KeyboardInterrupt):
        build_shards(tmp_path / "vectors.npy", tmp_path / "index", 4, EXACT)
    with pytest.raises(SearchError, match="no finished shards"):
        search_folder(tmp_path / "index", vectors[:1], 1)
    monkeypatch.setattr(sharded, "_build", lambda *a: built.append(a[-1].number) or build(*a))
    build_shards(tmp_path / "vectors.npy", tmp_path / "index", 4, EXACT)
    assert built == [0, 1, 2, 3]
    build_shards(tmp_path / "vectors.npy", tmp_path / "index", 4, EXACT)
    assert built == [0, 1, 2, 3]
    with pytest.raises(SearchError, match="of other vectors or settings"):
        build_shards(tmp_path / "vectors.npy", tmp_path / "index", 5, EXACT)


def test_the_command_takes_an_embedded_catalogue(tmp_path, capsys):
    embed = lambda texts: np.asarray([[len(t), 1.0, t.count("a")] for t in texts], np.float32)
    texts = ["a" * n + "b" * (20 - n) for n in range(20)]
    embed_catalog(texts, embed, tmp_path / "catalog", encoder="e", dim=3, block=6)
    np.save(tmp_path / "q.npy", embed(texts[3:5]))
    cfg = ShardedConfig(
        str(tmp_path / "catalog"), str(tmp_path / "index"), 3, EXACT,
        queries=str(tmp_path / "q.npy"), k=2, found=str(tmp_path / "found.npz"),
    )  # fmt: skip
    sharded.main(cfg)
    assert "wrote 3 shards" in capsys.readouterr().out
    with np.load(tmp_path / "found.npz") as found:
        assert found["items"][:, 0].tolist() == [3, 4] and found["scores"].shape == (2, 2)


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        ({}, "name --vectors to build"),
        ({"vectors": "none.npy"}, "there are no vectors .*none.npy"),
        ({"vectors": "text.npy"}, "is no array of numpy's"),
        ({"vectors": "flat.npy"}, r"holds float64 \(3,\), not floats"),
        ({"vectors": "vectors.npy", "shards": 51}, "51 shards of 50 vectors"),
        ({"vectors": "vectors.npy", "shards": 0}, "0 shards of 50 vectors"),
        ({"vectors": "bad.npy", "shards": 2}, r"shard 1 \(rows 2-3\): vector .* not finite"),
        ({"queries": "vectors.npy"}, "no finished shards"),
    ],
)
def test_a_mistake_is_one_line(cfg, said, vectors, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.npy").write_text("dear all")
    np.save("flat.npy", np.zeros(3))
    np.save("bad.npy", np.array([[1.0], [2.0], [np.nan], [3.0]]))
    with pytest.raises((SearchError, ShardError), match=said):
        sharded.main(ShardedConfig(**{"out": "index", "index": EXACT} | cfg))
    assert not (tmp_path / "index" / "shards.json").exists()


def test_a_damaged_head(vectors, tmp_path):
    build_shards(tmp_path / "vectors.npy", tmp_path / "index", 2, EXACT)
    (tmp_path / "index" / "shards.json").write_text(json.dumps([1])[:-1])
    with pytest.raises(SearchError, match="is damaged"):
        search_folder(tmp_path / "index", vectors[:1], 1)
