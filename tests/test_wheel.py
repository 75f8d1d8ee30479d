"""The wheel, installed in an environment of its own and used from an empty folder. Slow: it builds and installs."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import tiny_readme

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


def run(*words: str | Path, cwd: Path, status: int = 0) -> subprocess.CompletedProcess:
    """A command outside the checkout: nothing of it is importable but what was installed."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    environment["HOME"] = str(cwd)
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment with the wheel; it sees this one's packages, but not its jaxrec."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT, cwd=folder)
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("jaxrec-*.whl")
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (folder / "venv" / "lib" / version / "site-packages" / "others.pth").write_text(
        sysconfig.get_path("purelib")
        + "\n"  # its own .pth files, an editable jaxrec's, aren't read
    )
    return python.parent


def test_nothing_lies_outside_the_package(bin_folder: Path, tmp_path: Path):
    shown = run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        bin_folder / "python",
        "show",
        "-f",
        "jaxrec",
        cwd=tmp_path,
    ).stdout
    files = shown.split("Files:\n")[1].split()
    tops = {file.split("/")[0] for file in files if not file.endswith("bin/jaxrec")}
    assert {top for top in tops if not top.startswith("jaxrec-")} == {"jaxrec"}
    assert "jaxrec/train/sft.py" in files and "jaxrec/configs/language/sft_sample.py" in files
    assert not [file for file in files if "bench" in file]


def test_the_command_works_anywhere(bin_folder: Path, tmp_path: Path):
    """A folder called `train` of one's own shadows nothing."""
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "__init__.py").write_text("raise SystemExit('the wrong train')\n")
    jaxrec = bin_folder / "jaxrec"
    assert "jaxrec train sft" in run(jaxrec, "--help", cwd=tmp_path).stdout
    assert "--base" in run(jaxrec, "train", "sft", "--help", cwd=tmp_path).stdout
    listed = run(jaxrec, "experiments", cwd=tmp_path).stdout
    assert "sft_sample" in listed and "growth_cpu" not in listed  # `bench` isn't installed
    done = run(jaxrec, "train", "sft", "sft_smaple", cwd=tmp_path, status=2)
    assert "did you mean 'sft_sample'?" in done.stderr


@pytest.mark.parametrize("name", tiny_readme.snippets())
def test_the_readme_holds_without_a_checkout(bin_folder: Path, tmp_path: Path, name: str):
    tiny_readme.make_world(name, tmp_path)
    run(bin_folder / "python", "-c", tiny_readme.snippets()[name], cwd=tmp_path)


def test_an_experiment_by_name(bin_folder: Path, tmp_path: Path):
    run(
        bin_folder / "jaxrec", "train", "pretrain", "backbone_sample", "--loop.steps", "2",
        "--loop.eval-every", "2", "--rows", "8", "--out", "model", cwd=tmp_path,
    )  # fmt: skip
    assert (tmp_path / "model" / "model" / "config.json").is_file()
