"""A head tied to its backbone's table: 150,000 words for no new weights, float or quantised, padded or not."""

import dataclasses
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_personal as tiny
from jax.extend.core import jaxprs_in_params

from jaxrec import objectives, quant
from jaxrec.losses.tokens import next_log_probs
from jaxrec.models.personal.heads import GenerativeHead, HeadConfig, Memory, warm_start
from jaxrec.models.personal.personal_lm import PersonalConfig, PersonalLM
from jaxrec.models.personal.vocabulary import principal
from jaxrec.nn.decoder import Decoder, DecoderConfig

B, REAL = 3, 34  # of 40 rows of the table; the rest is padding
HEAD = dataclasses.replace(
    tiny.PERSONAL.head, d_model=8, groups=1, tied_to_backbone=True, d_backbone=16, tokens=REAL
)


def model(tied: bool = True) -> PersonalLM:
    """A head of width 8 on a backbone of 16, whose own output is tied to its table, or has a matrix of its own."""
    decoder = dataclasses.replace(tiny.DECODER, tied=tied)
    return PersonalLM(Decoder(decoder), dataclasses.replace(tiny.PERSONAL, head=HEAD))


def weights(lm: PersonalLM) -> dict:
    ids = jnp.zeros((1, 2), jnp.int32)
    backbone = tiny.random_like(lm.backbone.init, jax.random.key(0), ids, seed=0)["params"]
    return {"backbone": backbone, **tiny.random_like(lm.init, jax.random.key(0), seed=1)}


def test_a_vocabulary_of_150_000_costs_no_new_weights():
    """Qwen2.5-0.5B's table: two thin matrices instead of 39 million numbers."""
    decoder = DecoderConfig(vocab=151_936, d_model=896, layers=24, heads=14, groups=2)
    head = HeadConfig(151_936, 256, 2, 4, 688, 256)
    lfe = dataclasses.replace(tiny.PERSONAL.lfe, d_z=256)
    tied = dataclasses.replace(head, tied_to_backbone=True, d_backbone=896)

    def count(head: HeadConfig) -> int:
        cfg = PersonalConfig(lfe, head)
        lm = PersonalLM(Decoder(decoder), cfg)
        shapes = jax.eval_shape(lm.init, jax.random.key(0))["head"]
        return sum(x.size for x in jax.tree.leaves(shapes))

    own, borrowed = count(head), count(tied)
    assert own - borrowed == 151_936 * 256 - 2 * 896 * 256
    assert borrowed < 3_000_000


def test_a_step_never_holds_the_logits_of_a_batch():
    """Traced, not run: of 32 x 64 places against 151,936 words no array is larger than 512 places' scores."""
    vocab = 151_936
    decoder = dataclasses.replace(tiny.DECODER, vocab=vocab)
    head = dataclasses.replace(HEAD, vocab=vocab, tokens=151_665)
    lm = PersonalLM(Decoder(decoder), dataclasses.replace(tiny.PERSONAL, head=head))
    stage = objectives.universal(lm, tiny.ENCODER)
    shape = lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype)
    batch = jax.tree.map(shape, tiny.turns([0] * 32))
    wide = lambda x: jax.ShapeDtypeStruct((32, 64), x.dtype)
    batch = batch.replace(answer=jax.tree.map(wide, batch.answer))
    ids = jnp.zeros((1, 2), jnp.int32)
    frozen = {"backbone": jax.eval_shape(lm.backbone.init, jax.random.key(0), ids)["params"]}
    own = jax.eval_shape(lm.init, jax.random.key(0))
    frozen["lfe"] = own.pop("lfe")
    own["encoder"] = jax.tree.map(shape, tiny.params()["encoder"])

    def step(own, frozen, batch):
        keys = jax.random.split(jax.random.key(0), 32)
        loss = lambda own: stage.loss(own, frozen, None, batch, stage.weigh(batch), keys)[0]
        return jax.grad(loss)(own)

    sizes = [
        math.prod(shape) for shape in shapes_in(jax.make_jaxpr(step)(own, frozen, batch).jaxpr)
    ]
    assert 512 * vocab <= max(sizes) < 32 * 64 * vocab


def shapes_in(jaxpr) -> Iterator[tuple[int, ...]]:
    """The shapes of all that a program makes, its loops' bodies and branches included."""
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in equation.outvars if hasattr(v.aval, "shape"))
        for inner in jaxprs_in_params(equation.params):
            yield from shapes_in(inner)


@pytest.mark.parametrize("tied", [True, False])
def test_decoding_is_teacher_forcing_and_padding_is_never_said(tied):
    lm = model(tied)
    params, batch = weights(lm), tiny.turns([0, 1, 2])
    p_BE = np.random.default_rng(2).normal(size=(B, tiny.D_P)).astype(np.float32)

    @tiny.jit
    def both(params, batch, p_BE):
        delta, z = lm.personal(params, p_BE), lm.encode(params, batch.question)
        whole = lm.answer(params, z, batch.answer, delta).logits
        step, cache = lm.step(params, lm.turn(params, z, p_BE)), lm.new_cache(B, 4)
        parts = []
        for i in range(3):
            ids = batch.answer.ids_BL[:, i : i + 1]
            logits, cache = step(ids, jnp.ones((B, 1), bool), cache)
            parts.append(logits)
        said = lm.log_probs(params, z, batch.answer, delta)
        return whole, jnp.stack(parts, 1), said, next_log_probs(whole, batch.answer.ids_BL)

    ids = np.where(batch.answer.ids_BL < REAL, batch.answer.ids_BL, 16).astype(np.int32)
    batch = batch.replace(answer=batch.answer.replace(ids_BL=ids))
    whole, parts, (log_p, best), (want, _) = both(params, batch, p_BE)
    assert whole.shape == (B, 8, tiny.VOCAB)
    np.testing.assert_allclose(parts, whole[:, :3], atol=2e-4)
    assert np.exp(jax.nn.log_softmax(whole))[..., REAL:].max() == 0
    asked = np.pad(np.asarray(batch.answer.loss_BL)[:, 1:], ((0, 0), (0, 1))) != 0
    np.testing.assert_allclose(log_p, np.where(asked, want, 0), atol=1e-4)
    assert not np.any(np.asarray(best) & ~asked)


@pytest.mark.slow
def test_training_moves_the_head_and_not_the_table():
    lm = model()
    params, batch = weights(lm), tiny.turns([0, 0, 1, 2])
    params["encoder"] = tiny.params()["encoder"]
    stage = objectives.universal(lm, tiny.ENCODER, p_dropout=0.0)

    @tiny.jit
    def grads(params, batch):
        keys = jax.random.split(jax.random.key(0), 4)
        loss = lambda tree: stage.loss(tree, {}, None, batch, stage.weigh(batch), keys)[0]
        return jax.value_and_grad(loss)(params)

    loss, grad = grads(params, batch)
    assert np.isfinite(float(loss))
    assert not any(np.any(x) for x in jax.tree.leaves(grad["backbone"]))
    for name in ("from_table", "to_table"):
        assert np.any(grad["head"][name]["kernel"])
    assert "embed" not in grad["head"]


@pytest.mark.parametrize("kind", quant.KINDS)
def test_a_quantised_table_says_nearly_the_same(kind):
    """Also how far off each kind is: the loss a token, of random weights, in percent."""
    lm = model()
    params, batch = weights(lm), tiny.turns([0, 1, 2])
    ids = np.where(batch.answer.ids_BL < REAL, batch.answer.ids_BL, 16).astype(np.int32)
    batch = batch.replace(answer=batch.answer.replace(ids_BL=ids))
    small = {**params, "backbone": quant.quantise_params(params["backbone"], kind, table=True)}
    small["head"] = quant.quantise_params(params["head"], "int8")
    assert quant.kinds_in(small["backbone"]) == {kind}

    @tiny.jit
    def nll(params, batch):
        z = lm.encode(params, batch.question)
        log_p, _ = lm.log_probs(params, z, batch.answer, None)
        return -log_p.sum() / batch.answer.loss_BL[:, 1:].sum()

    plain, coarse = float(nll(params, batch)), float(nll(small, batch))
    assert 0 < abs(coarse / plain - 1) < (0.3 if kind == "nf4" else 0.03)


def test_a_tied_head_starts_from_its_backbone():
    """Of equal width the projections are the identity and the layers the backbone's; a narrower one keeps of the table
    what can be kept."""
    rng = np.random.default_rng(0)
    low_rank = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 16))
    table = jnp.asarray(low_rank, jnp.float32)
    into = principal(table, 8)
    np.testing.assert_allclose(table @ into @ into.T, table, atol=1e-4)  # rank 5 fits into 8
    np.testing.assert_allclose(into.T @ into, np.eye(8), atol=1e-5)

    lm = model()
    params = weights(lm)
    decoder = lm.backbone.cfg
    narrow = warm_start(params["head"], HEAD, params["backbone"], decoder)
    want = principal(params["backbone"]["embed"]["table"], 8)
    np.testing.assert_array_equal(narrow["from_table"]["kernel"], want)
    np.testing.assert_array_equal(narrow["to_table"]["kernel"], want.T)
    wide = dataclasses.replace(HEAD, d_model=16, heads=2, groups=1)
    head = PersonalLM(lm.backbone, dataclasses.replace(tiny.PERSONAL, head=wide)).init(
        jax.random.key(0)
    )["head"]
    started = warm_start(head, wide, params["backbone"], decoder)
    np.testing.assert_array_equal(started["from_table"]["kernel"], np.eye(16))
    last = params["backbone"]["stack_0"]["attn"]["q"]["kernel"][-1]
    np.testing.assert_array_equal(started["layer_1"]["attn"]["q"]["kernel"], last)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="41 tokens in a vocabulary of 40"):
        dataclasses.replace(HEAD, tokens=41)
    other = dataclasses.replace(HEAD, d_backbone=32)
    with pytest.raises(ValueError, match="40 x 32, the backbone's is 40 x 16"):
        PersonalLM(model().backbone, dataclasses.replace(tiny.PERSONAL, head=other))
    head = GenerativeHead(HEAD)
    with pytest.raises(ValueError, match="give it the vocabulary"):
        ids = jnp.zeros((1, 2), jnp.int32)
        jax.eval_shape(
            lambda: head.init(jax.random.key(0), ids, ids == 0, tiny_memory(), method="answer")
        )


def tiny_memory():
    return Memory(jnp.zeros((1, 2, tiny.D_Z)), jnp.ones((1, 2), bool), jnp.zeros((1, 2), jnp.int32))
