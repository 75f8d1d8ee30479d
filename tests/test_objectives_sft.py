"""The loss of supervised fine-tuning: what it is, and that packing, bucketing and padding do not change it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import delta as deltas
from jaxrec import objectives
from jaxrec.data import text
from jaxrec.data.instruction_batches import batches
from jaxrec.data.text import Example
from jaxrec.delta import DeltaConfig
from jaxrec.models.language.tuned_lm import TunedLM
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.structs import Tokens

CFG = DecoderConfig(
    vocab=300, d_model=32, layers=2, heads=2, groups=1, head_dim=16, d_ff=48, max_positions=96,
    tied=True, init_std=0.2,
)  # fmt: skip
EVERY = DeltaConfig(
    lora_rank=2, adapter_size=2, prefix_length=2, norm=True, scale=True, attn_bias=True,
    prompt_length=2, embed=True,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quickly():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda key: Decoder(CFG).init(key, jnp.zeros((1, 2), jnp.int32))["params"])(
        jax.random.key(0)
    )


def lively(cfg=CFG, spec=EVERY):
    """A Delta that is far from the identity everywhere."""
    rng = np.random.default_rng(1)
    like = deltas.shapes(Decoder.sites(cfg), spec)
    return jax.tree.map(lambda x: jnp.array(rng.normal(size=x.shape, scale=0.3), x.dtype), like)


def test_packed_rows_say_what_padded_rows_say(params):
    """Logits of every example and the loss, through a Delta of every kind: attention never crosses examples."""
    rng = np.random.default_rng(0)
    sizes = [9, 4, 7, 3, 5, 4]
    examples = [
        Example(rng.integers(4, 300, n).tolist(), [0.0, 0.0] + [1.0] * (n - 2)) for n in sizes
    ]
    lm, tree = TunedLM(Decoder(CFG)), {"backbone": params, "delta": lively()}
    packed = jax.tree.map(lambda x: np.pad(x, ((0, 4), (0, 0))), Tokens(**text.pack(examples, 16)))
    padded = Tokens(**text.pad(examples, 16))
    loss, weigh = objectives.sft(lm)

    @jax.jit
    def both(tree, batch):
        value, aux = loss(tree, {}, None, batch, weigh(batch), None)
        return lm.outputs(tree, batch).logits, value, aux.metrics["tokens"]

    near, first, one = both(tree, packed)
    far, second, two = both(tree, padded)
    places = {}  # an example's place among the packed rows, found by its ids
    for b in range(len(packed.ids_BL)):
        for s in range(1, packed.segments_BL[b].max() + 1):
            at = np.flatnonzero(packed.segments_BL[b] == s)
            places[tuple(packed.ids_BL[b][at])] = b, at
    assert len(packed.ids_BL) == len(padded.ids_BL) and len(places) == len(examples)
    for i, example in enumerate(examples):
        b, at = places[tuple(example.ids)]
        np.testing.assert_allclose(near[b][at], far[i, : len(example.ids)], atol=2e-5)
    np.testing.assert_allclose(first, second, rtol=1e-5)
    assert float(one) == float(two) == sum(sizes) - 2 * len(sizes)


def test_the_loss_is_the_mean_over_learned_tokens(params):
    """Against numpy; masked tokens weigh nothing, empty rows neither."""
    ids = np.random.default_rng(2).integers(4, 300, (4, 8)).astype(np.int32)
    weight = np.zeros((4, 8), np.float32)
    weight[0, 3:6], weight[1, 2] = 1, 1
    mask = np.ones((4, 8), bool)
    mask[3] = False
    lm = TunedLM(Decoder(CFG))
    loss, weigh = objectives.sft(lm)

    @jax.jit
    def both(tree, batch):
        value, aux = loss(tree, {}, None, batch, weigh(batch), None)
        return value, aux.metrics["tokens"], lm.outputs(tree, batch).logits

    value, tokens, logits = jax.device_get(both({"backbone": params}, Tokens(ids, mask, weight)))
    shifted = logits - logits.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    wanted = -np.mean(
        [log_p[b, t - 1, ids[b, t]] for b, t in zip(*np.nonzero(weight), strict=True)]
    )
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    assert tokens == 4


def test_batches_of_all_three_kinds_give_the_same_total_loss(params):
    """An epoch's summed loss: what is learned does not depend on how rows are laid out."""
    rng = np.random.default_rng(5)
    sizes = rng.integers(4, 16, 12)
    examples = [Example(rng.integers(4, 300, n).tolist(), [0.0] + [1.0] * (n - 1)) for n in sizes]
    loss, weigh = objectives.sft(TunedLM(Decoder(CFG)))

    @jax.jit
    def total(batch):
        weight = weigh(batch)
        return loss({"backbone": params}, {}, None, batch, weight, None)[0] * weight["tokens"]

    sums = {}
    for how in ("padded", "bucketed", "packed"):
        made = batches(examples, how, length=16, rows=1, buckets=(8, 16))
        state, sums[how] = made.source.init(), 0.0
        while int(state["epoch"]) == 0:
            batch, state = made.source(0, None, state)
            sums[how] += float(total(batch))
    assert sums["padded"] == pytest.approx(sums["packed"], rel=1e-5)
    assert sums["padded"] == pytest.approx(sums["bucketed"], rel=1e-5)
