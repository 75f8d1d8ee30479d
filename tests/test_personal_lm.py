"""The joined model: decoding is teacher forcing, rows do not mix, and the backbone runs once a turn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_personal as tiny

from jaxrec.delta import DeltaConfig
from jaxrec.models.personal.lfe import LFEConfig
from jaxrec.models.personal.personal_lm import PersonalConfig, PersonalLM
from jaxrec.structs import Tokens

LM = tiny.LM
B, L = 3, 7


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    question = tiny.tokens(rng, B, 6).replace(loss_BL=None)
    answer = Tokens(rng.integers(16, tiny.VOCAB, (B, L)).astype(np.int32), np.ones((B, L), bool))
    return tiny.params(), question, answer, rng.normal(size=(B, tiny.D_P)).astype(np.float32)


@tiny.jit
def forced(params, question, answer, p_BE):
    delta = None if p_BE is None else LM.personal(params, p_BE)
    return LM.answer(params, LM.encode(params, question), answer, delta).logits


@tiny.jit
def begin(params, question, p_BE):
    return LM.turn(params, LM.encode(params, question), p_BE), LM.new_cache(B, L)


@tiny.jit
def step(params, turn, ids_BL, mask_BL, cache):
    return LM.step(params, turn)(ids_BL, mask_BL, cache)


def test_decoding_with_a_soft_prompt_is_teacher_forcing_too(world):
    """What stands before the first token enters the cache once, and takes slots there."""
    _, question, answer, p_BE = world
    spec = DeltaConfig(prompt_length=2, prefix_length=2, adapter_size=3)
    lm = PersonalLM(LM.backbone, dataclasses.replace(tiny.PERSONAL, p_enters=spec))
    own = tiny.random_like(lm.init, jax.random.key(0), seed=5)
    params = {"backbone": tiny.backbone(), **own}

    @tiny.jit
    def both(params, question, answer, p_BE):
        z = lm.encode(params, question)
        whole = lm.answer(params, z, answer, lm.personal(params, p_BE)).logits
        step, cache = lm.step(params, lm.turn(params, z, p_BE)), lm.new_cache(B, 3)
        parts = []
        for i in range(3):
            logits, cache = step(answer.ids_BL[:, i : i + 1], jnp.ones((B, 1), bool), cache)
            parts.append(logits)
        return whole[:, :3], jnp.stack(parts, 1)

    whole, parts = both(params, question, answer, p_BE)
    np.testing.assert_allclose(parts, whole, atol=2e-4)


@pytest.mark.parametrize("stranger", [False, True])
def test_decoding_token_by_token_is_teacher_forcing(world, stranger):
    params, question, answer, p_BE = world
    p_BE = None if stranger else p_BE
    whole = forced(params, question, answer, p_BE)
    turn, cache = begin(params, question, p_BE)
    small = {name: params[name] for name in ("head", "hypernet")}
    for i in range(L):
        ids = jnp.asarray(answer.ids_BL[:, i : i + 1])
        logits, cache = step(small, turn, ids, jnp.ones((B, 1), bool), cache)
        np.testing.assert_allclose(logits, whole[:, i], atol=2e-4)
    assert step._cache_size() <= 2


def test_retrieved_z_is_read_in_decoding_as_in_teacher_forcing(world):
    """Passages change the answer, in both in the same way; without them nothing changes, bit by bit."""
    params, question, answer, p_BE = world
    passages = tiny.tokens(np.random.default_rng(3), B, 5).replace(loss_BL=None)

    @tiny.jit
    def both(params, question, passages, answer, p_BE):
        z, read = LM.encode(params, question), LM.encode(params, passages)
        whole = LM.answer(params, z, answer, LM.personal(params, p_BE), read).logits
        turn, cache = LM.turn(params, z, p_BE, retrieved=read), LM.new_cache(B, L)
        parts = []
        for i in range(3):
            ids = answer.ids_BL[:, i : i + 1]
            logits, cache = LM.step(params, turn)(ids, jnp.ones((B, 1), bool), cache)
            parts.append(logits)
        return whole[:, :3], jnp.stack(parts, 1)

    whole, parts = both(params, question, passages, answer, p_BE)
    np.testing.assert_allclose(parts, whole, atol=2e-4)
    assert np.abs(whole - forced(params, question, answer, p_BE)[:, :3]).max() > 1e-3


def test_rows_of_tenants_do_not_mix(world):
    """Another p for the second row changes the second row, and leaves the others as they are."""
    params, question, answer, p_BE = world
    other = p_BE.copy()
    other[1] += 1.0
    before, after = (np.asarray(forced(params, question, answer, p)) for p in (p_BE, other))
    np.testing.assert_allclose(after[[0, 2]], before[[0, 2]], atol=1e-5)
    assert np.abs(after[1] - before[1]).max() > 1e-2


def test_the_backbone_is_not_in_the_step(world):
    """The step needs neither backbone nor LFE nor hypernetwork, and its work does not grow with the backbone."""
    params, question, _, p_BE = world
    turn, cache = begin(params, question, p_BE)
    ids, mask = jnp.zeros((B, 1), jnp.int32), jnp.ones((B, 1), bool)
    # with nothing but the head's weights in hand, it runs
    logits, _ = step({"head": params["head"]}, turn, ids, mask, cache)
    assert logits.shape == (B, tiny.VOCAB)
    # and with everything in hand, the program reads the head's weights alone
    jaxpr = jax.make_jaxpr(lambda p, turn, cache: LM.step(p, turn)(ids, mask, cache))(
        params, turn, cache
    ).jaxpr
    used = {id(v) for equation in jaxpr.eqns for v in equation.invars}
    leaves = jax.tree_util.tree_leaves_with_path(params)
    read = {
        path[0].key for (path, _), v in zip(leaves, jaxpr.invars, strict=False) if id(v) in used
    }
    assert read == {"head"}


def test_no_gradient_flows_into_backbone_or_lfe(world):
    params, question, _, _ = world

    @tiny.jit
    def into(params, question):
        z = lambda p: LM.encode(p, question)
        return jax.grad(lambda p: z(p).z_seq_BLD.sum() + z(p).z_cls_BD.sum())(params)

    assert not any(np.any(x) for x in jax.tree.leaves(into(params, question)))


def test_widths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="Z of width 9, the head reads 8"):
        PersonalConfig(lfe=LFEConfig(d_z=9), head=tiny.PERSONAL.head)
