"""One suite for every recommender: planted blocks of taste, and what all of them promise.

Four blocks of eight items; a person takes six items of one block. Popularity, which knows no taste, is planted apart.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from jaxrec.checkpoint import CheckpointError
from jaxrec.config import RunError
from jaxrec.data.histories import Histories, from_lists, leave_one_out
from jaxrec.models.items.code_layers import LayersConfig
from jaxrec.models.items.deepmf import DeepMFShape
from jaxrec.models.items.generative_rec import CodeDecoderConfig
from jaxrec.models.items.gru import GRUConfig
from jaxrec.models.items.hstu import HSTUConfig
from jaxrec.models.items.semantic_id import RqVaeConfig
from jaxrec.models.items.sequential import SASRecConfig
from jaxrec.objectives.sequential import SequentialLoss
from jaxrec.recommenders import kinds
from jaxrec.recommenders.bpr import BPRConfig
from jaxrec.recommenders.cross_domain import CrossDomainConfig
from jaxrec.recommenders.deepmf import DeepMFConfig
from jaxrec.recommenders.deepmf_fit import FitConfig
from jaxrec.recommenders.generative_rec import GenerativeRecConfig
from jaxrec.recommenders.implicit_als import ALSConfig
from jaxrec.recommenders.item_codes import SemanticIdConfig
from jaxrec.recommenders.item_knn import ItemKNNConfig
from jaxrec.recommenders.popularity import Popularity, PopularityConfig
from jaxrec.recommenders.recommender import NotFitted, NothingToLearn, top
from jaxrec.recommenders.sequential import SequentialConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

BLOCKS, EACH, PEOPLE, TAKEN = 4, 8, 96, 6
ITEMS = BLOCKS * EACH
OPT = OptConfig(lr=1e-2, schedule="constant", b2=0.999, clip=0.0)
LOOP = LoopConfig(monitor="N@10", mode="max", log_every=1000, progress=False)
SMALL = {"d_model": 16, "layers": 1, "max_length": 8, "dropout": 0.1}


def sequential(model) -> SequentialConfig:
    return SequentialConfig(
        model=model, loss=SequentialLoss("full"), width=16, positions=256, epochs=25, opt=OPT,
        loop=LOOP,
    )  # fmt: skip


CONFIGS = {
    "popularity": PopularityConfig(),
    "item_knn": ItemKNNConfig(neighbours=8, shrink=1.0, width=8),
    "bpr": BPRConfig(width=8, rows=64, updates=4, epochs=40, evaluate_every=20, opt=OPT, loop=LOOP),
    "sasrec": sequential(SASRecConfig(**SMALL, d_ff=32, attention_dropout=0.1)),
    "hstu": sequential(HSTUConfig(**SMALL, head_dim=8)),
    "gru": sequential(GRUConfig(d_model=16, d_hidden=16, max_length=8, dropout=0.1)),
    "deepmf": DeepMFConfig(
        DeepMFShape(width=8, hidden=(16,), dot=True),
        fit=FitConfig(batch=64, epochs=40, opt=OPT, valid_share=0.0, devices=1),
    ),
    "generative_rec": GenerativeRecConfig(
        ids=SemanticIdConfig("rqkmeans", RqVaeConfig(sizes=(4, 8)), "extra"),
        together=8,
        model=CodeDecoderConfig(
            layers=LayersConfig(d_model=16, layers=1, heads=2, head_dim=8, d_ff=32, dropout=0.0),
            d_depth=32, input_dropout=0.0,
        ),
        max_length=8, width=16, rows=16, epochs=40, evaluate_every=20, sample=0, beams=16,
        valid_beams=16, people=32, opt=OptConfig(lr=1e-2, warmup=5), loop=LOOP,
    ),
    "cross_domain": CrossDomainConfig(als=ALSConfig(width=8)),
}  # fmt: skip


def planted() -> Histories:
    """Person u likes block u mod 4: six of its items in random order, rated 5, then one of another block, rated 1."""
    rng = np.random.default_rng(0)
    rows = [
        u % BLOCKS * EACH + rng.permutation(EACH)[: TAKEN + 2]  # two are held out
        for u in range(PEOPLE)
    ]
    return from_lists([row.tolist() for row in rows], ITEMS)


def rated(histories: Histories) -> Histories:
    """With one disliked item of each other block put before every row, and ratings, for models that learn from them."""
    rng = np.random.default_rng(1)
    rows = []
    for row in histories:
        others = [b for b in range(BLOCKS) if len(row) and b != row[0] // EACH]
        rows.append([int(b * EACH + rng.integers(EACH)) for b in others] + row.tolist())
    found = from_lists(rows, ITEMS, histories.user_B)
    block_T = found.item_T // EACH
    liked_T = block_T == block_T[found.start_B[1:] - 1][found.row_T]
    return dataclasses.replace(
        found, rating_T=np.where(liked_T, 5.0, 1.0).astype(np.float32), n_users=histories.n_users
    )


SPLIT = leave_one_out(planted())
ASKED = SPLIT.test.histories


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A fitted recommender, and what it is asked about."""

    kind: str
    model: object
    asked: Histories
    block_B: np.ndarray
    folder: Path


@pytest.fixture(scope="module", params=CONFIGS)
def fitted(request, tmp_path_factory) -> Fitted:
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    model, wrap = kinds.make(CONFIGS[kind]), rated if kind == "deepmf" else lambda rows: rows
    assert model.fit(wrap(SPLIT.train), SPLIT.valid, folder / "fit") is model
    model.save(folder / "model")
    rows = np.arange(40)
    return Fitted(kind, model, wrap(ASKED).take(rows), rows % BLOCKS, folder / "model")


def right_block(items_BJ: np.ndarray, block_B: np.ndarray) -> float:
    return float((items_BJ // EACH == block_B[:, None]).mean())


def test_recommends_what_is_left_of_a_persons_own_block(fitted):
    left = EACH - fitted.asked.length_B.max() if fitted.kind != "deepmf" else 1
    found = fitted.model.recommend(fitted.asked, int(left))
    assert (np.diff(found.scores_BJ, axis=1) <= 0).all()
    if fitted.kind != "popularity":
        assert right_block(found.items_BJ, fitted.block_B) > 0.9


def test_seen_items_are_masked_or_not(fitted):
    own = [set(row.tolist()) for row in fitted.asked]
    masked = fitted.model.recommend(fitted.asked, 10).items_BJ
    assert not any(own[b] & set(row.tolist()) for b, row in enumerate(masked))
    free = fitted.model.recommend(fitted.asked, 10, mask_seen=False).items_BJ
    assert any(own[b] & set(row.tolist()) for b, row in enumerate(free))


def test_more_than_there_are_items(fitted):
    asked = fitted.asked.take(np.arange(8))
    found = fitted.model.recommend(asked, ITEMS + 5)
    assert found.items_BJ.shape == found.scores_BJ.shape == (8, ITEMS + 5)
    assert (found.scores_BJ[found.items_BJ < 0] == -np.inf).all()
    for b, row in enumerate(found.items_BJ):
        count = ITEMS - len(set(asked[b].tolist()))
        assert sorted(row[:count].tolist()) == sorted(set(range(ITEMS)) - set(asked[b].tolist()))
        assert (row[count:] == -1).all()


def test_scores_rank_as_the_lists_do(fitted):
    if fitted.model.lists_only:
        pytest.skip("its lists come from a search")
    scores_BI = fitted.model.score(fitted.asked)
    assert scores_BI.shape == (len(fitted.asked), ITEMS) and np.isfinite(scores_BI).all()
    free = fitted.model.recommend(fitted.asked, 5, mask_seen=False)
    np.testing.assert_array_equal(free.items_BJ, top(scores_BI, 5).items_BJ)
    order = np.random.default_rng(2).permutation(len(fitted.asked))
    again_BI = fitted.model.score(fitted.asked.take(order))
    np.testing.assert_allclose(again_BI, scores_BI[order], rtol=1e-4, atol=1e-5)


def test_similar_items_stay_in_the_block_without_the_item_itself(fitted):
    items_B = np.arange(0, ITEMS, 3)
    found = fitted.model.similar_items(items_B, 4)
    assert (found.items_BJ != items_B[:, None]).all() and (found.items_BJ >= 0).all()
    vectors_IE = fitted.model.item_vectors()
    assert len(vectors_IE) == ITEMS and np.isfinite(vectors_IE).all()
    if fitted.kind != "popularity":
        assert right_block(found.items_BJ, items_B // EACH) > 0.9


def test_somebody_without_a_history_gets_a_list(fitted):
    rows = from_lists([[], []], ITEMS, np.array([0, -1]))
    rows = dataclasses.replace(rows, rating_T=np.zeros(0, np.float32))
    found = fitted.model.recommend(rows, 5)
    assert found.items_BJ.shape == (2, 5) and (found.items_BJ >= 0).all()
    assert not fitted.model.recommend(rows.take(np.arange(0)), 5).items_BJ.size


def test_somebody_nobody_knows_is_told_by_their_history(fitted):
    stranger = dataclasses.replace(fitted.asked, user_B=np.full(len(fitted.asked), -1))
    found = fitted.model.recommend(stranger, 1)
    if fitted.kind != "popularity":
        assert right_block(found.items_BJ, fitted.block_B) > 0.8


def test_saved_and_loaded_gives_the_same_lists(fitted):
    again = kinds.load(fitted.folder)
    assert type(again) is type(fitted.model) and again.config == fitted.model.config
    mine, other = (model.recommend(fitted.asked, 8) for model in (fitted.model, again))
    np.testing.assert_array_equal(mine.items_BJ, other.items_BJ)
    np.testing.assert_array_equal(mine.scores_BJ, other.scores_BJ)


@pytest.mark.parametrize("damage", ["cut", "facts", "strange"])
def test_a_folder_that_is_not_whole_is_refused(fitted, damage, tmp_path):
    folder = tmp_path / "model"
    fitted.model.save(folder)
    if damage == "cut":
        for path in (folder / "params").rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "facts":
        (folder / "facts.json").unlink()
    else:
        (folder / "facts.json").write_text('{"kind": "oracle"}')
    with pytest.raises(CheckpointError):
        kinds.load(folder)


@pytest.mark.parametrize("kind", CONFIGS)
def test_not_fitted_and_nothing_to_learn_are_said(kind, tmp_path):
    model = kinds.make(CONFIGS[kind])
    for ask in (
        lambda: model.recommend(ASKED, 3),
        lambda: model.similar_items(np.arange(2)),
        lambda: model.save(tmp_path),
    ):
        with pytest.raises(NotFitted):
            ask()
    nothing = from_lists([[], []], ITEMS)
    nothing = dataclasses.replace(nothing, rating_T=np.zeros(0, np.float32))
    with pytest.raises(RunError) as error:
        kinds.make(CONFIGS[kind]).fit(nothing, None, tmp_path)
    assert "\n" not in str(error.value)


def test_popularity_counts_events_or_people():
    train = from_lists([[0, 0, 0, 1], [1, 2], [2, 1]], 4)
    asked = from_lists([[1]], 4)
    assert Popularity().fit(train).recommend(asked, 4).items_BJ.tolist() == [[0, 2, 3, -1]]
    people = Popularity(PopularityConfig(people=True)).fit(train)
    assert people.recommend(asked, 4).items_BJ.tolist() == [[2, 0, 3, -1]]
    assert people.similar_items(np.array([1]), 2).items_BJ.tolist() == [[2, 0]]
    with pytest.raises(NothingToLearn):
        Popularity().fit(from_lists([[]], 4))


def test_kinds_know_their_configs_and_seeds():
    for config in CONFIGS.values():
        assert kinds.make(config).kind == kinds.kind_of(config)
        seeded = kinds.with_seed(config, 7)
        changed = not isinstance(config, PopularityConfig | ItemKNNConfig)
        assert (seeded != config) == changed and kinds.with_seed(seeded, 0) == config
    assert kinds.with_seed(CONFIGS["bpr"], 7).loop.seed == 7
    with pytest.raises(TypeError, match="a LoopConfig configures no recommender"):
        kinds.make(LOOP)
    assert set(kinds.config_classes()) == {type(config) for config in CONFIGS.values()}


def test_ties_at_the_end_of_a_list_go_to_the_first_numbers():
    scores = np.array([[1.0, 2, 1, 1, 2, 1], [0, 0, 0, 0, 0, 0], [np.nan, 3, np.nan, 1, 2, 0]])
    assert top(scores, 4).items_BJ.tolist() == [[1, 4, 0, 2], [0, 1, 2, 3], [1, 4, 3, 5]]
    assert top(scores[2:], 6).items_BJ.tolist() == [[1, 4, 3, 5, -1, -1]]
