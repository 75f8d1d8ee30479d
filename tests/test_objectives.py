"""The training stages: what they add up, where their gradient goes, and whom it leaves alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_personal as tiny

from jaxrec import mesh as meshes
from jaxrec import objectives
from jaxrec.data import text
from jaxrec.models.personal.heads import GenerativeHead, HeadConfig, memory_of
from jaxrec.models.personal.lfe import LFE, LFEConfig
from jaxrec.nn.decoder import Decoder
from jaxrec.structs import Retrofit, Tokens
from jaxrec.tables import RowAdam
from jaxrec.training import gradients, optimizer
from jaxrec.training import step as steps

B = 8
TENANTS = [0, 1, 2, 0, 3, 1, 4, 5]
PARTS = objectives.RetrofitParts(
    Decoder(tiny.DECODER),
    Decoder(tiny.DECODER),
    LFE(LFEConfig(d_z=tiny.D_Z, top_k=2)),
    GenerativeHead(HeadConfig(tiny.VOCAB, tiny.D_Z, 1, 2, 12, tiny.D_Z)),
)
UNIVERSAL = objectives.universal(tiny.LM, tiny.ENCODER, p_dropout=0.5)


@functools.cache
def retrofit_tree() -> dict:
    reader = lambda seed: tiny.random_like(
        lambda: PARTS.reader.init(
            jax.random.key(0),
            jnp.zeros((1, 2), jnp.int32),
            jnp.ones((1, 2), bool),
            memory_of(PARTS.lfe.apply({"params": lfe}, hidden, jnp.ones((1, 2), bool))),
            method="answer",
        )["params"],
        seed=seed,
    )
    hidden = (jnp.zeros((1, 2, tiny.DECODER.d_model)),) * 2
    lfe = tiny.params()["lfe"]
    rng = np.random.default_rng(3)
    probe = {"kernel": rng.normal(size=(tiny.D_Z, 4)), "bias": np.zeros(4)}
    return {
        "lfe": lfe,
        "distil_head": reader(4),
        "denoise_head": reader(5),
        "probe": {name: x.astype(np.float32) for name, x in probe.items()},
        "backbone": tiny.backbone(),
        "teacher": tiny.backbone(seed=9),
    }


def retrofit_batch(meanings: list[int]) -> Retrofit:
    rng = np.random.default_rng(7)
    lengths = (6, 8, 8, 7, 6, 6)
    meaning = np.array(meanings, np.int32)
    topic = np.where(np.arange(B) == 2, -1, meaning % 4).astype(np.int32)
    return Retrofit(*(tiny.tokens(rng, B, n) for n in lengths), meaning, topic)


@functools.partial(tiny.jit, static_argnums=0)
def value_of(objective, tree, batch):
    keys = gradients.example_keys(jax.random.key(5), len(jax.tree.leaves(batch)[0]))
    loss, aux = objective.loss(tree, {}, None, batch, objective.weigh(batch), keys)
    return loss, dict(aux.metrics)


@functools.partial(tiny.jit, static_argnums=(0, 1))
def gradient_of(objective, how, params, frozen, batch):
    grads, loss, aux = how.take(*objective, params, frozen, None, batch, jax.random.key(5))
    return grads, loss, dict(aux.metrics)


def apart(tree: dict, *trained: str) -> tuple[dict, dict]:
    return (
        {name: part for name, part in tree.items() if name in trained},
        {name: part for name, part in tree.items() if name not in trained},
    )


def same(a, b, rtol=2e-4, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def moved(tree) -> list[bool]:
    return [bool(np.any(x)) for x in jax.tree.leaves(tree)]


def wider(batch):
    """Every token row longer by padding that holds nonsense, to be ignored."""

    def pad(rows):
        if not isinstance(rows, Tokens):
            return rows
        longer = lambda x, fill: np.pad(x, ((0, 0), (0, 3)), constant_values=fill)
        return Tokens(longer(rows.ids_BL, 17), longer(rows.mask_BL, False), longer(rows.loss_BL, 0))

    return jax.tree.map(pad, batch, is_leaf=lambda x: isinstance(x, Tokens))


# ---------------------------------------------------------------------------------------------- pretrain


def test_pretraining_on_packed_rows_is_pretraining_on_separate_rows():
    rng = np.random.default_rng(0)
    examples = [
        text.Example(rng.integers(16, tiny.VOCAB, n).tolist(), [0.0] + [1.0] * (n - 1))
        for n in (5, 3, 7, 4, 6, 3)
    ]
    objective = objectives.pretrain(Decoder(tiny.DECODER))
    weights = tiny.backbone()
    packed, separate = text.pack(examples, 14), text.pad(examples)
    assert len(packed["ids_BL"]) < len(separate["ids_BL"])
    grads, loss, metrics = gradient_of(objective, gradients.summed(), weights, {}, Tokens(**packed))
    other = gradient_of(objective, gradients.summed(), weights, {}, Tokens(**separate))
    same((grads, loss, metrics), other)
    assert all(moved(grads))


# ---------------------------------------------------------------------------------------------- retrofit


@pytest.fixture(scope="module")
def retrofitted():
    """Gradient of all parts, the frozen ones too, in one pass."""
    batch = retrofit_batch([0, 1, 2, 3, 0, 1, 5, 6])
    objective = objectives.retrofit(PARTS)
    return objective, batch, gradient_of(objective, WHOLE, retrofit_tree(), {}, batch)


WHOLE, PARTED = gradients.summed(), gradients.cached(4)


def test_retrofit_in_microbatches_is_retrofit_in_one_pass(retrofitted):
    objective, batch, (grads, *rest) = retrofitted
    trained, frozen = apart(retrofit_tree(), "lfe", "distil_head", "denoise_head", "probe")
    parted, *told = gradient_of(objective, PARTED, trained, frozen, batch)
    same(parted, {name: grads[name] for name in parted})
    same(told, rest)


def test_retrofit_trains_the_lfe_and_its_heads_and_never_the_backbone_or_the_teacher(retrofitted):
    _, _, (grads, _, _) = retrofitted
    for name in ("backbone", "teacher"):
        assert not any(moved(grads[name])), name
    for name in ("lfe", "distil_head", "denoise_head", "probe"):
        assert all(moved(grads[name])), name


def test_padding_changes_nothing_in_the_retrofit(retrofitted):
    objective, batch, (_, *told) = retrofitted
    wide = value_of(objective, retrofit_tree(), wider(batch))
    same(list(wide), told)


def test_paraphrases_of_one_meaning_are_no_negatives_of_each_other(retrofitted):
    objective, batch, (_, _, told) = retrofitted
    alike = batch.replace(meaning_B=np.zeros(B, np.int32))
    _, _, metrics = gradient_of(objective, WHOLE, retrofit_tree(), {}, alike)
    assert abs(float(metrics["contrast"])) < 1e-5 < 0.1 < float(told["contrast"])


def test_the_retrofits_loss_is_the_weighted_sum_of_its_terms(retrofitted):
    _, _, (_, loss, told) = retrofitted
    weights = objectives.RetrofitWeights()
    terms = ("distil", "denoise", "contrast", "routing")
    assert float(loss) == pytest.approx(
        sum(getattr(weights, name) * float(told[name]) for name in terms), rel=1e-5
    )


# --------------------------------------------------------------------------------------------- universal


@pytest.fixture(scope="module")
def trained_together():
    batch = tiny.turns(TENANTS)
    return batch, gradient_of(UNIVERSAL, WHOLE, tiny.params(), {}, batch)


def test_universal_in_microbatches_is_universal_in_one_pass(trained_together):
    batch, (grads, *rest) = trained_together
    trained, frozen = apart(tiny.params(), "head", "hypernet", "encoder")
    parted, *told = gradient_of(UNIVERSAL, PARTED, trained, frozen, batch)
    same(parted, {name: grads[name] for name in parted})
    same(told, rest)


def test_universal_trains_head_hypernet_and_encoder_alone(trained_together):
    _, (grads, _, _) = trained_together
    for name in ("backbone", "lfe"):
        assert not any(moved(grads[name])), name
    for name in ("head", "hypernet", "encoder"):
        # the label's and the kind's rows of a padded table may be unused; everything else is reached
        assert np.mean(moved(grads[name])) > 0.95, name


def test_padding_changes_nothing_in_the_universal_stage(trained_together):
    batch, (_, *told) = trained_together
    # the same keys as in a step, so that the same rows lose their p
    wide = value_of(UNIVERSAL, tiny.params(), wider(batch))
    same(list(wide), told)


def test_rows_of_one_tenant_are_no_negatives_of_each_other(trained_together):
    batch, (_, _, told) = trained_together
    alone = batch.replace(tenant_B=np.zeros(B, np.int32))
    _, _, metrics = gradient_of(UNIVERSAL, WHOLE, tiny.params(), {}, alone)
    assert abs(float(metrics["contrast"])) < 1e-5 < 0.1 < float(told["contrast"])
    assert float(metrics["nll"]) == pytest.approx(float(told["nll"]), rel=1e-5)


@pytest.mark.slow
def test_a_teacher_adds_its_weight_times_the_divergence():
    batch, tree = tiny.turns(TENANTS), {**tiny.params(), "teacher": tiny.backbone(seed=9)}
    teacher = Decoder(tiny.DECODER)
    plain = objectives.universal(tiny.LM, tiny.ENCODER, p_dropout=0.0)
    taught = objectives.universal(
        tiny.LM, tiny.ENCODER, teacher=teacher, distil_weight=0.7, p_dropout=0.0
    )

    @tiny.jit
    def losses(tree, batch):
        keys, totals = jax.random.split(jax.random.key(0), B), plain.weigh(batch)
        return [o.loss(tree, {}, None, batch, totals, keys) for o in (plain, taught)]

    @tiny.jit
    def said_by_the_head(tree, batch):
        halves = objectives.personal.halves(batch.evidence)
        first, second = (tiny.ENCODER.apply({"params": tree["encoder"]}, h) for h in halves)
        delta = tiny.LM.personal(tree, (first + second) / 2)
        z = tiny.LM.encode(tree, batch.question)
        student = tiny.LM.answer(tree, z, batch.answer, delta).logits
        return jax.nn.log_softmax(student)

    (before, _), (after, aux) = losses(tree, batch)
    student = said_by_the_head(tree, batch)
    told = tiny.jit(lambda w, ids: jax.nn.log_softmax(teacher.apply({"params": w}, ids).logits))
    total = 0.0
    for i in range(B):  # row by row, without padding between question and answer
        asked = batch.question.ids_BL[i][batch.question.mask_BL[i]]
        said = batch.answer.ids_BL[i][batch.answer.mask_BL[i]]
        whole = np.zeros((1, 14), np.int32)  # causal: what stands behind is not seen
        whole[0, : len(asked) + len(said)] = [*asked, *said]
        log_t = np.asarray(told(tree["teacher"], whole))[0, len(asked) :][: len(said) - 1]
        log_s = np.asarray(student)[i, : len(said) - 1]
        total += (np.exp(log_t) * (log_t - log_s)).sum()
    mean = total / batch.answer.loss_BL[:, 1:].sum()
    assert float(aux.metrics["distil"]) == pytest.approx(mean, rel=1e-4)
    assert float(after - before) == pytest.approx(0.7 * mean, rel=1e-4)


# ------------------------------------------------------------------------------------------- personalize

ONE_TENANT = RowAdam(ids=lambda batch: batch.tenant_B)


@functools.cache
def personalising():
    """(step, a function that gives a new state, frozen): compiled once for the tests below."""
    start = np.random.default_rng(2).normal(size=(7, tiny.D_P)).astype(np.float32)
    mesh = meshes.make(meshes.MeshConfig(), jax.devices()[:1])
    optim = optimizer.make(optimizer.OptConfig(lr=0.05, clip=0.0), 10)
    by_row = {"profile/p": ONE_TENANT}
    begin = lambda: steps.init_state(mesh, {"profile": {"p": start}}, optim, tables=by_row)
    tree = tiny.params()
    frozen = {name: tree[name] for name in ("backbone", "lfe", "head", "hypernet")}
    frozen = jax.device_put({**frozen, "start": start}, meshes.replicated(mesh))
    objective = objectives.personalize(tiny.LM)
    return steps.make_step(*objective, optim, begin(), tables=by_row), begin, frozen, start


def personalised(batches) -> np.ndarray:
    step, begin, frozen, _ = personalising()
    state = begin()
    for batch in batches:
        state, _ = step(state, frozen, batch.replace(evidence=None), jax.random.key(0))
    return np.asarray(state.params["profile"]["p"])


def test_a_tenant_who_is_absent_does_not_move_and_the_step_compiles_once():
    batches = [tiny.turns([0, 0, 1, 1], seed) for seed in range(2)]
    batches += [tiny.turns([1, 1, 3, 3], seed) for seed in range(2, 4)]
    step, _, _, start = personalising()
    p_UE, half_UE = personalised(batches), personalised(batches[:2])
    for absent in (2, 4, 5, 6):
        np.testing.assert_array_equal(p_UE[absent], start[absent])
    np.testing.assert_array_equal(p_UE[0], half_UE[0])  # no momentum carries it on
    for present in (0, 1, 3):
        assert np.abs(p_UE[present] - start[present]).max() > 0.01
    assert step._cache_size() == 1


def test_tenants_in_one_batch_do_not_touch_each_other():
    """The same batches, once with other words from tenant 1: tenant 0's p stays the same, tenant 1's does not."""
    batches = [tiny.turns([0, 0, 1, 1], seed) for seed in range(3)]

    def reworded(batch):
        ids = batch.answer.ids_BL.copy()
        ids[2:] = np.where(batch.answer.mask_BL[2:], 55 - ids[2:], 0)
        return batch.replace(answer=batch.answer.replace(ids_BL=ids))

    once, again = personalised(batches), personalised([reworded(b) for b in batches])
    np.testing.assert_allclose(once[0], again[0], atol=1e-6)
    assert np.abs(once[1] - again[1]).max() > 0.01


def test_personalize_has_a_gradient_for_p_alone():
    tree = {**tiny.params(), "profile": {"p": np.zeros((7, tiny.D_P), np.float32)}}
    del tree["encoder"]
    batch = tiny.turns([0, 0, 1, 1]).replace(evidence=None)
    objective = objectives.personalize(tiny.LM)
    frozen = {"start": np.ones((7, tiny.D_P), np.float32)}
    grads, _, metrics = gradient_of(objective, WHOLE, tree, frozen, batch)
    for name in ("backbone", "lfe"):
        assert not any(moved(grads[name])), name
    assert np.any(grads["profile"]["p"], axis=1).tolist() == [True, True] + [False] * 5
    assert float(metrics["away"]) == pytest.approx(tiny.D_P, rel=1e-6)


def test_own_deltas_move_by_their_tenants_rows_alone():
    sites = GenerativeHead.sites(tiny.PERSONAL.head)
    from jaxrec import delta as deltas

    bank = deltas.shapes(sites, deltas.DeltaConfig(lora_rank=2, lora_sites="q|cross_v"), 4)
    rng = np.random.default_rng(0)
    bank = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), bank)
    tree = {"delta": bank}
    frozen = {name: tiny.params()[name] for name in ("backbone", "lfe", "head")}
    batch = tiny.turns([0, 2, 2, 0]).replace(evidence=None)
    objective = objectives.personalize_delta(tiny.LM)
    grads, _, _ = gradient_of(objective, WHOLE, tree, frozen, batch)
    for lora in grads["delta"].stacks["stack_0"].lora.values():
        for leaf in (lora.a_NBDR, lora.b_NBRF):
            moves = np.any(leaf, axis=(0, 2, 3)).tolist()
            assert moves == [True, False, True, False]


def test_people_whose_evidence_is_alike_cannot_be_told_apart():
    """InfoNCE of equal rows is log B; rows of one tenant are not each other's negatives."""
    batch = tiny.turns([0, 1, 2, 3])
    alike = jax.tree.map(lambda x: np.repeat(x[:1], 4, 0), batch.evidence)
    params, objective = {"encoder": tiny.params()["encoder"]}, objectives.profiles(tiny.ENCODER)

    @tiny.jit
    def contrast(batch):
        seen = objective.loss.encode(params, None, None, batch, None)
        totals = objective.weigh(batch)
        return objective.loss.score(params, None, None, seen, batch, totals, None)[0]

    assert contrast(batch.replace(evidence=alike)) == pytest.approx(np.log(4), abs=1e-5)
    one = batch.replace(evidence=alike, tenant_B=np.zeros(4, np.int32))
    assert contrast(one) == pytest.approx(0, abs=1e-5)
