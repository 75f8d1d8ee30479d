"""A model or an adapter saved over an older one: what every reader finds is the new one, and nothing else."""

import json

import jax
import numpy as np
import pytest

from jaxrec import delta as deltas
from jaxrec import files, hub, quant
from jaxrec.delta import DeltaConfig
from jaxrec.hub.gguf import GgufError, check_model, export_adapter
from jaxrec.models.language.model_folder import base_hash
from jaxrec.models.language.tuned_folder import is_adapter, save_model
from jaxrec.nn.decoder import Decoder, DecoderConfig

CFG = DecoderConfig(
    vocab=32, d_model=16, layers=2, heads=2, groups=1, head_dim=8, d_ff=24, max_positions=32
)
SPEC = DeltaConfig(lora_rank=2)
SMALL, LARGE = 4_000, 5 << 30  # bytes of a shard


def drawn(value, cfg=CFG):
    return jax.tree.map(lambda s: np.full(s.shape, value, np.float32), hub.shapes_of(cfg))


def delta_of(spec=SPEC, cfg=CFG, dtype=np.float32):
    sites = Decoder.sites(cfg)
    return jax.tree.map(lambda x: np.full(x.shape, 0.1, dtype), deltas.zeros(sites, spec))


def value_in(folder):
    return float(hub.load(folder)[1]["norm"]["scale"][0])


OLDER = {
    "shards": lambda at: hub.save(at, CFG, drawn(1), SMALL),
    "smaller shards": lambda at: hub.save(at, CFG, drawn(1), SMALL // 2),
    "whole": lambda at: hub.save(at, CFG, drawn(1)),
    "adapter": lambda at: hub.save_peft(at, delta_of(), SPEC, CFG),
    "torch": lambda at: (at / "pytorch_model.bin").write_bytes(b"x"),
    "torch shards": lambda at: (at / "pytorch_model.bin.index.json").write_text("{}"),
    "variant": lambda at: (at / "model.fp16.safetensors").write_bytes(b"x"),
}
TOKENIZER = ("tokenizer.json", "chat_template.jinja", "notes.md")


@pytest.mark.parametrize("older", OLDER)
@pytest.mark.parametrize("shard", [SMALL, LARGE])
def test_no_file_of_the_older_model_stays(tmp_path, older, shard):
    OLDER[older](tmp_path)
    for name in TOKENIZER:
        (tmp_path / name).write_text("mine")
    hub.save(tmp_path, CFG, drawn(2), shard)
    hub.save(tmp_path / "fresh", CFG, drawn(2), shard)
    assert value_in(tmp_path) == 2 and not is_adapter(tmp_path)
    assert base_hash(tmp_path) == base_hash(tmp_path / "fresh")
    names = lambda at: {path.name for path in at.iterdir() if path.is_file()}
    assert names(tmp_path) == names(tmp_path / "fresh") | set(TOKENIZER)


def test_a_save_that_fails_leaves_the_older_model(tmp_path):
    hub.save(tmp_path, CFG, drawn(1), SMALL)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(hub.ModelError, match="quantised weights"):
        hub.save(tmp_path, CFG, quant.quantise_params(drawn(2)))
    assert value_in(tmp_path) == 1 and sorted(p.name for p in tmp_path.iterdir()) == before


def test_the_mark_goes_first_and_comes_last(tmp_path):
    (tmp_path / "mark").write_text("old")
    (tmp_path / "part").write_text("old")
    (tmp_path / "folder").mkdir()
    seen = []

    def older(path):
        seen.append((tmp_path / "mark").exists())
        return path.name in ("part", "folder")

    with files.replace_files(tmp_path, older, "mark") as fresh:
        (fresh / "mark").write_text("new")
    assert not any(seen) and sorted(path.name for path in tmp_path.iterdir()) == ["mark"]


def test_a_saved_model_has_its_bases_tokenizer_and_ends_where_the_template_does(tmp_path):
    from jaxrec.data.text import train_tokenizer
    from tests.test_chat_templates import CHATML
    from tests.test_instruction_rows import hub_folder

    base, out = tmp_path / "base", tmp_path / "out"
    for folder in (base, out):
        folder.mkdir()
    tok = train_tokenizer(["The x shop of v opens at 7 and closes late."], 274)
    hub_folder(base, tok, CHATML)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "<eos>"}))
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "top_k": 3}))
    for name in ("chat_template.jinja", "added_tokens.json", "vocab.json", "adapter_config.json"):
        (out / name).write_text("{}")
    (out / "additional_chat_templates").mkdir()
    save_model(out, CFG, drawn(2), base)
    found = {path.name for path in out.iterdir()}
    assert found == {"config.json", "model.safetensors", *(p.name for p in base.iterdir())}
    ends = json.loads((out / "generation_config.json").read_text())
    assert ends == {"eos_token_id": [2, tok.size + 1], "top_k": 3}
    save_model(out, CFG, drawn(3), out)  # in its own place
    assert {path.name for path in out.iterdir()} == found and value_in(out) == 3


# ------------------------------------------------------------------------------------------- targets


def test_an_adapter_is_not_written_for_a_base_that_it_does_not_fit(tmp_path):
    hub.save(tmp_path / "base", CFG, drawn(1))
    cut, _ = hub.load(tmp_path / "base", layers=1)
    with pytest.raises(hub.PeftError, match=r"layers=1, the base .* has 2"):
        hub.save_peft(tmp_path / "a", delta_of(cfg=cut), SPEC, cut, base=str(tmp_path / "base"))
    assert not (tmp_path / "a").exists()
    hub.save_peft(tmp_path / "a", delta_of(), SPEC, CFG, base=str(tmp_path / "." / "base"))
    said = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == str((tmp_path / "base").resolve())


def test_magnitudes_in_bf16_are_written_as_they_are_in_f32(tmp_path):
    import jax.numpy as jnp
    from safetensors.numpy import load_file

    spec = DeltaConfig(lora_rank=2, lora_dora=True, lora_sites="q")
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), delta_of(spec))
    found = []
    for name, delta in (("f32", jax.tree.map(lambda x: x.astype("float32"), half)), ("bf16", half)):
        hub.save_peft(tmp_path / name, delta, spec, CFG, params=drawn(1))
        found.append(load_file(tmp_path / name / "adapter_model.safetensors"))
    assert all(x.dtype == np.float32 for x in found[1].values())
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_what_a_target_cannot_load_is_refused(tmp_path):
    import dataclasses

    with pytest.raises(hub.ModelError, match="lose rope_fraction"):
        hub.save(tmp_path, dataclasses.replace(CFG, rope_fraction=0.5), drawn(1))
    with pytest.raises(GgufError, match="heads of d_model / heads only"):
        check_model(dataclasses.replace(CFG, qkv_bias=True, head_dim=16))
    tied, head = dataclasses.replace(CFG, tied=True), DeltaConfig(head_rank=2)
    with pytest.raises(GgufError, match="tied to the embedding"):
        export_adapter(tmp_path / "a.gguf", tied, delta_of(head, tied))
    assert not list(tmp_path.glob("*.gguf")) and not (tmp_path / "config.json").exists()
