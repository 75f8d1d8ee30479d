"""The generative head: what p can change, and that decoding is the same function as teacher forcing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import delta as deltas
from jaxrec.delta import DeltaConfig
from jaxrec.models.personal.heads import GenerativeHead, HeadConfig, Memory, head_cache, memory_of
from jaxrec.structs import Delta, LFEOutput

CFG = HeadConfig(vocab=30, d_model=16, layers=2, heads=2, d_ff=24, d_z=8)
HEAD = GenerativeHead(CFG)
SITES = GenerativeHead.sites(CFG)
B, L, M = 3, 6, 5
KINDS = {
    "lora": DeltaConfig(lora_rank=2),
    "adapter": DeltaConfig(adapter_size=3),
    "prefix": DeltaConfig(prefix_length=2),
    "norm": DeltaConfig(norm=True),
    "scale": DeltaConfig(scale=True, scale_sites="k|v|down|cross_v"),
    "attn_bias": DeltaConfig(attn_bias=True),
    "embed": DeltaConfig(embed=True),
    "head": DeltaConfig(head_rank=2),
}


def _random(spec, batch, seed=0):
    rng = np.random.default_rng(seed)
    normal = lambda x: rng.normal(scale=0.5, size=x.shape).astype(np.float32)
    return jax.tree.map(normal, deltas.shapes(SITES, spec, batch))


@pytest.fixture(scope="module")
def world():
    keys = jax.random.split(jax.random.key(0), 3)
    memory = Memory(
        jax.random.normal(keys[0], (B, M, 8)),
        jnp.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]], bool),
        jnp.array([[0, 0, 1, 1, 1]] * B),
    )
    ids = jax.random.randint(keys[1], (B, L), 0, CFG.vocab)
    mask = jnp.array([[1] * 6, [1] * 4 + [0] * 2, [1] * 5 + [0]], bool)
    params = init(HEAD, keys[2], ids, mask, memory)["params"]
    # weights as large as after training: at their small start everything is nearly the identity
    params = jax.tree.map(lambda x: np.asarray(5 * x if x.ndim > 1 else x), params)
    return params, ids, mask, memory


@functools.partial(jax.jit, static_argnums=0)
def init(head, key, ids, mask, memory):
    return head.init(key, ids, mask, memory, method="answer")


@jax.jit
def answer(params, ids, mask, memory, delta=None):
    return HEAD.apply({"params": params}, ids, mask, memory, delta, method="answer").logits


@pytest.mark.parametrize("kind", KINDS)
def test_a_zero_delta_is_the_identity_and_another_is_not(world, kind):
    params, ids, mask, memory = world
    plain = answer(params, ids, mask, memory)
    zero = deltas.zeros(SITES, KINDS[kind], 1)
    np.testing.assert_allclose(answer(params, ids, mask, memory, zero), plain, atol=1e-5)
    changed = answer(params, ids, mask, memory, _random(KINDS[kind], 1))
    assert np.abs(np.asarray(changed - plain))[np.asarray(mask)].max() > 1e-3


@pytest.mark.parametrize("kind", [*KINDS, "prompt"])
def test_a_row_per_tenant_equals_a_loop_over_tenants(world, kind):
    params, ids, mask, memory = world
    spec = DeltaConfig(prompt_length=2) if kind == "prompt" else KINDS[kind]
    bank = _random(spec, B)
    together = answer(params, ids, mask, memory, bank)
    for i in range(B):
        one = jax.tree.map(lambda x, i=i: x[i : i + 1], (ids, mask, memory))
        alone = answer(params, *one, deltas.take(bank, jnp.array([i])))
        real = np.asarray(mask[i])
        np.testing.assert_allclose(alone[0][real], together[i][real], atol=1e-4)


def test_padding_of_answer_and_memory_changes_nothing(world):
    params, ids, mask, memory = world
    wide = jnp.pad(ids, ((0, 0), (2, 1)), constant_values=7)
    wide_mask = jnp.pad(mask, ((0, 0), (2, 1)))
    longer = Memory(
        jnp.pad(memory.z_BMD, ((0, 0), (0, 3), (0, 0)), constant_values=9.0),
        jnp.pad(memory.mask_BM, ((0, 0), (0, 3))),
        jnp.pad(memory.segment_BM, ((0, 0), (0, 3))),
    )
    real = np.asarray(mask)
    np.testing.assert_allclose(
        np.asarray(answer(params, wide, wide_mask, longer)[:, 2:-1])[real],
        np.asarray(answer(params, ids, mask, memory))[real],
        atol=1e-4,
    )


@pytest.mark.parametrize(
    "spec", [None, DeltaConfig(lora_rank=2, norm=True, embed=True, prompt_length=2)]
)
def test_decoding_in_chunks_equals_the_whole_answer(world, spec):
    params, ids, mask, memory = world
    delta = None if spec is None else _random(spec, B)
    whole = answer(params, ids, mask, memory, delta)

    @jax.jit
    def in_chunks(params, ids, mask, memory, delta):
        recall = HEAD.apply({"params": params}, memory, delta, method="remember")
        cache, got = head_cache(CFG, B, L + 2), []
        for part in (slice(0, 3), slice(3, 4), slice(4, 6)):
            out = HEAD.apply(
                {"params": params}, ids[:, part], mask[:, part], recall, delta=delta, cache=cache
            )
            cache, got = out.cache, [*got, out.logits]
        return got

    got = in_chunks(params, ids, mask, memory, delta)
    real = np.asarray(mask)
    np.testing.assert_allclose(
        np.asarray(jnp.concatenate(got, 1))[real], np.asarray(whole)[real], atol=1e-4
    )


def test_a_memory_encoder_reads_the_whole_memory(world):
    _, ids, mask, memory = world
    head = GenerativeHead(dataclasses.replace(CFG, memory_encoder=True))
    params = init(head, jax.random.key(1), ids, mask, memory)
    remember = jax.jit(lambda params, memory: head.apply(params, memory, method="remember"))
    before = remember(params, memory)
    other = memory.replace(z_BMD=memory.z_BMD.at[:, 0].add(1.0))
    after = remember(params, other)
    assert np.abs(np.asarray(before.k_NBGMK - after.k_NBGMK)[:, 0, :, 1]).max() > 1e-4


def test_memory_joins_summary_turn_and_passages():
    z = LFEOutput(
        jnp.ones((2, 4, 8)), jnp.full((2, 8), 2.0), jnp.array([[1, 1, 1, 0], [0, 0, 0, 0]], bool)
    )
    memory = memory_of(z, z)
    assert memory.z_BMD.shape == (2, 9, 8)
    assert memory.segment_BM[0].tolist() == [0] * 5 + [1] * 4
    assert memory.mask_BM.tolist()[0] == [True] * 4 + [False] + [True] * 3 + [False]
    assert not memory.mask_BM[1].any()


def test_an_unknown_stack_is_refused(world):
    params, ids, mask, memory = world
    delta = _random(KINDS["lora"], 1)
    with pytest.raises(ValueError, match="stack_9"):
        answer(params, ids, mask, memory, Delta({"stack_9": delta.stacks["stack_0"]}))
