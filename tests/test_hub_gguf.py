"""GGUF files against a real llama.cpp: the same probabilities, the same tokens, adapters too; clear refusals."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from llama_cpp_server import Llama

from jaxrec import delta as deltas
from jaxrec import hub, quant
from jaxrec.data import text
from jaxrec.hub import gguf
from jaxrec.hub.peft import save_peft
from jaxrec.nn import layers
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.nn.encoder import EncoderConfig
from jaxrec.nn.rope import RopeScaling

pytest.importorskip("gguf", reason="the package gguf is not installed (extra `gguf`)")

LLAMA = DecoderConfig(
    vocab=304, d_model=64, layers=3, heads=4, groups=2, head_dim=16, d_ff=96,
    max_positions=256, cuts=(1,),
)  # fmt: skip
CONFIGS = {
    "llama": LLAMA,
    "llama3": dataclasses.replace(LLAMA, rope_scaling=RopeScaling("llama3", 8.0, 16, 1.0, 4.0)),
    "qwen2": dataclasses.replace(LLAMA, qkv_bias=True, tied=True, rope_theta=1e6),
    "qwen3": dataclasses.replace(LLAMA, qk_norm=True, tied=True, head_dim=24),
    "phi": dataclasses.replace(
        LLAMA, groups=4, norm="layer", gated=False, activation="gelu_tanh", qkv_bias=True,
        o_bias=True, mlp_bias=True, head_bias=True, parallel=True, rope_fraction=0.5,
    ),
    "gemma3": dataclasses.replace(
        LLAMA, layers=4, head_dim=32, activation="gelu_tanh", norm="rms_offset", qk_norm=True,
        post_norms=True, embed_scaled=True, tied=True, layer_types=("local", "global"), window=8,
        rope_theta=1e6, rope_scaling=RopeScaling("linear", 8.0), local_rope_theta=200.0,
    ),
}  # fmt: skip
WITHIN = {"f32": 1e-4, "f16": 5e-3, "q8_0": 1e-1}  # of log-probabilities
TEXTS = [
    "the red bread and coffee arrived late again 123 times, isn't it?",
    "a chair, the lamp's light: warm!  \n\n Тёплый свет — 2024",
]
TRAINED = Path(__file__).parent.parent / "runs" / "backbone_small" / "model"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with a tokenizer of this project."""
    folder = tmp_path_factory.mktemp("own")
    text.train_tokenizer(TEXTS * 5, 300).save(folder / "tokenizer.json")
    return folder


def weights_of(cfg: DecoderConfig) -> dict:
    """Random, and large enough that no part of the model is without effect."""
    shapes = hub.shapes_of(cfg)
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    one = lambda s: jnp.asarray(rng.normal(0, 0.1, s.shape), jnp.float32)
    params = jax.tree.unflatten(tree, [one(s) for s in leaves])
    begin = 0 if cfg.norm == "rms_offset" else 1
    scale = lambda path, x: x + begin if path[-1].key == "scale" else x
    return jax.tree_util.tree_map_with_path(scale, params)


@functools.partial(jax.jit, static_argnums=0)
def logits_of(cfg, params, ids, delta):
    return Decoder(cfg).apply({"params": params}, ids, delta=delta).logits


def log_probabilities(cfg, params, ids, delta=None) -> np.ndarray:
    """Ours of the token after `ids`."""
    row = jnp.array([ids + [0] * (64 - len(ids))])  # one program for all lengths
    return np.asarray(jax.nn.log_softmax(logits_of(cfg, params, row, delta)[0, len(ids) - 1]))


def plain_letter(folder: Path) -> int:
    return hub.Tokenizer(folder).encode("a", special=False)[-1]


# ------------------------------------------------------------------------------------------------ the model


@pytest.mark.parametrize("family", CONFIGS)
def test_llama_cpp_says_what_we_say(own, tmp_path, family, monkeypatch):
    cfg = CONFIGS[family]
    params, letter = weights_of(cfg), plain_letter(own)
    ids = [1, *np.random.default_rng(1).integers(16, 300, 30).tolist()]
    if cfg.activation == "gelu_tanh":
        # ggml reads GELU from a table in f16: that alone moves Phi-2's f32 by 1e-3. So do we here, to see the rest.
        half = lambda x: x.astype(jnp.float16).astype(jnp.float32)
        rounded = lambda x: half(jax.nn.gelu(half(x), approximate=True))
        monkeypatch.setitem(layers.ACTIVATIONS, "gelu_tanh", rounded)
        cfg = dataclasses.replace(cfg, init_std=0.03)  # another program
    ours = log_probabilities(cfg, params, ids)
    assert ours.max() - ours.min() > 1.5
    for kind in gguf.TYPES if family not in ("llama3", "qwen3") else ("f32",):
        file = tmp_path / f"{kind}.gguf"
        gguf.export(file, cfg, params, own, kind)
        theirs, n = Llama(file).after(cfg.vocab, letter, prompt=ids)
        assert n == len(ids)
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=WITHIN[kind], err_msg=kind)


def test_phi_with_its_own_gelu(own, tmp_path):
    cfg = CONFIGS["phi"]
    params, ids = weights_of(cfg), [1, 40, 77, 130, 9]
    gguf.export(tmp_path / "phi.gguf", cfg, params, own, "f32")
    theirs, _ = Llama(tmp_path / "phi.gguf").after(cfg.vocab, plain_letter(own), prompt=ids)
    np.testing.assert_allclose(theirs, log_probabilities(cfg, params, ids), rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    "family", ["qwen2", *(pytest.param(one, marks=pytest.mark.slow) for one in ("llama", "gemma3"))]
)
def test_a_lora_as_an_adapter(own, tmp_path, family):
    """Of the same effect as in ours, on top of quantised weights written as what they stand for."""
    cfg = CONFIGS[family]
    params = quant.quantise_params(weights_of(cfg))
    spec = deltas.DeltaConfig(lora_rank=4, lora_alpha=6.0)
    zero = deltas.zeros(Decoder.sites(cfg), spec)
    rng = np.random.default_rng(2)
    delta = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.1, x.shape), x.dtype), zero)
    ids, letter = [1, 40, 77, 130, 9], plain_letter(own)
    gguf.export(tmp_path / "m.gguf", cfg, params, own, "f32")
    gguf.export_adapter(tmp_path / "a.gguf", cfg, delta)
    tuned = log_probabilities(cfg, params, ids, delta)
    assert np.abs(tuned - log_probabilities(cfg, params, ids)).max() > 1e-2
    theirs, _ = Llama(tmp_path / "m.gguf", tmp_path / "a.gguf").after(cfg.vocab, letter, prompt=ids)
    gelu = 5e-3 if cfg.activation == "gelu_tanh" else 1e-4
    np.testing.assert_allclose(theirs, tuned, rtol=0, atol=gelu)


@pytest.mark.parametrize("family", ["llama", pytest.param("gemma3", marks=pytest.mark.slow)])
def test_greedy_text_is_ours(own, tmp_path, family):
    cfg, letter = CONFIGS[family], plain_letter(own)
    params, ids = weights_of(cfg), [1, 40, 77]
    gguf.export(tmp_path / "m.gguf", cfg, params, own, "f16")
    llama = Llama(tmp_path / "m.gguf")
    for _ in range(8):
        theirs, _ = llama.after(cfg.vocab, letter, prompt=ids)
        ours = log_probabilities(cfg, params, ids)
        best = int(ours.argmax())
        near = np.sort(ours)[-1] - np.sort(ours)[-2] < 1e-2
        assert near or int(theirs.argmax()) == best
        ids = [*ids, best]


@pytest.mark.skipif(not TRAINED.is_dir(), reason="no trained model in runs/backbone_small")
def test_trained_weights(tmp_path):
    cfg, params = hub.load(TRAINED)
    tokenizer = text.BytePairTokenizer.load(TRAINED / "tokenizer.json")
    said = "The food was cold and the staff did not care. We will"
    ids = [tokenizer.special["<bos>"], *tokenizer.encode(said)]
    ours = log_probabilities(cfg, params, ids)
    for kind in gguf.TYPES:
        gguf.export(tmp_path / f"{kind}.gguf", cfg, params, TRAINED, kind)
        llama = Llama(tmp_path / f"{kind}.gguf")
        theirs, n = llama.after(cfg.vocab, plain_letter(TRAINED), prompt=said)
        assert n == len(ids)  # <bos> is theirs
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=WITHIN[kind], err_msg=kind)


# ------------------------------------------------------------------------------------------------ tokenizers


def level_tokenizer(folder: Path, rule: str) -> None:
    """A tokenizer of Llama 3's or Qwen2's form: a rule of splitting, bytes, special tokens, a chat template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rule), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    special = ["<|start|>", "<|end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core.train_from_iterator(
        TEXTS * 5,
        trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False),
    )
    core.add_special_tokens(special)
    folder.mkdir()
    core.save(str(folder / "tokenizer.json"))
    template = (
        "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
    )
    settings = {"eos_token": "<|end|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def piece_tokenizer(folder: Path) -> None:
    """A tokenizer of Llama 2's form: pieces with a byte fallback, a space before the text, <s> before all."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers

    core = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.ByteFallback()
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=304, special_tokens=special + bytes_, show_progress=False, max_token_length=8
    )
    core.train_from_iterator(["the bread and the red bread"] * 5, trainer)
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    contents = json.loads(core.to_str())
    contents["added_tokens"] = contents["added_tokens"][:3]  # bytes are tokens like others
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(contents))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    "form",
    ["own", "qwen2", "llama-bpe", "pieces", pytest.param("gemma3", marks=pytest.mark.slow)],
)
def test_texts_and_chats_become_our_tokens(own, tmp_path, form):
    """llama.cpp is given the text, we our own ids of it: the next token's probabilities are the same."""
    folder = own
    cfg = CONFIGS["llama"]
    if form == "pieces":
        piece_tokenizer(folder := tmp_path / form)
    elif form == "gemma3":
        size = tiny_models.tokenizer(form, folder := tmp_path / form)
        cfg = dataclasses.replace(cfg, vocab=size)
    elif form != "own":
        from jaxrec.hub.gguf_tokenizer import SPLITS

        (rule,) = (rule for rule, name in SPLITS.items() if name == form)
        level_tokenizer(folder := tmp_path / form, rule)
    params, tokenizer = weights_of(cfg), hub.Tokenizer(folder)
    gguf.export(tmp_path / "m.gguf", cfg, params, folder, "f32")
    llama, letter = Llama(tmp_path / "m.gguf"), plain_letter(folder)
    first = [1] if form == "own" else []
    said = " and  the lamp's red bread,\n123 Ещё?" if form != "pieces" else "the red  bread: Ещё"
    cases = {said: {"prompt": said}}
    ids = {said: first + tokenizer.encode(said)}
    if form != "pieces":
        messages = [{"role": "user", "content": "is it late?"}]
        cases["chat"] = {"messages": messages}
        if form == "own":
            own_tokenizer = text.BytePairTokenizer.load(folder / "tokenizer.json")
            ids["chat"] = text.prompt(own_tokenizer, [("user", "is it late?")])
        else:
            ids["chat"] = tokenizer.chat_ids(messages)
    for name, prompt in cases.items():
        theirs, n = llama.after(cfg.vocab, letter, **prompt)
        assert n == len(ids[name]), name
        ours = log_probabilities(cfg, params, ids[name])
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4, err_msg=name)


# ------------------------------------------------------------------------------------------------ bad input


def test_what_a_gguf_file_cannot_hold_is_said(own, tmp_path):
    cfg, out = CONFIGS["llama"], tmp_path / "x.gguf"
    params = weights_of(cfg)
    with pytest.raises(
        gguf.GgufError, match="type 'q4_0' is not known: choose one of f32, f16, q8_0"
    ):
        gguf.export(out, cfg, params, own, "q4_0")
    with pytest.raises(gguf.GgufError, match="a bert model has no GGUF export"):
        gguf.check_model(EncoderConfig(vocab=9, d_model=8, layers=1, heads=2, d_ff=8))
    with pytest.raises(hub.ModelError, match="300 tokens, but the embedding only 200"):
        gguf.export(out, dataclasses.replace(cfg, vocab=200), params, own)
    with pytest.raises(hub.ModelMissing, match=r"tokenizer.json is missing"):
        gguf.export(out, cfg, params, tmp_path)
    gemma = CONFIGS["gemma3"]
    for change, said in (
        ({"query_scalar": 24.0}, "by the root of 32, and a GGUF file can't say 24"),
        ({"layer_types": ("global", "local")}, "these are global, local"),
        ({"rope_scaling": RopeScaling("llama3", 8.0, 16)}, "no GGUF export in a Gemma 3"),
    ):
        with pytest.raises(gguf.GgufError, match=said):
            gguf.check_model(dataclasses.replace(gemma, **change))
    sites = Decoder.sites(cfg)
    for spec, said in (
        (deltas.DeltaConfig(scale=True), "LoRA alone, not scale"),
        (deltas.DeltaConfig(embed=True), "LoRA alone, not embed_BD"),
    ):
        with pytest.raises(gguf.GgufError, match=said):
            gguf.export_adapter(out, cfg, deltas.zeros(sites, spec))
    with pytest.raises(gguf.GgufError, match="one row of a Delta, not 2"):
        gguf.export_adapter(out, cfg, deltas.zeros(sites, deltas.DeltaConfig(lora_rank=2), 2))
    assert not out.exists()


def test_the_command(own, tmp_path, capsys):
    folder, cfg = tmp_path / "model", CONFIGS["qwen2"]
    params = weights_of(dataclasses.replace(cfg, cuts=()))
    hub.save(folder, dataclasses.replace(cfg, cuts=()), params)
    (folder / "tokenizer.json").write_bytes((own / "tokenizer.json").read_bytes())
    gguf.main([str(folder), str(tmp_path / "m.gguf"), "--type", "f16"])
    assert (tmp_path / "m.gguf").stat().st_size > 100_000
    spec = deltas.DeltaConfig(lora_rank=2)
    plain = dataclasses.replace(cfg, cuts=())
    delta = jax.tree.map(lambda x: x + 0.1, deltas.zeros(Decoder.sites(plain), spec))
    save_peft(tmp_path / "peft", delta, spec, plain)
    tuned = [
        str(folder),
        str(tmp_path / "t.gguf"),
        "--type",
        "f16",
        "--adapter",
        str(tmp_path / "peft"),
    ]
    gguf.main(tuned)
    assert (tmp_path / "t.gguf").stat().st_size == (tmp_path / "m.gguf").stat().st_size
    assert (tmp_path / "t.gguf").read_bytes() != (tmp_path / "m.gguf").read_bytes()
    gguf.main([*tuned, "--apart"])
    from gguf import GGUFReader

    assert len(GGUFReader(tmp_path / "t.gguf").tensors) == 2 * 7 * cfg.layers
    for wrong, said in (
        ([str(tmp_path / "none"), "x.gguf"], "is no folder here"),
        ([str(folder), "x.gguf", "--type", "q5"], "type 'q5' is not known"),
        ([str(folder), "x.gguf", "--apart"], "name it by --adapter"),
    ):
        with pytest.raises(SystemExit) as stopped:
            gguf.main(wrong)
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and said in error and error.count("\n") == 1
