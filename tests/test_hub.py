"""The hub's ways in and out, and one clear message for each thing that can be wrong with a checkpoint."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from jaxrec import hub
from jaxrec.hub import weights
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.nn.encoder import EncoderConfig
from jaxrec.nn.rope import RopeScaling

CFG = DecoderConfig(vocab=40, d_model=16, layers=3, heads=2, groups=1, head_dim=8, d_ff=24)


@pytest.fixture(scope="module")
def params():
    return Decoder(CFG).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]


@pytest.fixture
def folder(params, tmp_path):
    hub.save(tmp_path, CFG, params)
    return tmp_path


@pytest.mark.parametrize(
    "cfg",
    [
        CFG,
        dataclasses.replace(CFG, qkv_bias=True, tied=True, rope_theta=1e6),
        dataclasses.replace(CFG, qk_norm=True, rope_scaling=RopeScaling("yarn", 4.0, 32, mscale=0.7)),
        dataclasses.replace(CFG, rope_scaling=RopeScaling("llama3", 8.0, 16, 1.0, 2.0)),
        dataclasses.replace(
            CFG, norm="layer", gated=False, activation="gelu_tanh", qkv_bias=True, o_bias=True,
            mlp_bias=True, head_bias=True, parallel=True, rope_fraction=0.5,
        ),
        EncoderConfig(layers=2),
        EncoderConfig(layers=2, types=0, first_position=2, distance_buckets=32),
    ],
)  # fmt: skip
def test_configs_come_back(cfg):
    assert hub.from_hf(hub.to_hf(cfg, hub.family_of(cfg)))[0] == cfg


def test_a_model_that_no_family_holds_is_refused():
    with pytest.raises(ValueError, match="as qwen3 it would lose gated"):
        hub.family_of(dataclasses.replace(CFG, qk_norm=True, gated=False))


def test_saved_is_loaded_bit_for_bit_in_other_cuts_and_types(params, folder):
    cfg, same = hub.load(folder)
    assert cfg == CFG
    jax.tree.map(np.testing.assert_array_equal, same, params)
    cut, apart = hub.load(folder, param_dtype=jnp.bfloat16, cuts=(2,), dtype="bfloat16")
    assert cut.cuts == (2,) and cut.dtype == "bfloat16"
    expected = params["stack_0"]["attn"]["q"]["kernel"][2:].astype(jnp.bfloat16)
    np.testing.assert_array_equal(apart["stack_1"]["attn"]["q"]["kernel"], expected)
    hub.save(folder / "half", cut, apart)
    jax.tree.map(np.testing.assert_array_equal, hub.load(folder / "half", cuts=(2,))[1], apart)


def test_each_device_reads_only_its_shard(params, folder, monkeypatch):
    """Sharded over 4 devices, no read of a sharded kernel is larger than a quarter of it."""
    mesh = Mesh(np.array(jax.devices()[:4]), ("fsdp",))
    read = []
    plain = weights.Tensors.slice

    def counting(self, name, index):
        x = plain(self, name, index)
        read.append((name, x.size))
        return x

    monkeypatch.setattr(weights.Tensors, "slice", counting)

    def place(path, leaf):
        kernel = "stack" in str(path[0]) and path[-1].key == "kernel"
        spec = PartitionSpec(None, "fsdp") if kernel else PartitionSpec()
        return NamedSharding(mesh, spec)

    _, sharded = hub.load(
        folder, shardings=lambda shapes: jax.tree_util.tree_map_with_path(place, shapes)
    )
    jax.tree.map(np.testing.assert_array_equal, sharded, params)
    kernel = sharded["stack_0"]["mlp"]["up"]["kernel"]
    assert kernel.sharding.spec == PartitionSpec(None, "fsdp")
    sizes = {size for name, size in read if "up_proj" in name}
    assert sizes == {16 * 24 // 4}


def test_broken_checkpoints_are_refused_with_names(folder):
    tensors = load_file(folder / "model.safetensors")
    q = "model.layers.1.self_attn.q_proj.weight"

    save_file(tensors | {q: np.zeros((3, 16), np.float32)}, folder / "model.safetensors")
    with pytest.raises(
        ValueError, match=rf"tensor {q} has shape \(3, 16\), the config asks for \(16, 16\)"
    ):
        hub.load(folder)
    save_file({k: v for k, v in tensors.items() if k != q}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"lacks the tensor {q}"):
        hub.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has neither"):
        hub.load(folder)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {q: "gone.safetensors"}})
    )
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors is missing"):
        weights.Tensors(folder, "llama").slice(q, (slice(None),))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 3}))
    with pytest.raises(ValueError, match="lacks the field 'num_attention_heads'"):
        hub.load(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(ValueError, match="'mamba' is not supported; supported are llama, mistral"):
        hub.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        hub.load(folder)


def test_what_the_config_asks_beyond_us_is_refused():
    hf = hub.to_hf(CFG, "llama")
    with pytest.raises(ValueError, match="rope scaling 'dynamic' is not supported"):
        hub.from_hf(hf | {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}})
    with pytest.raises(ValueError, match="sliding-window"):
        hub.from_hf(hf | {"model_type": "qwen2", "use_sliding_window": True})
    with pytest.raises(ValueError, match="activation 'swish9'"):
        hub.from_hf(hf | {"hidden_act": "swish9"})


def test_saved_files_are_plain_huggingface(folder, params):
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        assert "model.layers.2.mlp.gate_proj.weight" in file.keys()
        head = file.get_tensor("lm_head.weight")
    np.testing.assert_array_equal(head, np.asarray(params["head"]["kernel"]).T)


@pytest.fixture
def words(tmp_path):
    """A folder with a tokenizer of ten words and a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocab = {w: i for i, w in enumerate("<pad> <s> </s> <unk> hello world how are you ?".split())}
    rust = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    rust.add_special_tokens(["<pad>", "<s>", "</s>"])
    rust.enable_truncation(2)
    rust.save(str(tmp_path / "tokenizer.json"))
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'robot' %}{{ raise_exception('no robots') }}"
        "{% endif %}{{ m.content }} </s>{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"
    )
    named = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": "<pad>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named | {"chat_template": template}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 9]}))
    return tmp_path


def test_tokenizer_encodes_decodes_and_writes_chats(words):
    tokenizer = hub.Tokenizer(words)
    assert tokenizer.encode("hello world how are you") == [4, 5, 6, 7, 8]  # not cut at the file's 2
    assert tokenizer.encode_all(["hello", "how are you ?"], limit=3) == [[4], [6, 7, 8]]
    assert tokenizer.decode([1, 4, 5, 2]) == "hello world"
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.pad_id, len(tokenizer)) == (
        1,
        (2, 9),
        0,
        10,
    )
    talk = [{"role": "user", "content": "hello"}]
    assert tokenizer.chat(talk) == "<s>hello </s><s>"
    assert tokenizer.chat_ids(talk, answer_next=False) == [1, 4, 2]
    with pytest.raises(ValueError, match="no robots"):
        tokenizer.chat([{"role": "robot", "content": "beep"}])


def test_tokenizer_and_model_must_agree(words):
    with pytest.raises(ValueError, match="10 tokens, but the embedding only 8 rows"):
        hub.check_vocabulary(len(hub.Tokenizer(words)), dataclasses.replace(CFG, vocab=8))
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json is missing"):
        hub.Tokenizer(words / "nowhere")


def test_padding_of_ragged_rows():
    ids, mask = hub.pad([[1, 2, 3], [4]], pad_id=9)
    np.testing.assert_array_equal(ids, [[1, 2, 3], [4, 9, 9]])
    np.testing.assert_array_equal(mask, [[True] * 3, [True, False, False]])
    with pytest.raises(ValueError, match="row 0 has 3 tokens, more than the length 2"):
        hub.pad([[1, 2, 3]], length=2)
