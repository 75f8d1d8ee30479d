"""Beam search ends at real items only, finds what brute force finds, and does what a Python trie's search does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.data.item_codes import ItemCodesError
from jaxrec.models.items import code_beam
from jaxrec.models.items.code_layers import LayersConfig
from jaxrec.models.items.generative_rec import CodeDecoder, CodeDecoderConfig
from jaxrec.models.items.tiger import Tiger, TigerConfig

SIZES = (5, 4, 6)
SMALL = LayersConfig(d_model=16, layers=2, heads=2, head_dim=8, d_ff=32, dropout=0.1, init_std=0.5)
MODELS = {
    "nested": CodeDecoder(CodeDecoderConfig(SIZES, "nested", SMALL, d_depth=16)),
    "flat": CodeDecoder(CodeDecoderConfig(SIZES, "flat", SMALL)),
    "tiger": Tiger(TigerConfig(SIZES, SMALL, users=7)),
}
LENGTHS = np.array([4, 1, 3])


def catalogue(items: int = 30) -> np.ndarray:
    every = np.stack(np.meshgrid(*map(np.arange, SIZES), indexing="ij"), -1).reshape(-1, 3)
    return np.random.default_rng(0).permutation(every)[:items]


CODES_IQ = catalogue()
TRIE = code_beam.build(CODES_IQ)


@pytest.fixture(scope="module", params=MODELS)
def asked(request):
    """(model, parameters, histories as codes, their mask), the model's weights large enough to matter."""
    model = MODELS[request.param]
    items_BL = np.random.default_rng(1).integers(0, len(CODES_IQ), (3, 4))
    mask_BL = jnp.asarray(np.arange(4)[None] >= 4 - LENGTHS[:, None])
    codes_BLQ = jnp.asarray(CODES_IQ[items_BL])
    return model, init(model, codes_BLQ), codes_BLQ, mask_BL


def init(model, codes_BLQ):
    ones = jnp.ones(codes_BLQ.shape[:2], jnp.int32)
    if isinstance(model, Tiger):
        args = codes_BLQ, ones > 0, ones[:, 0], codes_BLQ[:, 0]
    else:
        args = codes_BLQ, codes_BLQ, ones, ones
    return jax.jit(lambda key: model.init(key, *args)["params"])(jax.random.key(0))


def searched(model, params, codes_BLQ, mask_BL, beams, banned_BS=None):
    def run(params, codes_BLQ, mask_BL):
        apply = lambda method, *args: model.apply({"params": params}, *args, method=method)
        start = apply("start", codes_BLQ, mask_BL, code_beam.free_slots(TRIE, beams))
        extend = lambda *args: apply("extend", *args)
        return code_beam.search(TRIE, *start, extend, beams, banned_BS)

    return jax.tree.map(np.asarray, jax.jit(run)(params, codes_BLQ, mask_BL))


def log_probs(model, params, codes_BLQ, mask_BL) -> np.ndarray:
    """[rows, items, Q]: of every item's codes by the *training* forward pass, one history and item at a time."""

    @jax.jit
    def logits_of(codes_BLQ, mask_BL, next_BQ):
        if isinstance(model, Tiger):
            nobody = jnp.full((len(next_BQ),), -1)
            return model.apply({"params": params}, codes_BLQ, mask_BL, nobody, next_BQ)
        next_BLQ = jnp.concatenate([codes_BLQ[:, 1:], next_BQ[:, None]], 1)
        places = jnp.maximum(jnp.cumsum(mask_BL, 1) - 1, 0)
        out = model.apply(
            {"params": params}, codes_BLQ, next_BLQ, mask_BL.astype(jnp.int32), places
        )
        return out[:, -1]

    next_IQ = jnp.asarray(CODES_IQ)
    whole = []
    for row in range(len(codes_BLQ)):
        many = lambda x, row=row: jnp.repeat(x[row : row + 1], len(CODES_IQ), 0)
        log_p = jax.nn.log_softmax(logits_of(many(codes_BLQ), many(mask_BL), next_IQ), -1)
        whole.append(jnp.take_along_axis(log_p, next_IQ[..., None], -1)[..., 0])
    return np.asarray(jnp.stack(whole))


def python_search(log_p_IQ: np.ndarray, beams: int) -> list[tuple[float, int]]:
    """Beam search over a trie of dicts; the log-probability of a prefix is that of any item which has it."""
    trie: dict = {}
    for item, codes in enumerate(CODES_IQ.tolist()):
        node = trie
        for code in codes:
            node = node.setdefault(code, {})
        node["item"] = item
    first = lambda node: node["item"] if "item" in node else first(next(iter(node.values())))
    alive = [(0.0, trie)]
    for level in range(len(SIZES)):
        grown = [
            (score + log_p_IQ[first(child), level], child)
            for score, node in alive
            for child in node.values()
        ]
        alive = sorted(grown, key=lambda pair: -pair[0])[:beams]
    return [(score, node["item"]) for score, node in alive]


def test_equals_brute_force_and_a_python_trie(asked):
    log_p = log_probs(*asked)
    total_BI = log_p.sum(-1)
    items_BJ, scores_BJ = searched(*asked, beams=30)
    np.testing.assert_array_equal(items_BJ, np.argsort(-total_BI, 1))
    np.testing.assert_allclose(scores_BJ, -np.sort(-total_BI, 1), atol=2e-4)
    items_BJ, scores_BJ = searched(*asked, beams=4)
    for row in range(3):
        told = python_search(log_p[row], 4)
        assert items_BJ[row].tolist() == [item for _, item in told]
        np.testing.assert_allclose(scores_BJ[row], [score for score, _ in told], atol=2e-4)


def test_banned_items_take_no_place_and_short_lists_are_padded():
    model = MODELS["nested"]
    codes_BLQ = jnp.asarray(CODES_IQ[:4])[None].repeat(2, 0)
    params, mask_BL = init(model, codes_BLQ), jnp.ones((2, 4), bool)
    plain, _ = searched(model, params, codes_BLQ, mask_BL, 40)
    assert sorted(plain[0, :30]) == list(range(30)) and (plain[:, 30:] == -1).all()
    banned_BS = jnp.asarray([[plain[0, 0], plain[0, 2], -1], [-1, -1, -1]])
    items_BJ, scores_BJ = searched(model, params, codes_BLQ, mask_BL, 40, banned_BS)
    assert items_BJ[0, :28].tolist() == [i for i in plain[0, :30] if i not in banned_BS[0]]
    assert (items_BJ[0, 28:] == -1).all() and np.isneginf(scores_BJ[0, 28:]).all()
    np.testing.assert_array_equal(items_BJ[1], plain[1])


def test_trie_holds_every_item_once_and_refuses_collisions():
    leaves = np.asarray(TRIE.item_I)
    assert sorted(leaves) == list(range(30)) and TRIE.levels == 3
    np.testing.assert_array_equal(CODES_IQ[leaves], np.array(sorted(CODES_IQ.tolist())))
    # walking down by codes from the root gives the item
    for item in (0, 7, 29):
        node = 0
        for level, code in enumerate(CODES_IQ[item]):
            begin, end = np.asarray(TRIE.first[level])[node : node + 2]
            node = begin + int(np.flatnonzero(np.asarray(TRIE.code[level])[begin:end] == code)[0])
        assert leaves[node] == item
    assert code_beam.free_slots(TRIE, 50) == 5 + min(50, 5 * TRIE.width[1])
    with pytest.raises(ItemCodesError, match="1 of 31 items"):
        code_beam.build(np.concatenate([CODES_IQ, CODES_IQ[:1]]))
