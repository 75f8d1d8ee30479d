"""The person inside the backbone: the identity at the start, a row each, cached decoding, all stages by config."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_personal as tiny

from jaxrec import objectives
from jaxrec.delta import DeltaConfig
from jaxrec.losses.preference import PreferenceLoss
from jaxrec.losses.tokens import next_log_probs
from jaxrec.models.language.tuned_lm import TenantLM
from jaxrec.models.personal.inside import answer_logits, cuts_between, depths_or_top
from jaxrec.models.personal.personal_lm import PersonalLM
from jaxrec.nn.decoder import Decoder
from jaxrec.objectives.restraint import Restraint
from jaxrec.structs import LFEOutput, Pairs

B = 3
SPEC = DeltaConfig(
    embed=True, norm=True, attn_bias=True, prompt_length=1, lora_rank=2, lora_sites="q|up"
)
DECODER = dataclasses.replace(tiny.DECODER, cuts=(1,))
CFG = dataclasses.replace(tiny.PERSONAL, person="backbone", inside=SPEC)
LM = PersonalLM(Decoder(DECODER), CFG)


@pytest.fixture(scope="module")
def params():
    backbone = tiny.random_like(
        LM.backbone.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32), seed=0
    )["params"]
    return {"backbone": backbone, **tiny.random_like(LM.init, jax.random.key(0), seed=3)}


@tiny.jit
def logits_of(params, batch, p_BE):
    return LM.answer(params, batch.question, batch.answer, LM.personal(params, p_BE)).logits


def test_a_new_person_is_the_plain_backbone_for_everybody(params):
    batch = tiny.turns([0, 1, 2])
    spec = dataclasses.replace(SPEC, prompt_length=0)  # a soft prompt has no identity
    lm = PersonalLM(LM.backbone, dataclasses.replace(CFG, inside=spec))
    new = lm.init(jax.random.key(1))
    assert set(new) == {"lfe", "hypernet"}  # no head at all

    @tiny.jit
    def both(tree, batch, p_BE):
        delta = lm.personal(tree, p_BE)
        personal = lm.answer(tree, lm.read(tree, batch.question), batch.answer, delta).logits
        plain = answer_logits(lm.backbone, tree["backbone"], batch.question, batch.answer, None)
        return personal, plain.logits

    personal, plain = both({**new, "backbone": params["backbone"]}, batch, jnp.ones((B, tiny.D_P)))
    np.testing.assert_allclose(personal, plain, atol=1e-5)


def test_a_batch_of_tenants_is_each_tenant_alone(params):
    batch = tiny.turns([0, 1, 2])
    p_BE = np.random.default_rng(4).normal(size=(B, tiny.D_P)).astype(np.float32)
    together = np.asarray(logits_of(params, batch, p_BE))
    assert together.shape == (B, 8, tiny.VOCAB)
    for i in range(B):
        same = np.full(B, i)  # one shape, one program
        alone = logits_of(params, jax.tree.map(lambda x, i=same: x[i], batch), p_BE[same])
        np.testing.assert_allclose(alone[0], together[i], atol=1e-4)
    assert np.abs(logits_of(params, batch, p_BE[::-1]) - together)[[0, 2]].max() > 1e-2


def test_cached_decoding_is_the_whole_text_at_once(params):
    batch = tiny.turns([0, 1, 2])
    p_BE = np.random.default_rng(5).normal(size=(B, tiny.D_P)).astype(np.float32)
    whole = np.asarray(logits_of(params, batch, p_BE))

    @tiny.jit
    def decode(params, batch, p_BE):
        turn, cache = LM.turn(params, batch.question, p_BE), LM.new_cache(B, 16)
        _, cache = LM.step(params, turn)(batch.question.ids_BL, batch.question.mask_BL, cache)
        step, parts = LM.step(params, turn, reading=False), []
        for i in range(3):
            ids = batch.answer.ids_BL[:, i : i + 1]
            logits, cache = step(ids, jnp.ones((B, 1), bool), cache)
            parts.append(logits)
        return jnp.stack(parts, 1)

    np.testing.assert_allclose(decode(params, batch, p_BE), whole[:, :3], atol=1e-3)
    assert LM.opening([5, 6], [7]) == [5, 6, 7] and tiny.LM.opening([5, 6], [7]) == [7]


def test_log_probabilities_need_no_whole_logits(params):
    batch = tiny.turns([0, 1, 2])
    p_BE = np.ones((B, tiny.D_P), np.float32)

    @tiny.jit
    def both(params, batch, p_BE):
        delta = LM.personal(params, p_BE)
        logits = LM.answer(params, batch.question, batch.answer, delta).logits
        return LM.log_probs(params, batch.question, batch.answer, delta), next_log_probs(
            logits, batch.answer.ids_BL
        )

    (log_p, best), (want, want_best) = both(params, batch, p_BE)
    asked = np.pad(np.asarray(batch.answer.loss_BL)[:, 1:], ((0, 0), (0, 1))) != 0
    np.testing.assert_allclose(log_p, np.where(asked, want, 0), atol=1e-4)
    np.testing.assert_array_equal(best, asked & np.asarray(want_best))


def test_universal_personalize_and_prefer_train_it(params):
    """Finite losses, and gradients where they belong: of p, of A(p), of the encoder; none of the backbone's."""
    batch = tiny.turns([0, 0, 1, 2])
    encoder = tiny.params()["encoder"]
    table = np.random.default_rng(6).normal(size=(3, tiny.D_P)).astype(np.float32)
    universal = objectives.universal(
        LM, tiny.ENCODER, p_dropout=0.0, restraint=Restraint(kl=0.1), reference="backbone"
    )
    personal = objectives.personalize(LM, 0.0)
    prefer = objectives.prefer(TenantLM(LM), PreferenceLoss(), "switched")
    side = batch.replace(evidence=None)
    pairs = Pairs(side, side.replace(answer=tiny.turns([0, 0, 1, 2], seed=9).answer))

    @tiny.jit
    def grads(params, encoder, table, batch, side, pairs):
        keys = jax.random.split(jax.random.key(0), 4)
        stage = lambda o, batch: lambda tree: o.loss(tree, {}, None, batch, o.weigh(batch), keys)
        first = jax.value_and_grad(stage(universal, batch), has_aux=True)(
            {**params, "encoder": encoder}
        )
        rest = {**params, "start": table * 0.9}
        of_p = lambda o, batch: jax.value_and_grad(
            lambda p: stage(o, batch)({**rest, "profile": {"p": p}}), has_aux=True
        )(table)
        return first, of_p(personal, side), of_p(prefer, pairs)

    (first, tree), (second, by_p), (third, preferred) = grads(
        params, encoder, table, batch, side, pairs
    )
    assert np.isfinite([float(x[0]) for x in (first, second, third)]).all()
    for part in ("hypernet", "encoder"):
        assert any(np.any(x) for x in jax.tree.leaves(tree[part]))
    assert float(first[1].metrics["kl"]) > 0
    assert np.any(by_p, axis=1).all() and np.any(preferred, axis=1).all()


def test_depths_choose_layers_and_cuts_follow():
    assert depths_or_top((), 24) == tuple(range(18, 24)) and depths_or_top((), 2) == (1,)
    twelve = dataclasses.replace(DECODER, layers=12, cuts=(6,))
    assert cuts_between((0, 3, 4, 11), twelve) == (1, 3, 5, 6, 11)
    assert LM.spec.stacks == "stack_1"
    with pytest.raises(ValueError, match=r"needs a cut at 1 too"):
        PersonalLM(Decoder(tiny.DECODER), CFG)
    with pytest.raises(ValueError, match="layers 0 to 1"):
        PersonalLM(LM.backbone, dataclasses.replace(CFG, depths=(2,)))
    with pytest.raises(ValueError, match="as text"):
        z = LFEOutput(jnp.zeros((1, 2, 8)), jnp.zeros((1, 8)), jnp.ones((1, 2), bool))
        LM.turn({"hypernet": {}}, tiny.turns([0]).question, None, retrieved=z)
