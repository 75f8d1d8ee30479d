"""Gemma in every form a decoder comes in: cut, rematerialised, coded, in 16 bits, on a mesh, decoded, with a person."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_personal as tiny

from jaxrec import delta as deltas
from jaxrec import hub, quant
from jaxrec import mesh as meshes
from jaxrec.delta import DeltaConfig
from jaxrec.losses import chunked_softmax
from jaxrec.models.language.tuned_lm import TunedLM
from jaxrec.models.personal.inside import cuts_between
from jaxrec.models.personal.personal_lm import PersonalLM
from jaxrec.models.personal.vocabulary import vocabulary_of
from jaxrec.nn import stack
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.nn.generate import backbone_generator
from jaxrec.nn.sampling import sampling
from jaxrec.nn.stack import every_layer, recut
from jaxrec.structs import Delta, Tokens

pytestmark = pytest.mark.slow
CFG = DecoderConfig(
    vocab=61, d_model=64, layers=5, heads=4, groups=2, head_dim=16, d_ff=64, max_positions=64, norm="rms_offset",
    activation="gelu_tanh", qk_norm=True, query_scalar=12.0, post_norms=True, embed_scaled=True, tied=True,
    layer_types=("local", "global"), window=4, local_rope_theta=1e4, rope_theta=1e6,
)  # fmt: skip
GREEDY = sampling(2, max_new=12)
PROMPTS = [[5, 9, 2, 7, 30, 12, 11, 3, 8, 40], [4, 4, 17]]


def _params(cfg: DecoderConfig) -> dict:
    rng = np.random.default_rng(0)
    shapes = hub.shapes_of(cfg)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape), jnp.float32), shapes)


def _stirred(cfg: DecoderConfig, spec: DeltaConfig, rows: int = 1) -> Delta:
    rng = np.random.default_rng(1)
    draw = lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32)
    return jax.tree.map(draw, deltas.zeros(Decoder.sites(cfg), spec, rows))


@functools.partial(jax.jit, static_argnums=0)
def _logits(cfg, params, ids, delta=None):
    return Decoder(cfg).apply({"params": params}, ids, delta=delta).logits


def test_a_step_and_a_decoded_token_never_hold_the_logits_of_a_batch():
    """Compiled, not run: the vocabulary of Gemma 3, 262,144 words, against a batch of 32 x 64 places."""
    cfg = dataclasses.replace(CFG, vocab=262_144)
    lm, params = TunedLM(Decoder(cfg)), hub.shapes_of(cfg)
    ids, mask = (jax.ShapeDtypeStruct((32, 64), kind) for kind in (jnp.int32, bool))
    change = deltas.shapes(Decoder.sites(cfg), DeltaConfig(lora_rank=2))

    def step(change, params, ids, mask):
        rows = Tokens(ids, mask, mask.astype(jnp.float32))
        said = lambda change: lm.log_probs({"backbone": params, "delta": change}, rows).log_p_BL
        return jax.grad(lambda change: said(change).sum())(change)

    def read(params, ids, mask):
        return Decoder(cfg).apply({"params": params}, ids, mask, logits="last").logits

    assert _largest(step, change, params, ids, mask) == chunked_softmax.CHUNK * cfg.vocab
    assert _largest(read, params, ids, mask) == cfg.vocab * cfg.d_model  # the table itself


def _largest(fn, *args) -> int:
    """Numbers in the largest array of a compiled program."""
    program = jax.jit(fn).lower(*args).compile().as_text()
    return max(math.prod(map(int, x.split(","))) for x in re.findall(r"\w\[([\d,]+)\]", program))


@pytest.mark.parametrize(
    "change",
    [{"cuts": every_layer(CFG)}, {"cuts": (2,)}, {"remat": "full"}, {"remat": "dots"}, {}],
)
def test_cuts_remat_and_loops_change_nothing(change, monkeypatch):
    """Values, hidden states and gradients, with a delta cut the same way; `{}`: loops instead of unrolled layers."""
    new, params = dataclasses.replace(CFG, **change), _params(CFG)
    ids, delta = jnp.array([PROMPTS[0]] * 2), _stirred(CFG, DeltaConfig(lora_rank=2, norm=True), 2)
    sizes = lambda cfg: [s.n_layers for s in Decoder.sites(cfg).stacks.values()]

    def value_and_grad(cfg, p, d):
        def f(p, d):
            out = Decoder(cfg).apply({"params": p}, ids, delta=d, hidden=(0, 1, 3, 4, 5))
            return out.logits.std() + sum(h.std() for h in out.hidden)

        return jax.jit(jax.value_and_grad(f, (0, 1)))(p, d)

    value, grad = value_and_grad(CFG, params, delta)
    monkeypatch.setattr(stack, "UNROLLED", 0 if not change else stack.UNROLLED)
    cut = recut(params, CFG, new), deltas.restack(delta, sizes(CFG), sizes(new))
    value2, grad2 = value_and_grad(new, *cut)
    np.testing.assert_allclose(value, value2, rtol=1e-5)
    back = recut(grad2[0], new, CFG), deltas.restack(grad2[1], sizes(new), sizes(CFG))
    same = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-4)
    jax.tree.map(same, grad, back)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_coded_weights_answer_as_what_they_stand_for(kind):
    coded = quant.quantise_params(_params(CFG), kind, table=True)
    delta = _stirred(CFG, DeltaConfig(lora_rank=2, norm=True))
    ids = jnp.array([PROMPTS[0]])
    ours, floats = (_logits(CFG, x, ids, delta) for x in (coded, quant.whole(coded)))
    np.testing.assert_allclose(ours, floats, atol=1e-3)
    said = [
        backbone_generator(CFG)((x, delta), PROMPTS, GREEDY).ids
        for x in (coded, quant.whole(coded))
    ]
    assert said[0] == said[1]


def test_greedy_decoding_is_the_full_forward_far_beyond_the_window():
    """Prompts of several lengths in chunks longer than the window, with every layer a stack of its own too."""
    params, want = _params(CFG), []
    run = jax.jit(lambda ids: Decoder(CFG).apply({"params": params}, ids).logits[0])
    for prompt in PROMPTS:
        ids = list(prompt)
        for _ in range(12):
            row = jnp.array([ids + [0] * (24 - len(ids))])
            ids.append(int(run(row)[len(ids) - 1].argmax()))
        want.append(ids[len(prompt) :])
    assert backbone_generator(CFG, chunk=6)((params, None), PROMPTS, GREEDY).ids == want
    cut = dataclasses.replace(CFG, cuts=every_layer(CFG))
    assert backbone_generator(cut)((recut(params, CFG, cut), None), PROMPTS, GREEDY).ids == want


@pytest.mark.parametrize("axes", [{"data": 2, "fsdp": 2}, {"fsdp": 2, "tensor": 2}])
def test_on_a_mesh_it_says_and_learns_the_same(axes):
    mesh = meshes.make(meshes.MeshConfig(**{"data": 1} | axes), jax.devices()[:4])
    params, delta = _params(CFG), _stirred(CFG, DeltaConfig(lora_rank=2), 4)
    ids = jnp.array([PROMPTS[0]] * 4)

    def value_and_grad(params, delta, ids):
        f = lambda d: Decoder(CFG).apply({"params": params}, ids, delta=d).logits.std()
        return jax.value_and_grad(f)(delta)

    value, grad = jax.jit(value_and_grad)(params, delta, ids)
    placed = meshes.place(mesh, params)
    with meshes.within(mesh):
        value2, grad2 = jax.jit(value_and_grad)(placed, delta, ids)
    np.testing.assert_allclose(value, value2, rtol=1e-5)
    same = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-3)
    jax.tree.map(same, grad, jax.device_get(grad2))
    rows = PROMPTS * 2
    alone = backbone_generator(CFG)((params, None), rows, sampling(4, max_new=12)).ids
    assert backbone_generator(CFG)((placed, None), rows, sampling(4, max_new=12)).ids == alone


def test_a_person_inside_and_a_head_over_it():
    """A(p) in the two upper layers is decoded as it is scored; a head borrows the table, scaled as the backbone reads
    it, and scores against the table itself."""
    cfg = dataclasses.replace(CFG, vocab=tiny.VOCAB)
    cfg = dataclasses.replace(cfg, cuts=cuts_between((3, 4), cfg))
    spec = DeltaConfig(embed=True, norm=True, lora_rank=2, prompt_length=1)
    own = dataclasses.replace(tiny.PERSONAL, person="backbone", inside=spec, depths=(3, 4))
    lm = PersonalLM(Decoder(cfg), own)
    params = {"backbone": _params(cfg), **tiny.random_like(lm.init, jax.random.key(0), seed=3)}
    batch, p_BE = tiny.turns([0, 1, 2]), jnp.ones((3, tiny.D_P)) * jnp.array([[1.0], [-1], [0.5]])
    whole = lm.answer(params, batch.question, batch.answer, lm.personal(params, p_BE)).logits
    turn, cache = lm.turn(params, batch.question, p_BE), lm.new_cache(3, 16)
    assert {k.shape[3] for name, k in cache.k.items() if name.endswith("local")} == {cfg.window}
    asked = (jnp.array(x) for x in (batch.question.ids_BL, batch.question.mask_BL))
    _, cache = lm.step(params, turn)(*asked, cache)
    step = jax.jit(lm.step(params, turn, reading=False))
    for i in range(4):
        ids = jnp.array(batch.answer.ids_BL[:, i : i + 1])
        logits, cache = step(ids, jnp.ones((3, 1), bool), cache)
        np.testing.assert_allclose(logits, whole[:, i], atol=1e-3)

    words, table = vocabulary_of(cfg, params["backbone"]), params["backbone"]["embed"]["table"]
    ids = jnp.array([[3, 5]])
    np.testing.assert_allclose(words.vectors(ids), table[ids] * 8.0)  # the root of 64
    np.testing.assert_array_equal(words.classes, table)
    x = (
        Decoder(cfg)
        .apply({"params": params["backbone"]}, ids, hidden=(0,), logits="none")
        .hidden[0]
    )
    np.testing.assert_array_equal(words.vectors(ids), x)
    given = {"inputs_BLD": table[ids], "hidden": (0,), "logits": "none"}
    as_given = Decoder(cfg).apply({"params": params["backbone"]}, None, **given).hidden[0]
    np.testing.assert_array_equal(as_given, table[ids])
