"""The search benchmark on a toy: geometry of known sets, a generator that repeats itself, rows and plot written."""

import dataclasses
import json

import numpy as np
import pytest

from bench import report
from jaxrec import config
from jaxrec.config import ConfigError
from jaxrec.data.folder import DataMissing
from jaxrec.eval import search, search_fit, search_geometry, search_plan, search_serve, search_texts
from jaxrec.eval.search_vectors import BLOCK, SHAPE, Vectors
from jaxrec.retrieval.index_choice import IndexConfig

SMALL = dataclasses.replace(SHAPE, topics=8, subtopics=64)


def _sphere(d: int, n: int, width: int = 40) -> np.ndarray:
    """n points of the d-dimensional unit sphere, turned into `width` dimensions."""
    rng = np.random.default_rng(d)
    x_ID = rng.standard_normal((n, d + 1)).astype(np.float32)
    turn_DD = np.linalg.qr(rng.standard_normal((width, d + 1)))[0].astype(np.float32)
    return (x_ID / np.linalg.norm(x_ID, axis=1, keepdims=True)) @ turn_DD.T


@pytest.mark.parametrize("d", [2, 5])
def test_the_dimension_of_a_sphere_is_found(d):
    x_ID = _sphere(d, 8500)
    found = search_geometry.geometry(search_geometry.distances(x_ID[:8000], x_ID[8000:], 100))
    assert found["two_nn"] == pytest.approx(d, rel=0.15)
    assert found["mle_30"] == pytest.approx(d, rel=0.1)
    assert found["mle_100"] == pytest.approx(d, rel=0.1)
    # a sphere's points lie sqrt(2) apart on average, and a near one is n ** (-1/d) as far
    assert found["mean"] == pytest.approx(np.sqrt(2), rel=0.06)
    assert found["contrast_1"] > found["contrast_10"] > found["contrast_100"] > 1


def test_distances_fall_with_the_slope_that_the_dimension_gives():
    x_ID, sizes = _sphere(4, 8500), (500, 2000, 8000)
    near = [
        search_geometry.geometry(search_geometry.distances(x_ID[:n], x_ID[8000:], 20))["near_10"]
        for n in sizes
    ]
    assert search_geometry.slope(sizes, near)[1] == pytest.approx(-1 / 4, abs=0.02)
    assert search_geometry.extrapolated(sizes[:2], near[:2], 8000) == pytest.approx(
        near[2], rel=0.04
    )


def test_a_copy_among_the_vectors_does_not_break_two_nn():
    x_ID = _sphere(3, 3000)
    r_QK = search_geometry.distances(x_ID, x_ID[:200], 10).r_QK
    r_QK = np.concatenate([r_QK, search_geometry.distances(x_ID[500:], x_ID[:300], 10).r_QK])
    assert np.isfinite(search_geometry.two_nn(r_QK))


def test_the_generator_repeats_itself_in_any_order_of_blocks():
    made, again = (Vectors(2 * BLOCK + 100, 16, seed=3, shape=SMALL) for _ in range(2))
    blocks = {b: again.block(b) for b in (2, 0, 1)}
    for b, block_ID in enumerate(made.blocks()):
        np.testing.assert_array_equal(block_ID, blocks[b])
    assert [len(blocks[b]) for b in range(3)] == [BLOCK, BLOCK, 100]
    np.testing.assert_array_equal(made.array()[BLOCK : 2 * BLOCK], blocks[1])
    # fewer vectors are the beginning of more; another seed is another set
    np.testing.assert_array_equal(Vectors(50, 16, seed=3, shape=SMALL).block(0), blocks[0][:50])
    assert not np.allclose(Vectors(50, 16, seed=4, shape=SMALL).block(0), blocks[0][:50])
    with pytest.raises(IndexError, match="there are 3"):
        made.block(3)


def test_vectors_have_length_one_and_queries_are_no_copies():
    made = Vectors(5000, 32, shape=SMALL)
    x_ID, q_BD = made.array(), made.queries(200)
    assert x_ID.dtype == q_BD.dtype == np.float32
    for rows in (x_ID, q_BD):
        np.testing.assert_allclose((rows**2).sum(1), 1, rtol=1e-5)
    r_QK = search_geometry.distances(x_ID, q_BD, 1).r_QK
    assert r_QK.min() > 0.03
    np.testing.assert_array_equal(q_BD, made.queries(200))


def test_tight_subtopics_bring_neighbours_nearer():
    near = []
    for own in (0.2, 0.8):
        made = Vectors(4000, 32, shape=dataclasses.replace(SMALL, own=own))
        near.append(
            np.median(search_geometry.distances(made.array(), made.queries(100), 10).r_QK[:, 9])
        )
    assert near[0] < 0.7 * near[1]


def test_the_loss_of_a_shape_with_itself_is_zero():
    made = {100: dict.fromkeys(search_fit.MATCHED, 2.0)}
    assert search_fit.loss(made, made) == 0
    assert search_fit.loss(made, {100: dict.fromkeys(search_fit.MATCHED, 3.0)}) > 0.01


# ------------------------------------------------------------------------------------------ the benchmark


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The sample's configuration with few vectors, run with the serving process replaced by a call."""
    folder = tmp_path_factory.mktemp("search")
    cfg = config.read_file(search.SearchConfig, "configs/search/search_sample.py")
    cfg = dataclasses.replace(
        cfg, n=3000, dim=32, queries=40, work=str(folder / "work"), out=str(folder), threads=1
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_serve, "serve", lambda job, threads: search_serve.answer(job))
        rows = search.main(cfg)
    return cfg, rows, folder


def test_rows_and_plot_are_written(toy):
    cfg, rows, folder = toy
    record = json.loads((folder / "search_sample.json").read_text())
    assert record["rows"] == json.loads(json.dumps(rows))
    assert (folder / "search_sample.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(rows) == sum(len(entry.settings()) for entry in cfg.entries)
    assert record["geometry"]["contrast_10"] > 1 and record["shape"]["topics"] == SHAPE.topics
    assert (
        not (folder / "work" / "index").exists() and not (folder / "work" / "vectors.npy").exists()
    )


def test_the_table_shows_every_row_and_the_best(toy):
    _, rows, folder = toy
    record = json.loads((folder / "search_sample.json").read_text())
    best = record["best"] | {"bfloat16_total_p50_ms": 33.0, "bfloat16_encode_p50_ms": 25.0}
    best |= {"query_encoder": "all-mpnet-base-v2"}
    shown = report.search([("search_sample", record | {"best": best})])
    assert shown.count("\n| ") == 2 + len(rows)  # the head and its rule
    assert f"**{record['headline']}**" in shown
    assert (
        "bfloat16 query encoder: 33.0 ms end to end (encoding 25.0); queries by all-mpnet-base-v2."
        in shown
    )


def test_a_record_says_whether_the_query_encoder_has_real_weights(tmp_path, monkeypatch):
    from jaxrec.eval import search_query
    from jaxrec.hub import published

    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path))
    assert search_query.weights_there() == "random weights of all-mpnet-base-v2's shape"
    fetched = tmp_path / "models" / "mpnet" / published.SUMS
    fetched.parent.mkdir(parents=True)
    fetched.touch()
    assert search_query.weights_there() == "all-mpnet-base-v2"


def test_a_plan_follows_the_slopes():
    def rows(entry, n, scale):
        sizes = {"n_vectors": n, "structure_mb": n / 1000, "store_mb": n / 500, "build_s": n / 1e4}
        found = ((100, 0.98), (200, 0.99), (400, 0.999))
        return [
            {"entry": entry, "candidates": c * scale, "p50_ms": 1 + n / 1e5, "recall@10": r} | sizes
            for c, r in found
        ]

    both = rows("x, a quarter", 100_000, 1) + rows("x", 400_000, 2)
    one, four = search_plan.plan(both, "x, a quarter", "x", 1_600_000, 0.99, (1, 4))
    assert one["p50_ms"] == pytest.approx(17, rel=0.01) and four["p50_ms"] == pytest.approx(
        5, rel=0.01
    )
    assert (one["candidates"], four["candidates"]) == (
        800,
        400,
    )  # four times the vectors, twice the candidates
    assert one["build_s"] == 160 and four["vectors_each"] == 400_000
    assert search_plan.plan(both, "x, a quarter", "x", 10**6, 0.9999) == []
    assert search_plan.plan(both, "y", "x", 10**6, 0.99) == []


def test_flat_finds_all_and_more_cells_find_more(toy):
    _, rows, _ = toy
    by = lambda name: [row["recall@10"] for row in rows if row["entry"] == name]
    assert by("Flat") == [1.0]
    assert by("IVF, SQ8") == sorted(by("IVF, SQ8")) and by("IVF, SQ8")[0] < by("IVF, SQ8")[-1]
    assert {row["n_vectors"] for row in rows if row["entry"] == "HNSW, SQ8"} == {3000}
    assert all(row["p95_ms"] >= row["p50_ms"] > 0 and row["rss_mb"] > 10 for row in rows)


def test_a_serving_process_that_fails_says_why(tmp_path):
    np.save(tmp_path / "q.npy", np.zeros((2, 4), np.float32))
    job = search_serve.Job(str(tmp_path / "none"), str(tmp_path / "q.npy"), ({},))
    with pytest.raises(search_serve.ServeError, match="there is no index in"):
        search_serve.serve(job, threads=1)


def test_an_entry_that_is_not_there_is_refused():
    entry = search.Entry("Flat", IndexConfig(kind="flat"))
    with pytest.raises(ConfigError, match="the entries are Flat"):
        search.main(search.SearchConfig(entries=(entry,), only=("HNSW",)))


def test_settings_are_all_combinations():
    entry = search.Entry("x", IndexConfig(), nprobe=(1, 2), candidates=(10, 20))
    assert len(entry.settings()) == 4 and {"nprobe": 2, "candidates": 10} in entry.settings()
    assert search.Entry("x", IndexConfig()).settings() == ({},)


def test_long_texts_are_cut_at_their_sentences():
    text = "A first sentence that is short. " + "x" * 380 + ". The last one!"
    assert list(search_texts.pieces(text)) == [
        "A first sentence that is short.", "x" * 380 + ".", "The last one!",
    ]  # fmt: skip
    assert list(search_texts.pieces("User 1:  I like   tea")) == ["I like tea"]
    assert list(search_texts.pieces("ok")) == []


def test_without_data_the_texts_say_what_to_set(monkeypatch):
    monkeypatch.delenv("JAXREC_DATA", raising=False)
    with pytest.raises(DataMissing, match="JAXREC_DATA"):
        search_texts.all_texts()


def test_texts_come_once_each(data_dir):
    path = data_dir / "bank-faqs"
    texts = list(search_texts.SOURCES["bank-faqs"](path))
    assert len(texts) > 2000 and all(isinstance(text, str) for text in texts)
