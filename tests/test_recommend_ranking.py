"""Ranking rows: splits, both protocols, seeds that are not run twice, and the command that makes them."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from jaxrec import config as config_files
from jaxrec import ranking
from jaxrec.config import RunError
from jaxrec.data.histories import Holdout, from_lists, histories, leave_one_out
from jaxrec.data.interaction_sets import DataConfig, read
from jaxrec.eval import recommend
from jaxrec.eval import recommend_measures as measures
from jaxrec.eval.recommend_ranking import RankingConfig, SampleWorld, main, repeats_said
from jaxrec.recommenders.item_knn import ItemKNN, ItemKNNConfig
from jaxrec.recommenders.popularity import Popularity, PopularityConfig
from jaxrec.world.events import interaction_set
from jaxrec.world.shops import make_shops

ROOT = Path(__file__).resolve().parent.parent
WORLD = SampleWorld(people=60)


@pytest.fixture(scope="module")
def world():
    return interaction_set(make_shops(WORLD.seed, WORLD.people))


def config(tmp_path, **changes) -> RankingConfig:
    plain = RankingConfig(
        name="tiny", data=WORLD, recommender=ItemKNNConfig(neighbours=20, width=4),
        diversity="categories", runs=str(tmp_path / "runs"), out=str(tmp_path / "out"),
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def test_the_world_is_a_data_set(world):
    shops = make_shops(WORLD.seed, WORLD.people)
    rows = histories(world.interactions)
    for person, row in zip(shops.people, rows, strict=True):
        assert sorted(person.items_T) == sorted(row)
    assert world.items.title == shops.catalog.title and len(world.shops) == 3
    assert (np.array(world.shops)[world.shop_I] == np.array(shops.catalog.shop)).all()


@pytest.mark.parametrize("by", ["leave_one_out", "time", "random"])
def test_splits_ask_about_events_that_are_not_learned_from(world, by):
    found = measures.split(world, by)
    asked = len(found.valid) + len(found.test)
    if by != "leave_one_out":
        assert len(found.train.item_T) + asked == len(world.interactions)
    for part in (found.valid, found.test):
        assert len(part) and len(part.histories) == len(part)
        learned = {(u, i) for u, row in enumerate(found.train) for i in row.tolist()}
        # nobody buys an item twice here, so a target that was learned from would show
        assert not learned & set(
            zip(part.histories.user_B.tolist(), part.target_B.tolist(), strict=True)
        )
    with pytest.raises(RunError, match="no published split"):
        measures.split(world, "published")


def test_negatives_are_uniform_over_what_a_person_lacks():
    asked = Holdout(from_lists([[0, 1, 2]] * 2000, 12), np.full(2000, 3))
    drawn_BJ = measures.negatives(asked, seed=0, count=4)
    assert (np.diff(np.sort(drawn_BJ, axis=1), axis=1) > 0).all()
    count_I = np.bincount(drawn_BJ.ravel(), minlength=12)
    assert not count_I[:4].any()
    np.testing.assert_allclose(count_I[4:] / 2000, 4 / 8, atol=0.05)
    with pytest.raises(RunError, match="all but 8: protocol=full"):
        measures.negatives(asked, seed=0)


def test_both_protocols_agree_with_ranks_worked_out_plainly(world):
    parts = leave_one_out(histories(world.interactions))
    floor = Popularity().fit(parts.train)
    scores_BI, seen_BI = floor.score(parts.test.histories), ranking.seen_items(parts.test.histories)
    full = measures.ask(floor, parts.test, "full", True, 10)
    assert (full.rank_B == ranking.ranks(scores_BI, parts.test.target_B, seen_BI)).all()
    free = measures.ask(floor, parts.test, "full", False, 10)
    assert (free.rank_B >= full.rank_B).all() and (free.rank_B > full.rank_B).any()
    sampled = measures.ask(floor, parts.test, "sampled-100", True, 10)
    assert sampled.rank_B.max() <= 100 and sampled.rank_B.mean() < full.rank_B.mean()
    rows = np.arange(len(parts.test))[:, None]
    assert not seen_BI[rows, full.items_BJ].any() and seen_BI[rows, free.items_BJ].any()


def test_lists_are_judged_as_they_are(world):
    class Lists(ItemKNN):
        lists_only = True

    parts = leave_one_out(histories(world.interactions))
    both = [kind(ItemKNNConfig(width=4)).fit(parts.train) for kind in (ItemKNN, Lists)]
    scored, listed = (measures.ask(model, parts.test, "full", True, 50) for model in both)
    inside = scored.rank_B <= 50
    assert inside.any() and (listed.rank_B[~inside] >= 50).all()
    # an item scored like the target counts against it, but in a list it may stand behind
    assert (listed.rank_B[inside] <= scored.rank_B[inside]).all()
    np.testing.assert_array_equal(scored.items_BJ, listed.items_BJ)
    with pytest.raises(RunError, match="scores no other items: protocol=full"):
        measures.ask(both[1], parts.test, "sampled-100", True, 50)


def test_repeats_count_the_same_by_scores_and_by_lists():
    """Popularity's one order, asked by both roads where every other target stands in its history already."""

    class Lists(Popularity):
        lists_only = True

    rng = np.random.default_rng(0)
    rows = from_lists([rng.integers(0, 30, 8).tolist() for _ in range(40)], 30)
    new_B = (~ranking.seen_items(rows)).argmax(1)
    target_B = np.where(np.arange(40) % 2, rows.item_T[rows.start_B[:-1]], new_B)
    asked, both = Holdout(rows, target_B), [kind().fit(rows) for kind in (Popularity, Lists)]
    # No two items are equally popular, or the roads would differ by how ties are broken.
    for model in both:
        model.count_I = model.count_I + np.linspace(0, 0.5, 30)
    for mask, missed in ((True, True), (False, False)):
        scored, listed = (measures.ask(model, asked, "full", mask, 30) for model in both)
        assert scored.measures((5, 10)) == listed.measures((5, 10))
        assert scored.repeat_B.tolist() == [False, True] * 20
        told = scored.measures((5, 10, 30))
        assert told["R@30_repeat"] == (0 if missed else 1) and told["R@30_new"] == 1
        assert told["R@5"] == pytest.approx((told["R@5_new"] + told["R@5_repeat"]) / 2)
        np.testing.assert_array_equal(scored.items_BJ, listed.items_BJ)


def test_the_share_of_repeats_is_said_and_an_echo_stands_beside(tmp_path, capsys, world):
    assert "repeats: 0 of" in repeats_said(np.zeros(3, bool), True)
    log = tmp_path / "repeats.csv"
    again = [
        (f"p{u}", f"i{i}", t) for u in range(12) for t, i in enumerate((u, u + 1, u + 2, u + 1))
    ]
    log.write_text("user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in again))
    cfg = config(tmp_path, name="repeats", data=DataConfig(path=str(log)), diversity="together")
    row, floor = main(dataclasses.replace(cfg, recommender=PopularityConfig()))
    assert floor["model"] == "echo" and row["repeats"] == floor["repeats"] == 1
    assert row["R@10"] == floor["R@10"] == 0 == floor["R@10_repeat"]
    assert floor["N@5_unmasked"] == pytest.approx(
        1 / np.log2(3)
    )  # the last but one, second in line
    assert "12 of 12 targets (100.00%) stand in their history; no list" in capsys.readouterr().out


def test_a_row_is_made_once_and_says_how(tmp_path, capsys):
    cfg = config(tmp_path, bar="R@10 .4", protocol="full")
    rows = main(cfg)
    assert [row["model"] for row in rows] == ["item_knn", "popularity", "oracle"]
    knn, floor, oracle = (row["R@10"] for row in rows)
    assert floor < knn < oracle
    row = rows[0]
    assert row["seeds"] == 1 and row["R@10_sd"] is None  # nothing is left to chance
    assert row["history"] == "masked" and row["diversity_by"] == "categories"
    assert 0 < row["coverage"] <= 1 and 0 < row["diversity"] < 1 and row["novelty"] > 0
    written = json.loads((tmp_path / "out" / "tiny.json").read_text())
    assert written["rows"][0]["R@10"] == knn and "oracle" in capsys.readouterr().out
    kept = tmp_path / "runs" / "tiny" / "seed_0" / "numbers.json"
    told = json.loads(kept.read_text())
    told["numbers"]["R@10"] = 0.125
    kept.write_text(json.dumps(told))
    assert main(cfg)[0]["R@10"] == 0.125
    # Where they were kept the file says who made them, not who wrote it.
    told["trained"] |= {"commit": "c" * 40}
    kept.write_text(json.dumps(told))
    assert [one["commit"] for one in main(cfg)[0]["trained"]] == ["c" * 40]
    del told["trained"]
    kept.write_text(json.dumps(told))
    assert "did not say" in main(cfg)[0]["trained"][0]["note"]
    with pytest.raises(RunError, match="another recommender: remove it"):
        main(dataclasses.replace(cfg, recommender=ItemKNNConfig(neighbours=5, width=4)))
    with pytest.raises(ValueError, match="ks must hold 5 and 10"):
        dataclasses.replace(cfg, ks=(10,))
    with pytest.raises(ValueError, match="seeds must be different"):
        dataclasses.replace(cfg, seeds=(1, 1))


def test_the_vectors_that_tell_how_diverse(world, tmp_path):
    train = leave_one_out(histories(world.interactions)).train
    marks, said = measures.diversity_vectors(world, train, "categories", tmp_path)
    assert said == "categories" and len(marks) == train.n_items and marks.sum(1).max() == 2
    near, said = measures.diversity_vectors(world, train, "together", tmp_path)
    assert said == "co-occurrence" and near.shape == (train.n_items, 64)
    bare = dataclasses.replace(world, items=dataclasses.replace(world.items, category=None))
    with pytest.raises(RunError, match="has no categories"):
        measures.diversity_vectors(bare, train, "categories", tmp_path)


def test_the_command_finds_the_table_by_the_files_class(tmp_path, capsys):
    file = tmp_path / "tiny.py"
    file.write_text(
        "from jaxrec.eval.recommend_ranking import RankingConfig, SampleWorld\n"
        "config = RankingConfig(name='tiny', data=SampleWorld(people=30), diversity='categories')\n"
    )
    flags = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    recommend.main([str(file), *flags, "--recommender.people", "--seeds", "4"])
    written = json.loads((tmp_path / "out" / "tiny.json").read_text())
    assert written["config"]["recommender"] == {"people": True} and written["seed"] == 4
    with pytest.raises(SystemExit) as stop:
        recommend.main([str(file), "--recommender.opt.lr", "1"])
    assert stop.value.code == 2
    assert "config: unknown field --recommender.opt.lr" in capsys.readouterr().err
    file.write_text("from jaxrec.training.loop import LoopConfig\nconfig = LoopConfig()\n")
    with pytest.raises(RunError, match="defines a LoopConfig; a recommenders' table"):
        recommend.main([str(file)])
    with pytest.raises(RunError, match="name an experiment file"):
        recommend.main([])
    recommend.main(["--help"])
    assert "python -m eval.recommend FILE --help" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("[!_]*.py")), ids=lambda p: p.stem)
def test_a_ranking_experiment_is_named_like_its_file(path):
    if "RankingConfig" in path.read_text():
        assert config_files.read_file(RankingConfig, path).name == path.stem


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("amazon14-beauty", {"R@5": 0.0075, "N@5": 0.0041, "R@10": 0.0115, "N@10": 0.0055}),
        ("amazon14-sports", {"R@5": 0.0057, "N@5": 0.0041, "R@10": 0.0091, "N@10": 0.0052}),
        ("ml-1m", {"R@10": 0.0394, "N@10": 0.0194}),
    ],
)
def test_popularity_of_the_public_sets(data_dir, name, wanted):
    """As known, ties in the order of numbers: worked out from the one list that all share, less what each has."""
    parts = measures.split(read(DataConfig(name)), "leave_one_out")
    model = Popularity(PopularityConfig()).fit(parts.train)
    place_I = np.argsort(np.argsort(-model.count_I, kind="stable"))
    before = place_I[parts.test.histories.item_T] < np.repeat(
        place_I[parts.test.target_B], parts.test.histories.length_B
    )
    row_T = parts.test.histories.row_T
    seen_before_B = np.bincount(row_T, before, len(parts.test)).astype(int)
    rank_B = place_I[parts.test.target_B] + 1 - seen_before_B
    found = ranking.measures(rank_B)
    assert {key: round(found[key], 4) for key in wanted} == wanted


HEAD = "user_id,item_id,timestamp\n"
DEGENERATE = {  # nothing that can be ranked, or that tells items apart: a line, or a table without nan
    "one_item": HEAD + "".join(f"u{i},x,{t}\n" for i in range(4) for t in range(4)),
    "all_taken": HEAD + "".join(f"u{i},i{t},{t}\n" for i in range(4) for t in range(4)),
    "only_own": HEAD + "".join(f"u{i},i{i}_{t},{t}\n" for i in range(4) for t in range(4)),
    "alike": HEAD + "".join(f"u{i},i{(i + t) % 5},{t}\n" for i in range(4) for t in range(3)),
    "two_each": HEAD + "".join(f"u{i},i{t},{t}\n" for i in range(4) for t in range(2)),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_sets_give_a_plain_word_or_a_table(tmp_path, name):
    (tmp_path / "x.csv").write_text(DEGENERATE[name])
    cfg = RankingConfig(
        name=name,
        data=DataConfig(path=tmp_path / "x.csv"),
        recommender=ItemKNNConfig(),
        runs=str(tmp_path / "runs"),
        out=str(tmp_path),
        diversity="together",
    )
    if name in ("one_item", "all_taken", "two_each"):
        with pytest.raises(
            measures.ProtocolError, match=r"nothing is left to rank|nobody has enough"
        ):
            main(cfg)
    else:
        (row,) = main(cfg)
        assert not [key for key, value in row.items() if value != value]
