"""Every backbone family against its `transformers` implementation, on random weights with a fixed seed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import hub
from jaxrec.nn.decoder import Decoder
from jaxrec.nn.encoder import Encoder

torch = pytest.importorskip("torch", reason="parity needs torch")
transformers = pytest.importorskip("transformers", reason="parity needs transformers")

TOLERANCE = 1e-4
SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
DECODERS = {
    "llama2": ("Llama", {}),
    "llama3": ("Llama", {"num_key_value_heads": 2, "rope_theta": 5e5, "rope_scaling": LLAMA3}),
    "llama_linear": ("Llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "mistral": ("Mistral", {"num_key_value_heads": 2, "sliding_window": 5}),
    "qwen2": ("Qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen2_yarn": ("Qwen2", {"num_key_value_heads": 1, "rope_scaling": YARN}),
    "qwen3": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True}),
    "phi2": ("Phi", {"partial_rotary_factor": 0.5}),
}
_FULL, _NEAR = {"rope_type": "linear", "factor": 8.0}, {"rope_type": "default"}
# Gemma 3, tested in `test_gemma`: every second layer global, local ones of another base.
GEMMA3 = (
    "Gemma3",
    {
        "num_hidden_layers": 5, "num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 12,
        "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"],
        "rope_parameters": {
            "full_attention": _FULL | {"rope_theta": 1e6}, "sliding_attention": _NEAR | {"rope_theta": 1e4},
        },
    },
)  # fmt: skip
ENCODERS = {
    "bert": ("Bert", {}),
    "mpnet": ("MPNet", {"relative_attention_num_buckets": 32}),
}


def saved(family: str, options: dict, folder) -> torch.nn.Module:
    """A random model of the family, every weight (norms and biases too) away from its default, in `folder`."""
    options = SMALL | options
    two_bases = "rope_parameters" in options
    rope = dict(options.pop("rope_scaling", None) or {"rope_type": "default"})
    rope["rope_theta"] = options.pop("rope_theta", 10000.0)
    if "partial_rotary_factor" in options:
        rope["partial_rotary_factor"] = options.pop("partial_rotary_factor")
    kind = "Model" if family in ("Bert", "MPNet") else "ForCausalLM"
    if kind == "ForCausalLM" and not two_bases:
        options["rope_parameters"] = rope
    text = "Text" * (family == "Gemma3")
    cfg = getattr(transformers, f"{family}{text}Config")(**options, attn_implementation="eager")
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}{kind}")(cfg).eval()
    with torch.no_grad():
        for x in model.parameters():
            x.add_(torch.randn_like(x) * 0.2)
    model.save_pretrained(folder)
    return model


def _batch(side: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    ids, mask = rng.integers(3, 61, (3, 40)), np.ones((3, 40), bool)
    for row, n in enumerate((0, 7, 21)):
        part = slice(0, n) if side == "left" else slice(40 - n, 40)
        mask[row, part] = False
    return np.where(mask, ids, 1), mask


def _theirs(model, ids, mask, **more):
    with torch.inference_mode():
        return model(
            torch.tensor(ids), attention_mask=torch.tensor(mask).long(),
            output_hidden_states=True, **more,
        )  # fmt: skip


def _positions(mask: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.maximum(mask.cumsum(1) - 1, 0))


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model = saved(*DECODERS[request.param], folder)
    return model, folder, *hub.load(folder)


@pytest.mark.parametrize("side", ["left", "right"])
def test_decoder_equals_transformers(decoder, side):
    model, _, cfg, params = decoder
    ids, mask = _batch(side)
    theirs = _theirs(model, ids, mask, position_ids=_positions(mask))
    run = jax.jit(
        lambda p, i, m: Decoder(cfg).apply({"params": p}, i, m, hidden=tuple(range(cfg.layers + 1)))
    )
    ours = run(params, jnp.array(ids), jnp.array(mask))
    for i, (a, b) in enumerate(zip(ours.hidden, theirs.hidden_states, strict=True)):
        np.testing.assert_allclose(a[mask], b.numpy()[mask], atol=TOLERANCE, err_msg=f"hidden {i}")
    np.testing.assert_allclose(ours.logits[mask], theirs.logits.numpy()[mask], atol=TOLERANCE)


def test_saved_again_is_the_same_for_transformers(decoder, tmp_path):
    """Our params written in several files, loaded by transformers: bit for bit the model that we read."""
    model, _, cfg, params = decoder
    hub.save(tmp_path, cfg, params, shard_bytes=20_000)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    again = type(model).from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids, mask = _batch("right")
    where = {"position_ids": _positions(mask)}
    a, b = _theirs(model, ids, mask, **where).logits, _theirs(again, ids, mask, **where).logits
    np.testing.assert_array_equal(a.numpy()[mask], b.numpy()[mask])


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_equals_transformers(name, tmp_path):
    model = saved(*ENCODERS[name], tmp_path)
    cfg, params = hub.load(tmp_path)
    every = tuple(range(cfg.layers + 1))
    run = jax.jit(lambda p, i, m: Encoder(cfg).apply({"params": p}, i, m, hidden=every).hidden)
    for side in ("left", "right"):
        ids, mask = _batch(side)
        # BERT numbers places, we number tokens: the same with right padding, and told to HF with left
        where = {"position_ids": _positions(mask)} if name == "bert" else {}
        theirs = _theirs(model, ids, mask, **where).hidden_states
        for i, (a, b) in enumerate(
            zip(run(params, jnp.array(ids), jnp.array(mask)), theirs, strict=True)
        ):
            np.testing.assert_allclose(
                a[mask], b.numpy()[mask], atol=TOLERANCE, err_msg=f"{side} {i}"
            )
    hub.save(tmp_path / "again", cfg, params)
    again = type(model).from_pretrained(tmp_path / "again", attn_implementation="eager").eval()
    np.testing.assert_array_equal(
        _theirs(again, ids, mask, **where)[0], _theirs(model, ids, mask, **where)[0]
    )


def test_cuts_and_precision_are_ours(decoder):
    """The same checkpoint loaded with every layer its own stack gives the same; bf16 gives about the same."""
    _, folder, cfg, params = decoder
    ids, mask = (jnp.array(x) for x in _batch("right"))
    out = lambda c, p: jax.jit(lambda p: Decoder(c).apply({"params": p}, ids, mask).logits)(p)[mask]
    plain = out(cfg, params)
    cut, apart = hub.load(folder, cuts=(1, 2))
    assert set(apart) >= {"stack_0", "stack_1", "stack_2"}
    np.testing.assert_allclose(out(cut, apart), plain, atol=1e-5)
    half = out(dataclasses.replace(cfg, dtype="bfloat16"), params)
    assert np.abs(half - plain).max() < 0.1 * np.abs(plain).max()
