"""Generative recommenders: what a place may know, packing and padding change nothing, the verbs on a planted cycle."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.data.histories import Holdout, from_lists
from jaxrec.data.item_codes import ItemCodes, ItemCodesError
from jaxrec.losses.tokens import next_codes
from jaxrec.models.items.code_layers import LayersConfig
from jaxrec.models.items.generative_rec import CodeDecoder, CodeDecoderConfig, item_vectors
from jaxrec.models.items.semantic_id import RqVaeConfig
from jaxrec.models.items.tiger import Tiger, TigerConfig
from jaxrec.objectives.generative_rec import tiger
from jaxrec.recommenders.generative_rec import GenerativeRec, GenerativeRecConfig, prefixes
from jaxrec.recommenders.item_codes import SemanticIdConfig, taken_together
from jaxrec.recommenders.recommender import NotFitted
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

SIZES = (4, 3, 2)
SMALL = LayersConfig(d_model=16, layers=2, heads=2, head_dim=8, d_ff=32, dropout=0.0, init_std=0.3)


def random_codes(*shape: int, seed: int = 0) -> jnp.ndarray:
    rng = np.random.default_rng(seed)
    return jnp.asarray(np.stack([rng.integers(0, c, shape) for c in SIZES], -1))


# ---------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize("form", ["nested", "flat"])
def test_a_place_knows_its_past_and_its_own_codes_so_far(form):
    model = CodeDecoder(CodeDecoderConfig(SIZES, form, SMALL, d_depth=16, input_dropout=0.0))
    codes_BLQ = random_codes(1, 6)
    segments_BL = jnp.array([[1, 1, 1, 2, 2, 0]])
    positions_BL = jnp.array([[0, 1, 2, 0, 1, 0]])
    next_BLQ = jnp.roll(codes_BLQ, -1, axis=1)
    params = model.init(jax.random.key(0), codes_BLQ, next_BLQ, segments_BL, positions_BL)["params"]
    run = jax.jit(lambda *rows: model.apply({"params": params}, *rows)[0])
    base = np.asarray(run(codes_BLQ, next_BLQ, segments_BL, positions_BL))
    assert (
        base.shape == (6, 3, 4) and (base[:, 1, 3] < -1e8).all() and (base[:, 2, 2:] < -1e8).all()
    )
    moved = lambda other: np.abs(np.asarray(other) - base).max(-1) > 1e-6

    # another item at place 1 (with the place before it, which is told of it as its successor)
    items = codes_BLQ.at[0, 1].set((codes_BLQ[0, 1] + 1) % jnp.array(SIZES))
    seen = moved(run(items, jnp.roll(items, -1, axis=1), segments_BL, positions_BL))
    assert not seen[0, 0] and seen[0, 1:].all()  # level 0 of place 0 can't know its successor
    assert seen[1:3].all() and not seen[3:].any()  # and the second person knows nothing of it
    # only a successor's last code: known to nobody at that place
    last = next_BLQ.at[0, 4, 2].set(1 - next_BLQ[0, 4, 2])
    assert not moved(run(codes_BLQ, last, segments_BL, positions_BL)).any()
    # packed or alone, at whatever positions
    alone = run(codes_BLQ[:, 3:5], next_BLQ[:, 3:5], jnp.ones((1, 2), int), jnp.array([[7, 8]]))
    np.testing.assert_allclose(alone, base[3:5], atol=1e-4)


def test_tiger_ignores_padding_and_knows_its_user():
    model = Tiger(TigerConfig(SIZES, SMALL, users=5))
    codes_BLQ, next_BQ = random_codes(2, 4), random_codes(2, seed=1)
    mask_BL = jnp.array([[False, False, True, True]] * 2)
    args = codes_BLQ, mask_BL, jnp.array([2, 7]), next_BQ
    params = model.init(jax.random.key(0), *args)["params"]
    run = jax.jit(lambda *rows: model.apply({"params": params}, *rows))
    base = run(*args)
    other = codes_BLQ.at[:, :2].set(random_codes(2, 2, seed=3))
    np.testing.assert_allclose(run(other, *args[1:]), base, atol=1e-5)
    again = run(codes_BLQ, mask_BL, jnp.array([7, -1]), next_BQ)  # 7 is 2, modulo 5
    np.testing.assert_allclose(again[0], base[0], atol=1e-5)
    assert np.abs(again[1] - base[1])[:, :2].max() > 1e-4
    loss, weigh = tiger(model)
    items = jnp.array([[-1, -1, 3, 1], [-1, -1, -1, -1]])
    batch = {"items": items, "target": jnp.array([2, -1]), "user": jnp.array([0, -1])}
    frozen = {"codes": random_codes(5, seed=4)}
    value, aux = loss(params, frozen, None, batch, weigh(batch), None)
    log_p = jax.nn.log_softmax(
        run(
            frozen["codes"][jnp.maximum(items, 0)],
            items >= 0,
            batch["user"],
            frozen["codes"][jnp.array([2, 0])],
        )[0]
    )
    told = -sum(float(log_p[q, frozen["codes"][2, q]]) for q in range(3))
    assert float(aux.metrics["nll_item"]) == pytest.approx(told, rel=1e-5)
    assert float(value) == pytest.approx(told / 3, rel=1e-5)


def test_smoothed_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[[[0.7, 0.2, 0.1], [0.5, 0.5, 1e-30]]]]))
    found = next_codes(logits, jnp.array([[[0, 1]]]), jnp.array([[2.0]]), (3, 2), 0.3)
    nll = -np.log(0.7) - np.log(0.5)
    even = -np.log([0.7, 0.2, 0.1]).mean() - np.log(0.5)
    assert float(found["nll"]) == pytest.approx(2 * nll, rel=1e-5)
    assert float(found["loss"]) == pytest.approx(2 * (0.7 * nll + 0.3 * even), rel=1e-5)
    assert found["correct_Q"].tolist() == [2.0, 0.0]


def test_item_vectors_sum_their_codes():
    table_QCD = jnp.arange(12.0).reshape(2, 3, 2)
    found = item_vectors(table_QCD, jnp.array([[0, 1], [2, 2]]))
    np.testing.assert_array_equal(found, [[8.0, 10.0], [14.0, 16.0]])


# ---------------------------------------------------------------------------------- the recommender

ITEMS = 24


def people(count: int, seed: int):
    """Everybody walks along one cycle of all items, from a place of their own: what comes next is certain."""
    rng = np.random.default_rng(seed)
    rows = [((start + np.arange(length)) % ITEMS).tolist() for start, length in zip(
        rng.integers(0, ITEMS, count), rng.integers(3, 9, count), strict=True)]  # fmt: skip
    return from_lists(rows, ITEMS)


CONFIG = GenerativeRecConfig(
    ids=SemanticIdConfig("rqkmeans", RqVaeConfig(sizes=(4, 4)), "extra"),
    together=8,
    model=CodeDecoderConfig(
        layers=dataclasses.replace(SMALL, d_model=32, layers=1, dropout=0.05, init_std=0.05), d_depth=32,
        input_dropout=0.05,
    ),
    max_length=8, width=16, rows=16, epochs=12, evaluate_every=6, sample=40, beams=8,
    valid_beams=8, people=32, opt=OptConfig(lr=1e-2, warmup=5),
    loop=LoopConfig(monitor="N@10", mode="max", log_every=50, progress=False),
)  # fmt: skip


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    train, asked = people(200, 0), people(50, 1)
    valid = Holdout(asked.without_last(1), asked.item_T[asked.start_B[1:] - 1])
    out = tmp_path_factory.mktemp("generative")
    return GenerativeRec(CONFIG).fit(train, valid, out), valid


def test_fit_finds_the_planted_cycle(fitted):
    model, valid = fitted
    found = model.recommend(valid.histories, 5)
    assert (found.items_BJ[:, 0] == valid.target_B).mean() > 0.6  # chance: 1 / 24
    assert (np.diff(found.scores_BJ, axis=1) <= 0).all()
    for row, items in zip(valid.histories, found.items_BJ, strict=True):
        assert len(set(items)) == 5 and not set(items) & set(row)
    assert model.facts["value"] > 0.8 and model.facts["ids"]["collisions"] == 0
    # a person alone is told what they are told among others, scores are those of the list
    alone = model.recommend(valid.histories.take(np.array([7])), 5)
    np.testing.assert_array_equal(alone.items_BJ[0], found.items_BJ[7])
    scores_BI = model.score(valid.histories.take(np.array([7])))
    best = int(scores_BI[0].argmax())
    assert np.isfinite(scores_BI).sum() == 8 and scores_BI.shape == (1, ITEMS)
    assert best == found.items_BJ[7, 0]


def test_saved_and_loaded_it_says_the_same(fitted, tmp_path):
    model, valid = fitted
    model.save(tmp_path / "model")
    again = GenerativeRec.load(tmp_path / "model")
    asked = valid.histories.take(np.arange(5))
    np.testing.assert_array_equal(again.recommend(asked).items_BJ, model.recommend(asked).items_BJ)
    assert model.similar_items(np.array([3]), 4).items_BJ.shape == (1, 4)
    assert model.item_vectors().shape == (ITEMS, 32)


def test_bad_input(tmp_path):
    with pytest.raises(NotFitted):
        GenerativeRec(CONFIG).recommend(people(2, 0))
    ItemCodes(np.arange(6)[:, None], (6,)).save(tmp_path)
    other = dataclasses.replace(CONFIG, ids_folder=str(tmp_path))
    with pytest.raises(ItemCodesError, match="names 6 items, the histories know 24"):
        GenerativeRec(other).fit(people(5, 0), None, tmp_path / "out")
    with pytest.raises(ItemCodesError, match="outside its level"):
        ItemCodes(np.array([[3, 0]]), (3, 2))


def test_prefixes_are_every_next_item_after_what_came_before():
    train = from_lists([[5, 6, 7, 8], [9], [1, 2]], 10)
    arrays, make = prefixes(train, 2)
    batch = make(arrays)
    assert batch["target"].tolist() == [6, 7, 8, 2] and batch["user"].tolist() == [0, 0, 0, 2]
    assert batch["items"].tolist() == [[-1, 5], [5, 6], [6, 7], [-1, 1]]


def test_items_taken_together_are_close():
    rows = [[0, 1, 2], [2, 1, 0], [1, 0]] * 5 + [[3, 4, 5], [5, 3, 4]] * 5
    vectors_IE = taken_together(from_lists(rows, 7), 2)
    cosine = vectors_IE @ vectors_IE.T
    assert cosine[0, 1] > 0.9 and cosine[3, 5] > 0.9 and abs(cosine[0, 4]) < 0.1
    assert not vectors_IE[6].any()  # taken by nobody
