"""The tuning stages' model: LoRA dropout by the row's own key, and what is left when the Delta is switched off."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import delta as deltas
from jaxrec.delta import DeltaConfig
from jaxrec.models.language.tuned_lm import TunedLM
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.structs import Tokens

CFG = DecoderConfig(
    vocab=31, d_model=16, layers=2, heads=2, groups=1, head_dim=8, d_ff=24, max_positions=16,
    init_std=0.3,
)  # fmt: skip
SITES = Decoder.sites(CFG)
LM = TunedLM(Decoder(CFG), lora_dropout=0.25)
SPEC = DeltaConfig(lora_rank=4, lora_sites="q|v|down", head_rank=2)
ROWS = 4


@pytest.fixture(scope="module")
def tree():
    rng = np.random.default_rng(0)
    init = jax.jit(lambda key: Decoder(CFG).init(key, jnp.zeros((1, 2), jnp.int32))["params"])
    stir = lambda x: jnp.asarray(rng.normal(scale=0.4, size=x.shape), jnp.float32)
    return {
        "backbone": init(jax.random.key(0)),
        "delta": jax.tree.map(stir, deltas.shapes(SITES, SPEC)),
    }


def _batch(rows=ROWS):
    ids = jnp.arange(rows * 5).reshape(rows, 5) % CFG.vocab
    return Tokens(ids, jnp.ones(ids.shape, bool))


KEYS = jax.random.split(jax.random.key(7), ROWS)


@jax.jit
def said(tree, batch, key_B):
    return LM.outputs(tree, batch, key_B).logits


@jax.jit
def gradient(delta, tree, batch, key_B):
    total = lambda delta: jnp.square(LM.outputs({**tree, "delta": delta}, batch, key_B).logits).sum()  # fmt: skip
    return jax.grad(total)(delta)


def test_dropout_is_there_with_a_key_only(tree):
    plain = TunedLM(Decoder(CFG)).outputs(tree, _batch(), KEYS).logits
    np.testing.assert_allclose(said(tree, _batch(), None), plain, atol=1e-5)
    dropped = said(tree, _batch(), KEYS)
    assert np.abs(dropped - plain).max() > 0.05
    np.testing.assert_array_equal(said(tree, _batch(), KEYS), dropped)


def test_what_a_row_drops_depends_on_its_key_alone(tree):
    order = jnp.array([2, 0, 3, 1])
    batch = jax.tree.map(lambda x: x[order], _batch())
    np.testing.assert_allclose(
        said(tree, batch, KEYS[order]), said(tree, _batch(), KEYS)[order], atol=1e-5
    )
    same = Tokens(*(jnp.repeat(x[:1], ROWS, 0) for x in (_batch().ids_BL, _batch().mask_BL)))
    rows = said(tree, same, KEYS)
    assert np.abs(rows[0] - rows[1]).max() > 0.01  # one text, two keys


def test_accumulated_gradients_are_those_of_the_whole_batch(tree):
    whole = gradient(tree["delta"], tree, _batch(), KEYS)
    half = lambda i: gradient(
        tree["delta"], tree, jax.tree.map(lambda x: x[i::2], _batch()), KEYS[i::2]
    )
    summed = jax.tree.map(jnp.add, half(0), half(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-3), whole, summed)


def test_layers_and_sites_drop_on_their_own():
    delta = deltas.with_dropout(deltas.zeros(SITES, SPEC), KEYS, 0.5)
    lora = delta.stacks["stack_0"].lora
    words = jax.random.key_data(lora["q"].dropout.key_NB)
    assert len(np.unique(words.reshape(-1, words.shape[-1]), axis=0)) == 2 * ROWS
    numbers = {x.dropout.site for x in (*lora.values(), delta.outer.head)}
    assert len(numbers) == 4


def test_a_dropout_that_makes_no_sense_is_refused():
    delta = deltas.zeros(SITES, SPEC)
    assert deltas.with_dropout(delta, KEYS, 0.0) is delta
    with pytest.raises(ValueError, match="rate lies in"):
        deltas.with_dropout(delta, KEYS, 1.0)
    norm = deltas.zeros(SITES, DeltaConfig(norm=True))
    assert jax.tree.structure(deltas.with_dropout(norm, KEYS, 0.1)) == jax.tree.structure(norm)


def test_the_reference_is_the_tree_without_its_delta(tree):
    assert LM.reference(tree) == {"backbone": tree["backbone"]}


@pytest.mark.parametrize("delta", ["head too", "layers", "none"])
@pytest.mark.parametrize("tied", [True, False])
def test_log_probabilities_are_those_of_the_logits(tree, delta, tied):
    lm = TunedLM(Decoder(dataclasses.replace(CFG, tied=tied)))
    tree = dict(tree)
    if delta == "none":
        del tree["delta"]
    elif delta == "layers":
        outer = tree["delta"].outer.replace(head=None)
        tree["delta"] = tree["delta"].replace(outer=outer)
    loss_BL = jnp.array([[0, 0, 1, 1, 1], [0, 1, 0, 2, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], jnp.float32)  # fmt: skip
    batch = _batch().replace(loss_BL=loss_BL)
    told = jax.jit(lm.log_probs)(tree, batch)
    log_p = jax.nn.log_softmax(jax.jit(lm.outputs)(tree, batch).logits[:, :-1])
    own = jnp.take_along_axis(log_p, batch.ids_BL[:, 1:, None], -1)[..., 0]
    counts = loss_BL[:, 1:] != 0
    np.testing.assert_allclose(told.log_p_BL[:, :-1], jnp.where(counts, own, 0), atol=1e-5)
    best = (log_p.argmax(-1) == batch.ids_BL[:, 1:]) & counts
    np.testing.assert_array_equal(told.best_BL[:, :-1], best)
    assert not told.log_p_BL[:, -1].any()  # nothing comes after a row's last token
