"""What a person gets wrong is said in one clear line, with an exit status, and never by a traceback."""

import dataclasses
import gzip
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_personal as tiny

from jaxrec import checkpoint, config, hub
from jaxrec.data.text import train_tokenizer
from jaxrec.hub.weights import check_vocabulary
from jaxrec.models.personal.personal_folder import save_personal

ROOT = Path(__file__).resolve().parent.parent
CLASSES = {
    "jaxrec.train.pretrain": "PretrainConfig",
    "jaxrec.train.retrofit": "RetrofitConfig",
    "jaxrec.train.universal": "UniversalConfig",
    "jaxrec.train.personalize": "PersonalizeConfig",
    "jaxrec.eval.voices": "VoicesConfig",
}


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """Runs a script with these flags, in this process; gives the one line that it said and the exit status."""
    monkeypatch.chdir(tmp_path)
    stages = ("jaxrec.train.retrofit", "jaxrec.train.universal", "jaxrec.train.personalize")

    def run(script: str, *flags: str) -> tuple[str, int]:
        if script in stages and "--tenants" not in flags:
            flags = (*flags, "--tenants", "world:held:5")
        module = import_module(script)
        kind = getattr(module, CLASSES[script])
        with pytest.raises(SystemExit) as stop:
            config.run(module.main, kind, module.__doc__, list(flags))
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "Traceback" not in said, said
        assert said.startswith(("error: ", "config: ")), said
        return said, stop.value.code

    return run


@pytest.fixture(scope="module")
def words() -> list[str]:
    return [
        f"We open at {i}, the {a} mill is {b} us." for i in range(9) for a in "xyz" for b in "uv"
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory, words) -> Path:
    """A backbone of random weights, an LFE and a personal model that stand on it."""
    folder = tmp_path_factory.mktemp("models")
    tok = train_tokenizer(words, 290)
    cfg = dataclasses.replace(tiny.DECODER, vocab=tok.size, cuts=())
    model = hub.model_of(cfg)
    weights = tiny.random_like(model.init, jax.random.key(0), np.zeros((1, 2), np.int32))["params"]
    hub.save(folder / "backbone", cfg, weights)
    tok.save(folder / "backbone" / "tokenizer.json")
    _, loaded = hub.load(folder / "backbone")
    facts = {
        "backbone": str(folder / "backbone"),
        "backbone_hash": checkpoint.fingerprint(loaded),
        "lfe": config.to_dict(tiny.PERSONAL.lfe),
    }
    parts = tiny.params()
    checkpoint.save_params(folder / "lfe", {"lfe": parts["lfe"]}, facts)
    checkpoint.save_params(
        folder / "old_lfe", {"lfe": parts["lfe"]}, {**facts, "backbone_hash": "0" * 16}
    )
    own = {name: part for name, part in parts.items() if name != "backbone"}
    save_personal(folder / "personal", tiny.LM, tiny.ENCODER, own, ["a"], facts)
    save_personal(
        folder / "old", tiny.LM, tiny.ENCODER, own, ["a"], {**facts, "backbone_hash": "1" * 16}
    )
    return folder


# ----------------------------------------------------------------------------------- the configuration


def test_from_a_shell_a_mistake_is_one_line_on_stderr_and_a_status(tmp_path):
    command = [
        sys.executable,
        "-m",
        "jaxrec.train.retrofit",
        "--backbone",
        str(tmp_path / "nowhere"),
        "--tenants",
        "world:train:5",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "nowhere" in done.stderr


@pytest.mark.parametrize("script", CLASSES)
def test_an_unknown_field_names_the_nearest(refused, script):
    said, status = refused(script, "--outt", "x")
    assert (status, "did you mean 'out'?" in said) == (2, True), said


def test_a_wrong_type(refused):
    said, status = refused("jaxrec.train.pretrain", "--opt.lr", "fast")
    assert (status, "--opt.lr" in said) == (2, True), said


def test_sizes_that_cannot_be_are_refused_before_anything_runs(refused):
    said, status = refused("jaxrec.train.pretrain", "--model.heads", "3", "--model.groups", "2")
    assert (status, "3 heads" in said) == (2, True), said


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--mesh.data", "3"), "there are 8"),
        (("--mesh.fsdp", "3"), "on 8 devices by the mesh data -1 x fsdp 3 x tensor 1; "),
        (("--mesh.fsdp", "-1"), "at most one is -1"),
    ],
)
@pytest.mark.parametrize("script", ["jaxrec.train.pretrain", "jaxrec.train.personalize"])
def test_a_mesh_that_does_not_divide_the_devices(refused, script, flags, why):
    start = ("--texts" if "pretrain" in script else "--model", "any")
    said, status = refused(script, *flags, *start)
    assert (status, why in said) == (1, True), said


def test_a_batch_that_the_mesh_does_not_divide(refused, tmp_path, words):
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in words))
    said, status = refused(
        "jaxrec.train.pretrain", "--texts", "notes.jsonl", "--hold-out-every", "9", "--rows", "13",
        "--model.vocab", "290", "--mesh.data", "2", "--mesh.fsdp", "-1",
    )  # fmt: skip
    assert (status, "8 rows or 16 rows would do" in said) == (1, True), said


# ---------------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"text": "Good."}\n{"text": oops}\n', "notes.jsonl:2: "),
        ('{"text": "Good."}\n\n', "notes.jsonl:2: "),
        ('{"text": "Good."}\n{"words": "x"}\n', "KeyError('text')"),
        ('{"text": null}\n', "a text is expected, not None"),
        ('["text"]\n', "notes.jsonl:1: "),
        ('{"turns": [{"role": "boss", "text": "Hm."}]}\n', "role 'boss' is not one of"),
        ('{"turns": [{"role": "user"}]}\n', "KeyError('text')"),
        ("", "'notes.jsonl' holds no text"),
    ],
)
def test_a_line_of_a_text_file_that_cannot_be_read_is_named(refused, tmp_path, content, why):
    (tmp_path / "notes.jsonl").write_text(content)
    said, status = refused("jaxrec.train.pretrain", "--texts", "notes.jsonl")
    assert (status, why in said) == (1, True), said


@pytest.mark.parametrize(
    "content",
    [b"no gzip at all", gzip.compress(b'{"text": "a"}\n', mtime=0)[:-9]],
    ids=["no gzip", "cut short"],
)
def test_a_damaged_archive(refused, tmp_path, content):
    (tmp_path / "notes.jsonl.gz").write_bytes(content)
    said, status = refused("jaxrec.train.pretrain", "--texts", "notes.jsonl.gz")
    assert (status, "notes.jsonl.gz cannot be read" in said) == (1, True), said


def test_texts_that_are_not_there(refused, monkeypatch, tmp_path):
    said, status = refused("jaxrec.train.pretrain", "--texts", "novels")
    assert (status, "'novels' is no file or folder" in said) == (1, True), said
    monkeypatch.delenv("JAXREC_DATA", raising=False)
    said, status = refused("jaxrec.train.pretrain", "--texts", "sgd")
    assert (status, "set JAXREC_DATA" in said) == (1, True), said
    monkeypatch.setenv("JAXREC_DATA", str(tmp_path))
    said, status = refused("jaxrec.train.pretrain", "--texts", "sgd")
    assert (status, "no data set 'sgd'" in said) == (1, True), said


def test_texts_too_few_for_what_is_asked(refused, tmp_path, words):
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in words))
    said, status = refused(
        "jaxrec.train.pretrain", "--texts", "notes.jsonl", "--hold-out-every", "99"
    )
    assert (status, "none would be held out" in said) == (1, True), said
    said, status = refused(
        "jaxrec.train.pretrain", "--texts", "notes.jsonl", "--hold-out-every", "1"
    )
    assert (status, "none would be trained on" in said) == (1, True), said
    said, status = refused(
        "jaxrec.train.pretrain", "--texts", "notes.jsonl", "--hold-out-every", "9"
    )
    assert (status, "tokens of the 2048 asked for" in said) == (1, True), said


def test_a_tokenizer_that_is_not_there_or_too_large(refused, models, tmp_path, words):
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in words))
    flags = (
        "--texts",
        "notes.jsonl",
        "--hold-out-every",
        "9",
        "--model.vocab",
        "280",
        "--tokenizer",
    )
    said, status = refused("jaxrec.train.pretrain", *flags, "none.json")
    assert (status, "no file none.json" in said) == (1, True), said
    said, status = refused(
        "jaxrec.train.pretrain", *flags, str(models / "backbone" / "tokenizer.json")
    )
    assert (status, "290 tokens, but the embedding only 280 rows" in said) == (1, True), said
    with pytest.raises(config.RunError):
        check_vocabulary(41, tiny.DECODER)


def test_a_folder_that_cannot_be_written(refused, tmp_path, models):
    (tmp_path / "taken").write_text("a file stands where the folder should be")
    said, status = refused(
        "jaxrec.train.personalize", "--model", str(models / "personal"), "--out", "taken/run",
        "--tenants", "world:held:5", "--rows", "8", "--loop.steps", "1", "--loop.no-progress",
    )  # fmt: skip
    assert (status, "taken" in said) == (1, True), said


# ---------------------------------------------------------------------------------------------- models


def test_a_model_that_is_not_there(refused, tmp_path):
    for script, flag in (
        ("jaxrec.train.retrofit", "--backbone"),
        ("jaxrec.train.universal", "--lfe"),
        ("jaxrec.train.personalize", "--model"),
        ("jaxrec.eval.voices", "--profile"),
    ):
        said, status = refused(script, flag, str(tmp_path / "nowhere"))
        assert (status, "nowhere" in said) == (1, True), said
    (tmp_path / "empty").mkdir()
    said, status = refused("jaxrec.train.retrofit", "--backbone", "empty")
    assert (status, "it holds nothing" in said) == (1, True), said


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        (
            "hidden_size",
            32,
            "tensor model.embed_tokens.weight has shape (290, 16), the config asks for",
        ),
        ("num_hidden_layers", 3, "lacks the tensor model.layers.2."),
        ("model_type", "mamba", "model_type 'mamba' is not supported"),
        ("num_attention_heads", None, "lacks the field"),
    ],
)
def test_weights_that_do_not_fit_the_config(refused, models, tmp_path, field, value, why):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in (models / "backbone").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    told = json.loads((copy / "config.json").read_text())
    told = {k: v for k, v in {**told, field: value}.items() if v is not None}
    (copy / "config.json").write_text(json.dumps(told))
    said, status = refused("jaxrec.train.retrofit", "--backbone", "copy")
    assert (status, why in said) == (1, True), said


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_model(refused, models, tmp_path, name):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in (models / "backbone").iterdir():
        whole = path.read_bytes()
        (copy / path.name).write_bytes(whole[: len(whole) // 2] if path.name == name else whole)
    said, status = refused("jaxrec.train.retrofit", "--backbone", "copy")
    assert (status, f"{name} is damaged" in said) == (1, True), said


def test_parts_that_were_trained_on_another_backbone(refused, models):
    said, status = refused("jaxrec.train.universal", "--lfe", str(models / "old_lfe"))
    assert (status, "trained on a backbone with hash 0000" in said) == (1, True), said
    said, status = refused("jaxrec.train.personalize", "--model", str(models / "old"))
    assert (status, "trained on a backbone with hash 1111" in said) == (1, True), said


def test_a_folder_of_another_stage(refused, models):
    said, status = refused("jaxrec.train.personalize", "--model", str(models / "lfe"))
    assert (status, "lacks 'personal'" in said) == (1, True), said
    said, status = refused("jaxrec.train.universal", "--lfe", str(models / "personal"))
    assert (status, "lacks 'lfe'" in said) == (1, True), said


@pytest.mark.parametrize("script", ["jaxrec.train.retrofit", "jaxrec.train.universal"])
def test_a_teacher_of_another_vocabulary(refused, models, tmp_path, script):
    weights = tiny.backbone()
    hub.save(tmp_path / "teacher", tiny.DECODER, weights)
    start = {
        "jaxrec.train.retrofit": ("--backbone", "backbone"),
        "jaxrec.train.universal": ("--lfe", "lfe"),
    }[script]
    said, status = refused(script, start[0], str(models / start[1]), "--teacher", "teacher")
    assert (status, "teacher teacher (40 tokens) splits" in said) == (1, True), said


def test_a_site_that_does_not_exist(refused, models):
    said, status = refused(
        "jaxrec.train.personalize", "--model", str(models / "personal"), "--own-delta.lora-rank", "2",
        "--own-delta.lora-sites", "query",
    )  # fmt: skip
    assert (status, "pattern 'query' matches no LoRA site" in said) == (1, True), said


# ---------------------------------------------------------------------------------------------- tenants


def test_a_tenant_who_is_unknown_or_cannot_be_fitted(refused, models, tmp_path):
    model = ("--model", str(models / "personal"))
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "guide.md").write_text("Be kind.")
    (tmp_path / "dumb").mkdir()
    (tmp_path / "dumb" / "never.txt").write_text("kindly")
    for flags, why in (
        (("--tenants", "world:kestrel"), "no tenant 'kestrel'; did you mean 'kestrel_travel'"),
        (("--tenants", "kestrel_travel"), "did you mean world:kestrel_travel"),
        (
            ("--tenants", "shop"),
            "shop has neither dialogues nor thumbs, and a gradient needs answers",
        ),
        (("--tenants", "shop", "--by", "lora"), "shop has no dialogue to learn from"),
        (("--tenants", "dumb", "--by", "encoder"), "dumb has neither guide, dialogues nor thumbs"),
        (("--tenants", "shop", "--examples", "-1"), "a number from 0"),
    ):
        said, status = refused("jaxrec.train.personalize", *model, *flags)
        assert (status, why in said) == (1, True), said


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        ("train.pretrain", "PretrainConfig", "nothing to learn from: name a folder"),
        ("train.sft", "SftConfig", "nothing to learn from: name a .jsonl"),
        ("train.prefer", "PreferConfig", "nothing to learn from: name a .jsonl"),
        ("train.retrofit", "RetrofitConfig", "no tenants are given"),
        ("train.universal", "UniversalConfig", "name a retrofit's OUT/lfe"),
        ("train.personalize", "PersonalizeConfig", "name a universal stage's OUT/model"),
        ("train.rewrite", "RewriteConfig", "name a universal stage's OUT/model"),
        ("eval.voices", "VoicesConfig", "name a profile"),
        ("eval.same_question", "SameQuestionConfig", "name a profile"),
    ],
)
def test_no_stage_learns_from_what_nobody_named(script, kind, said):
    module = import_module(f"jaxrec.{script}")
    with pytest.raises(config.RunError, match=said):
        module.main(getattr(module, kind)())
    for given in ({"model": "x"}, {"personal": "x"}, {"lfe": "x"}):
        fields = {
            f.name for f in dataclasses.fields(getattr(module, kind)) if f.default in ("", ())
        }
        if given.keys() <= fields and "tenants" in fields:
            with pytest.raises(config.RunError, match="tenants"):
                module.main(getattr(module, kind)(**given))


def test_what_the_operating_system_refuses_is_one_line_and_a_bug_is_not(capsys):
    def main_that(error):
        def main(_):
            raise error

        return lambda: config.run(main, tiny.DeltaConfig, argv=[])

    for error, said in (
        (PermissionError(13, "Permission denied", "runs/x"), "error: runs/x: Permission denied\n"),
        (OSError(28, "No space left on device"), "error: No space left on device\n"),
    ):
        with pytest.raises(SystemExit) as stop:
            main_that(error)()
        assert (stop.value.code, capsys.readouterr().err) == (1, said)
    with pytest.raises(OSError, match="a bug of ours"):
        main_that(OSError("a bug of ours"))()
