"""Rating tables: folds, floors, rows, finished parts kept, and the rounds of sequential SGD."""

import json

import numpy as np
import pytest

from jaxrec import config
from jaxrec.data.histories import Interactions
from jaxrec.data.interaction_sets import DataConfig
from jaxrec.eval import recommend_rating
from jaxrec.eval.rating_floors import rounds, svd_floor
from jaxrec.eval.recommend_rating import RatingConfig, RatingModel
from jaxrec.models.items.deepmf import DeepMFShape
from jaxrec.recommenders.deepmf import DeepMFConfig
from jaxrec.recommenders.deepmf_fit import FitConfig
from jaxrec.training.optimizer import OptConfig


def toy(seed: int = 0) -> Interactions:
    """200 ratings whose person and item say nearly all."""
    rng = np.random.default_rng(seed)
    user, item = np.divmod(rng.permutation(400)[:200], 20)
    rating = np.clip(np.round(1 + user % 3 + item % 3 + 0.2 * rng.normal(size=200)), 1, 5)
    names = tuple(map(str, range(20)))
    return Interactions(user, item, names, names, rating.astype(np.float32), np.arange(200))


@pytest.fixture
def cfg(tmp_path):
    events = toy()
    rows = zip(events.user_T, events.item_T, events.rating_T, events.time_T, strict=True)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    lines += [f"{u}\t{i}\t{r:.0f}\t{t}" for u, i, r, t in rows]
    (tmp_path / "toy.inter").write_text("\n".join(lines) + "\n")
    shape = DeepMFShape(width=4, hidden=(), dot=True, biases=True, output="linear")
    opt = OptConfig(lr=3e-2, schedule="constant", b2=0.999, clip=0.0)
    member = DeepMFConfig(
        shape, fit=FitConfig(batch=64, epochs=10, opt=opt, valid_share=0.0, devices=1)
    )
    return RatingConfig(
        name="toy", data=DataConfig(path=tmp_path / "toy.inter"), folds=(3,), seeds=(0, 1),
        models=(RatingModel("two", (member, member)),), runs=str(tmp_path / "runs"), out=str(tmp_path / "out"),
    )  # fmt: skip


def test_the_table(cfg, tmp_path):
    rows = {row["model"]: row for row in recommend_rating.main(cfg)}
    assert rows["two"]["RMSE"] < 0.6 < rows["global mean"]["RMSE"]
    assert rows["two"]["members"] == 2 and rows["two"]["seeds"] == 2 and rows["two"]["folds"] == 1
    assert rows["two"]["RMSE_sd"] > 0 and rows["damped biases"]["RMSE_sd"] is None
    assert "held out: 4" in rows["two"]["protocol"] and not rows["two"]["timed"]
    record = json.loads((tmp_path / "out" / "toy.json").read_text())
    assert record["name"] == "recommend" and len(record["rows"]) == 4
    parts = list((tmp_path / "runs" / "toy").glob("*.json"))
    assert len(parts) == 1 + 1 + 2 + 2
    before = {part: part.stat().st_mtime_ns for part in parts}
    assert {row["model"]: row["RMSE"] for row in recommend_rating.main(cfg)} == {
        name: row["RMSE"] for name, row in rows.items()
    }
    assert before == {part: part.stat().st_mtime_ns for part in parts}


def test_rounds_go_through_the_ratings_in_order():
    events = toy()
    at_RX = rounds(events.user_T, events.item_T, width=8)
    assert sorted(at_RX[at_RX < 200]) == list(range(200))
    last: dict = {}
    for number, row in enumerate(at_RX):
        for n in np.sort(row[row < 200]):
            for who in (("u", events.user_T[n]), ("i", events.item_T[n])):
                assert last.get(who, (-1, -1)) < (n, number) and last.get(who, (-1, -1))[1] < number
                last[who] = (n, number)


def test_sgd_in_rounds_is_sgd_one_rating_at_a_time():
    train, width = toy(), 3
    rng = np.random.default_rng(4)
    draw = lambda: np.pad(rng.normal(0, 0.1, (21, width)).astype(np.float32), ((0, 0), (0, 1)))
    p, q, mean = draw(), draw(), train.rating_T.mean()
    for n in rng.permutation(200):
        u, i = train.user_T[n], train.item_T[n]
        pu, qi = p[u].copy(), q[i].copy()
        error = train.rating_T[n] - mean - pu[-1] - qi[-1] - pu[:-1] @ qi[:-1]
        p[u] += 0.005 * (error * np.append(qi[:-1], 1) - 0.02 * pu)
        q[i] += 0.005 * (error * np.append(pu[:-1], 1) - 0.02 * qi)
    wanted = mean + p[train.user_T, -1] + q[train.item_T, -1]
    wanted += np.einsum("te,te->t", p[train.user_T, :-1], q[train.item_T, :-1])
    np.testing.assert_allclose(svd_floor(train, train, 4, width, epochs=1), wanted, atol=1e-4)


def test_bad_input(cfg, tmp_path):
    for wrong in ({"seeds": ()}, {"folds": (5,)}, {"models": ()}):
        with pytest.raises(config.ConfigError):
            recommend_rating.main(RatingConfig(**{"runs": str(tmp_path), **wrong}))
