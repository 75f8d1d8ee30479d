"""GGUF files read: the same model and the same tokens as went in and as llama.cpp has; every fault is one line."""

import dataclasses
import struct
import sys
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_hub_gguf as out_tests
from flax.traverse_util import flatten_dict
from llama_cpp_server import Llama
from varied_texts import varied_texts

from jaxrec import hub, quant
from jaxrec.data import text
from jaxrec.hub import gguf, gguf_file, gguf_vocabulary, quantised
from jaxrec.hub.gguf_file import Place, read_rows
from jaxrec.hub.gguf_folder import GgufTensors
from jaxrec.hub.gguf_tokenizer import SPLITS
from jaxrec.hub.published import folder_of
from jaxrec.models.language.model_folder import base_hash, load_model, place_facts, place_of
from jaxrec.nn.rope import RopeScaling

package = pytest.importorskip("gguf", reason="the package gguf is not installed (extra `gguf`)")

LLAMA = dataclasses.replace(out_tests.LLAMA, cuts=())
LINEAR = RopeScaling("linear", 4.0)
CONFIGS = {name: dataclasses.replace(cfg, cuts=()) for name, cfg in out_tests.CONFIGS.items()}
CONFIGS["linear"] = dataclasses.replace(LLAMA, rope_scaling=LINEAR, norm_eps=1e-5, rope_theta=5e5)
CONFIGS["biased"] = dataclasses.replace(LLAMA, qkv_bias=True, o_bias=True, mlp_bias=True)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with a tokenizer of this project."""
    folder = tmp_path_factory.mktemp("own")
    text.train_tokenizer(out_tests.TEXTS * 5, 300).save(folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def file(own, tmp_path_factory):
    """A Llama as a GGUF file of F32."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    gguf.export(path, LLAMA, out_tests.weights_of(LLAMA), own, "f32")
    return path


def same(got, want) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def rewritten(file: Path, to: Path, meta=None, tensors=None, form=None) -> Path:
    """A file's copy: metadata changed (None: left out), tensors changed by a function of {name: array}, and matrices
    written in another form."""
    reader, changed = package.GGUFReader(file), meta or {}
    said = {k: f for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    architecture = said.pop("general.architecture").contents()
    writer = package.GGUFWriter(to, changed.pop("general.architecture", architecture))
    for key, f in said.items():
        if key not in changed:
            inner = f.types[1] if len(f.types) > 1 else None
            writer.add_key_value(key, f.contents(), f.types[0], inner)
    for key, value in changed.items():
        if value is not None:
            writer.add_key_value(key, value, package.GGUFValueType.get_type(value))
    arrays = {t.name: np.array(t.data) for t in reader.tensors}
    for name, x in (tensors(arrays) if tensors else arrays).items():
        coded = form is not None and x.ndim > 1
        x = package.quants.quantize(x, form) if coded else x
        writer.add_tensor(name, x, raw_dtype=form if coded else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return to


# ------------------------------------------------------------------------------------------------ the weights


@pytest.mark.parametrize("family", CONFIGS)
def test_what_went_out_comes_in_exactly(own, tmp_path, family):
    cfg = CONFIGS[family]
    params = out_tests.weights_of(cfg)
    gguf.export(tmp_path / "m.gguf", cfg, params, own, "f32")
    got, tree = hub.load(tmp_path / "m.gguf")
    # initial deviations are not in a file, and the export names no other rotary width
    assert dataclasses.replace(got, init_std=cfg.init_std) == cfg
    if family == "gemma3":
        # A file holds 1 + w, rounded: what norms multiply by is the same, w itself the same as far as it counts.
        plus_one = lambda path, x: x + 1 if path[-1].key == "scale" else x
        tree, params = (jax.tree_util.tree_map_with_path(plus_one, x) for x in (tree, params))
    same(tree, params)


def test_every_type_of_block_is_read_as_its_package_reads_it(tmp_path):
    kinds = [k for k in package.GGMLQuantizationType if k in package.quants._type_traits]
    assert {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"} <= {
        k.name for k in kinds
    }
    rng, path = np.random.default_rng(0), tmp_path / "raw"
    for kind in kinds:
        block, size = package.GGML_QUANT_SIZES[kind]
        raw = rng.integers(0, 256, (5, 512 // block * size), dtype=np.uint8)
        path.write_bytes(b"before" + raw.tobytes())
        with np.errstate(all="ignore"):  # random bits are any float
            got = read_rows(path, Place((5, 512), int(kind), 6, raw.nbytes), slice(1, 4))
            want = package.quants.dequantize(raw, kind)[1:4]
        np.testing.assert_array_equal(np.asarray(got, np.float32), want, err_msg=kind.name)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_1"])
def test_matrices_keep_their_floats_and_blocks_become_float32(file, tmp_path, kind):
    form = package.GGMLQuantizationType[kind]
    _, params = hub.load(rewritten(file, tmp_path / "m.gguf", form=form))
    flat, want = (flatten_dict(x, sep="/") for x in (params, out_tests.weights_of(LLAMA)))
    matrix = {"F16": jnp.float16, "BF16": jnp.bfloat16}.get(kind, jnp.float32)
    for path, x in flat.items():
        assert x.dtype == (jnp.float32 if path.endswith("scale") else matrix), path
        near = {"F16": 1e-3, "BF16": 1e-2, "Q8_0": 5e-3, "Q4_1": 6e-2}[kind]
        np.testing.assert_allclose(np.asarray(x, np.float32), want[path], rtol=0, atol=near)
    _, half = hub.load(tmp_path / "m.gguf", param_dtype=jnp.bfloat16)
    assert {str(x.dtype) for x in jax.tree.leaves(half)} == {"bfloat16"}


def test_q_k_and_v_in_one_tensor_are_taken_apart(own, tmp_path):
    cfg = CONFIGS["phi"]
    params = out_tests.weights_of(cfg)
    gguf.export(tmp_path / "a.gguf", cfg, params, own, "f32")

    def fused(arrays):
        for n in range(cfg.layers):
            for part in ("weight", "bias"):
                three = [arrays.pop(f"blk.{n}.attn_{x}.{part}") for x in "qkv"]
                arrays[f"blk.{n}.attn_qkv.{part}"] = np.concatenate(three)
        return arrays

    same(hub.load(rewritten(tmp_path / "a.gguf", tmp_path / "b.gguf", tensors=fused))[1], params)


@pytest.mark.parametrize("kind", [pytest.param("nf4", marks=pytest.mark.slow), "int8"])
def test_kept_as_codes_directly(file, kind, monkeypatch):
    """And a tensor at a time, as with safetensors: each is read, coded and forgotten before the next."""
    read, sizes = GgufTensors.slice, []

    def counting(self, name, index):
        x = read(self, name, index)
        sizes.append(x.size)
        return x

    monkeypatch.setattr(GgufTensors, "slice", counting)
    _, got = quantised.load(file, kind, head=True)
    assert len(sizes) == 3 * 9 + 3 and max(sizes) == LLAMA.vocab * LLAMA.d_model
    same(got, quant.quantise_params(hub.load(file)[1], kind, head=True))


def test_floats_of_a_tensor_need_little_more_than_themselves(tmp_path, monkeypatch):
    """Blocks become floats a few rows at a time, so the tensor never lies in memory twice."""
    raw = np.zeros((1024, 1024 // 32 * 34), np.uint8)
    (tmp_path / "raw").write_bytes(raw.tobytes())
    monkeypatch.setattr(gguf_file, "_CHUNK", 1 << 16)
    place = Place((1024, 1024), int(package.GGMLQuantizationType.Q8_0), 0, raw.nbytes)
    read_rows(tmp_path / "raw", place, slice(0, 1))
    tracemalloc.start()
    try:
        whole = read_rows(tmp_path / "raw", place)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert whole.nbytes < peak < 1.5 * whole.nbytes


def test_each_process_reads_the_slices_of_its_devices(file):
    from jaxrec import mesh as meshes

    devices = meshes.make(meshes.MeshConfig(data=1, fsdp=2, tensor=2), devices=jax.devices()[:4])
    cut = load_model(file, devices=devices)
    same(jax.device_get(cut.params), jax.device_get(hub.load(file)[1]))


# ------------------------------------------------------------------------------------------------ where it is opened


def test_a_file_is_a_base_wherever_a_folder_is(file, own, tmp_path):
    opened = load_model(file)
    assert opened.source == str(file) and opened.hashed == base_hash(hub.find(file))
    copy = tmp_path / "held" / "m.gguf"
    copy.parent.mkdir()
    copy.write_bytes(file.read_bytes())
    assert load_model(copy.parent).hashed == opened.hashed  # a folder that holds it alone
    (copy.parent / "second.gguf").write_bytes(b"")
    with pytest.raises(hub.ModelError, match=r"holds 2 GGUF files: name one of them, m.gguf, sec"):
        hub.find(copy.parent)
    facts = place_facts(tmp_path, file)
    assert Path(place_of(tmp_path, facts)) == file.resolve()
    assert opened.chat.size == text.BytePairTokenizer.load(own / "tokenizer.json").size


def test_a_file_that_changed_is_unpacked_anew(file, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(file.read_bytes())
    first = hub.find(path)
    assert hub.find(path) == first
    path.write_bytes(file.read_bytes() + bytes(32))
    with pytest.raises(hub.ModelError, match=r"m.gguf is gone or has changed since"):
        hub.load(first)
    second = hub.find(path)
    assert second != first and not first.exists()


def test_into_a_folder_by_the_command(file, tmp_path, capsys):
    folder = tmp_path / "folder"
    gguf.main([str(file), str(folder)])
    assert "folder: 0.5 MB, as it was" in capsys.readouterr().out
    same(hub.load(folder)[1], hub.load(file)[1])
    assert load_model(folder).chat.size == load_model(file).chat.size
    gguf.main([str(file), str(folder), "--type", "bf16"])
    assert {str(x.dtype) for x in jax.tree.leaves(hub.load(folder)[1])} == {"bfloat16"}
    for argv, said in (
        (["--type", "q8_0"], "type 'q8_0' is not known: choose one of f32, f16, bf16"),
        (["--adapter", "x"], "an adapter goes into a GGUF file"),
    ):
        with pytest.raises(SystemExit):
            gguf.main([str(file), str(tmp_path / "no"), *argv])
        assert said in capsys.readouterr().err and not (tmp_path / "no").exists()


# ------------------------------------------------------------------------------------------------ tokenizers


def differing(texts, ours, theirs) -> list[str]:
    return [said for said in texts if ours(said) != theirs(said)]


@pytest.mark.parametrize("form", ["own", "qwen2", "llama-bpe", "pieces"])
def test_tokens_are_those_that_went_out_and_llama_cpps(own, tmp_path, form):
    folder = own
    if form == "pieces":
        out_tests.piece_tokenizer(folder := tmp_path / form)
    elif form != "own":
        (rule,) = (rule for rule, name in SPLITS.items() if name == form)
        out_tests.level_tokenizer(folder := tmp_path / form, rule)
    path = tmp_path / "m.gguf"
    gguf.export(path, LLAMA, out_tests.weights_of(LLAMA), folder, "f16")
    before, after, llama = hub.Tokenizer(folder), hub.Tokenizer(hub.find(path)), Llama(path)
    first = [1] if form == "own" else []  # our models' texts begin with <bos>, which a file says
    texts = varied_texts(200)
    assert not differing(texts, after.encode, lambda said: first + before.encode(said))
    assert not differing(texts, after.encode, llama.tokens)
    plain = [said for said in texts if "▁" not in said and "<" not in said]
    assert plain == [after.decode(after.encode(said)) for said in plain]
    talk = [{"role": "user", "content": "is it late?"}]
    if before.has_template:
        assert after.chat_ids(talk) == before.chat_ids(talk)
        assert after.answer_ends == before.answer_ends
    assert after.special["eos"] == (before.special["eos"] or "<eos>")


RULES = [names.split()[0] for names in gguf_vocabulary._RULES.values()]


@pytest.mark.parametrize("rule", sorted(set(RULES) - set(SPLITS.values())))
def test_rules_of_splitting_are_llama_cpps(own, tmp_path, rule):
    out_tests.level_tokenizer(folder := tmp_path / "t", next(iter(SPLITS)))
    gguf.export(tmp_path / "a.gguf", LLAMA, out_tests.weights_of(LLAMA), folder, "f16")
    path = rewritten(tmp_path / "a.gguf", tmp_path / "b.gguf", {"tokenizer.ggml.pre": rule})
    llama, tokenizer = Llama(path), hub.Tokenizer(hub.find(path))
    assert not differing(varied_texts(140), tokenizer.encode, llama.tokens)


# ------------------------------------------------------------------------------------------------ bad input


def without(*names):
    return lambda arrays: {k: x for k, x in arrays.items() if k not in names}


def rows(count):
    cut = lambda arrays: arrays["token_embd.weight"][:count]
    return lambda arrays: arrays | {"token_embd.weight": cut(arrays)}


FAULTS = {
    "architecture": ({"general.architecture": "falcon"}, None, "architecture 'falcon' is not supported; sup"),
    "adapter": ({"general.type": "adapter"}, None, "holds no model but of type 'adapter'"),
    "split": ({"split.count": 3}, None, "is one of 3 parts of a model: join them by llama-gguf-split"),
    "experts": ({"llama.expert_count": 8}, None, "mixtures of experts are not supported"),
    "metadata": ({"llama.context_length": None}, None, "lacks the metadata llama.context_length"),
    "uneven": ({"llama.feed_forward_length": [96, 64, 96]}, None, r"is \[96, 64, 96\]; one number of 1 or"),
    "rope": ({"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0}, None, "'longrope' is"),
    "kind": ({"tokenizer.ggml.model": "bert"}, None, "a tokenizer of kind 'bert' is not supported; gpt2"),
    "rule": ({"tokenizer.ggml.pre": "nobody"}, None, "rule of splitting 'nobody' .* is not supported"),
    "tokens": ({"tokenizer.ggml.tokens": None}, None, "lacks the metadata tokenizer.ggml.tokens"),
    "merge": ({"tokenizer.ggml.merges": ["Q zz"]}, None, "its vocabulary makes no tokenizer"),
    "vocabulary": (None, rows(280), "has 300 tokens, but the embedding only 280 rows"),
    "embedding": (None, without("token_embd.weight"), "lacks the tensor token_embd.weight"),
    "tensor": (None, without("blk.1.ffn_up.weight"), "lacks the tensor blk.1.ffn_up.weight .model.layers.1.mlp"),
    "more": (None, lambda x: x | {"blk.0.ssm": np.ones(4, np.float32)}, "1 tensors that a llama .* blk.0.ssm"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_file_lacks_is_said_in_a_line(file, tmp_path, fault):
    meta, tensors, said = FAULTS[fault]
    path = rewritten(file, tmp_path / "m.gguf", dict(meta or {}), tensors)
    with pytest.raises(hub.ModelError, match=said) as refused:
        load_model(path)
    assert "\n" not in str(refused.value) and "m.gguf" in str(refused.value)


def test_a_damaged_file_is_said_in_a_line_and_nothing_is_left(file, tmp_path):
    whole, path = file.read_bytes(), tmp_path / "m.gguf"
    version = lambda n: whole[:4] + struct.pack("<I", n) + whole[8:]
    name = b"blk.0.ffn_up.weight"
    at = whole.index(name) + len(name) + 4 + 2 * 8
    typed = lambda n: whole[:at] + struct.pack("<I", n) + whole[at + 4 :]
    for content, said in (
        (b"", "is no GGUF file"),
        (b"{}" * 100, "is no GGUF file"),
        (version(4), "is of GGUF version 4, newer than those that are read here: 2 and 3"),
        (version(1), "version 1, older than"),
        (version(3 << 24), "other byte order"),
        (whole[:300], "is cut short: it ends within its head"),
        (whole[:-1000], "is cut short: the tensor .* ends at byte"),
        (typed(99), "blk.0.ffn_up.weight is of type 99, which is unknown"),
    ):
        path.write_bytes(content)
        with pytest.raises(hub.ModelError, match=said):
            hub.find(path)
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache" / "gguf").iterdir())
    path.write_bytes(typed(9))
    with pytest.raises(
        hub.ModelError, match=r"blk.0.ffn_up.weight is of type Q8_1, which cannot be"
    ):
        hub.load(path)


def test_without_the_package_its_extra_is_named(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(
        hub.ModelError, match=r"gguf is not installed: pip install 'jaxrec\[gguf\]'"
    ):
        hub.find(file)


# ------------------------------------------------------------------------------------------------ real weights


@pytest.fixture(scope="module")
def smollm2():
    """SmolLM2's own file, and the same weights as F32."""
    folder = folder_of("smollm2")
    if folder is None:
        pytest.skip("smollm2 is not there: python -m jaxrec.hub.fetch smollm2")
    return next(folder.glob("*.gguf"))


QUESTIONS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Сколько будет два плюс два?",
    "List three fruits, separated by commas.",
    "def fibonacci(n):",
]


def greedy(model, params, ids, count):
    step = jax.jit(lambda p, x, n: model.apply({"params": p}, x).logits[0, n - 1].argmax())
    for _ in range(count):
        row = jnp.array([ids + [0] * (128 - len(ids))])
        ids = [*ids, int(step(params, row, len(ids)))]
    return ids


@pytest.mark.slow
def test_smollm2_is_what_llama_cpp_makes_of_it(smollm2, tmp_path):
    """Its 200 texts' tokens; on F32 of the same weights the probabilities and what is written."""
    opened = load_model(smollm2)
    tokenizer = opened.chat.tok
    coded = Llama(smollm2)
    assert not differing(varied_texts(200), tokenizer.encode, coded.tokens)
    gguf.export(tmp_path / "f32.gguf", opened.cfg, opened.params, hub.find(smollm2), "f32")
    same(hub.load(tmp_path / "f32.gguf")[1], opened.params)
    exact, letter = Llama(tmp_path / "f32.gguf"), out_tests.plain_letter(hub.find(smollm2))
    for question in QUESTIONS:
        ids = tokenizer.chat_ids([{"role": "user", "content": question}])
        ours = out_tests.log_probabilities(opened.cfg, opened.params, ids)
        theirs, n = exact.after(opened.cfg.vocab, letter, prompt=ids)
        there = ~np.isnan(theirs)
        assert n == len(ids) and there.sum() > 0.99 * len(theirs)
        np.testing.assert_allclose(theirs[there], ours[there], rtol=0, atol=1e-2)
        assert np.nanargmax(theirs) == ours.argmax()
        written = greedy(opened.model, opened.params, ids, 24)
        asked = {"prompt": ids, "n_predict": 24, "temperature": 0.0, "return_tokens": True}
        said = exact.server.handle_completions(asked)["choices"][0]["text"].rstrip()
        assert said and tokenizer.decode(written[len(ids) :]).startswith(said)
