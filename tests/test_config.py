"""An experiment file plus flags gives one dataclass; every mistake is one line and a status that is not zero."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from jaxrec import config

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Inner:
    lr: float = 1e-3
    kind: Literal["adamw", "sgd"] = "adamw"
    layers: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    opt: Inner = Inner()
    name: str = "x"
    width: int = 8
    fast: bool = False
    path: Path | None = None


@dataclass(frozen=True)
class Other:
    neighbours: int = 5


@dataclass(frozen=True)
class Choice:
    part: Inner | Other = Inner()


HEADER = "from test_config import Choice, Inner, Other, Outer\n"


def file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "experiment.py"
    path.write_text(HEADER + text)
    return str(path)


def test_flags_override_what_the_file_gives(tmp_path):
    path = file(tmp_path, "config = Outer(opt=Inner(lr=0.5), width=3)")
    got = config.load(
        Outer, [path, "--opt.kind", "sgd", "--width", "4", "--fast", "--opt.layers", "7"]
    )
    assert got == Outer(opt=Inner(lr=0.5, kind="sgd", layers=(7,)), width=4, fast=True)


def test_without_a_file_the_defaults_are_the_start():
    assert config.load(Outer, ["--no-fast", "--opt.lr=2"]) == Outer(opt=Inner(lr=2.0))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--opt.lrr", "1"], "unknown field --opt.lrr; did you mean 'opt.lr'?"),
        (["--widht", "1"], "did you mean 'width'?"),
        (["--width", "many"], "--width"),
        (["--opt.kind", "adamm"], "--opt.kind"),
        (["missing.py"], "no experiment file missing.py"),
    ],
)
def test_a_wrong_flag_is_one_clear_line(argv, said):
    with pytest.raises(config.ConfigError) as error:
        config.load(Outer, argv)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_flags_of_a_part_are_those_of_the_class_that_the_file_chose(tmp_path):
    path = file(tmp_path, "config = Choice(Other(3))")
    assert config.load(Choice, [path, "--part.neighbours", "9"]) == Choice(Other(9))
    with pytest.raises(config.ConfigError, match=r"unknown field --part\.lr; did you mean 'part'"):
        config.load(Choice, [path, "--part.lr", "1"])
    assert config.load(Choice, ["--part.lr", "1"]) == Choice(Inner(1.0))
    # A reader that takes any class knows no fields to suggest.
    with pytest.raises(config.ConfigError, match=r"Other has no field 'n'$"):
        config.read_file(object, file(tmp_path, "config = Other(n=3)"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("config = Outer(widht=3)", "Outer has no field 'widht'; did you mean 'width'?"),
        ("config = Outer(opt=Inner(lrr=3))", "Inner has no field 'lrr'; did you mean 'lr'?"),
        ("config = Outer(width='3')", "config.width should be int, not '3'"),
        ("config = Outer(width=True)", "config.width should be int"),
        ("config = Outer(opt=Inner(kind='adamm'))", "did you mean 'adamw'?"),
        ("config = Outer(opt=Inner(layers=(1, 'b')))", "config.opt.layers[1] should be int"),
        ("config = Outer(path=3)", "config.path should be"),
        ("settings = Outer()", "defines no `config`"),
        ("config = Inner()", "defines a Inner, but this script takes a Outer"),
        ("config = Outer(", "SyntaxError"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path, text, said):
    with pytest.raises(config.ConfigError) as error:
        config.load(Outer, [file(tmp_path, text)])
    assert said in str(error.value)
    assert "\n" not in str(error.value).replace("\n    ", " ")


def test_run_ends_with_the_status_of_the_error(capsys):
    class Full(config.RunError):
        status = 7

    def main(_):
        raise Full("the disk is full")

    with pytest.raises(SystemExit) as stop:
        config.run(main, Outer, argv=[])
    assert stop.value.code == 7
    assert capsys.readouterr().err == "error: the disk is full\n"
    with pytest.raises(SystemExit) as stop:
        config.run(main, Outer, argv=["--widht", "1"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("config: unknown field --widht")


def test_dump_is_json(tmp_path):
    config.dump(Outer(path=Path("a/b")), tmp_path / "config.json")
    told = json.loads((tmp_path / "config.json").read_text())
    assert told["opt"] == {"lr": 0.001, "kind": "adamw", "layers": [1, 2]}
    assert told["path"] == "a/b"


def test_a_script_run_as_main_and_its_experiment_file_share_one_class(tmp_path):
    """`python -m pkg.script file.py`, where the file imports the class from pkg.script."""
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "script.py").write_text(
        "from dataclasses import dataclass\nfrom jaxrec import config\n"
        "@dataclass(frozen=True)\nclass C:\n    n: int = 1\n"
        "def main(cfg):\n    assert type(cfg) is C\n    print(cfg.n)\n"
        "if __name__ == '__main__':\n    config.run(main, C, __doc__)\n"
    )
    (tmp_path / "exp.py").write_text("from pkg.script import C\nconfig = C(n=5)\n")
    command = [sys.executable, "-m", "pkg.script", "exp.py"]
    env = {"PYTHONPATH": f"{ROOT}", "PATH": ""}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, "5"), done.stderr


def test_importing_it_brings_no_jax():
    code = "import sys, jaxrec.config; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
