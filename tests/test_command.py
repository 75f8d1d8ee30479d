"""The `jaxrec` command: it teaches itself, finds scripts and experiments by name, and says mistakes in one line."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxrec import command, config


def said(capsys: pytest.CaptureFixture, *words: str) -> str:
    command.main(words)
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        command.main(words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_alone_it_teaches(capsys):
    text = said(capsys)
    assert text == said(capsys, "--help")
    for verb in ("train", "eval", "data", "experiments", "demo"):
        assert f"\n    {verb} " in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(
    ("group", "name"), [("train", "sft"), ("eval", "voices"), ("data", "fetch")]
)
def test_a_group_lists_its_scripts(capsys, group: str, name: str):
    text = said(capsys, group)
    assert f"\n    {name} " in text and f"jaxrec {group} NAME" in text


def test_every_program_is_a_verb():
    here = Path(command.__file__).parent
    runs = {p.stem for p in here.glob("[!_]*.py") if '__name__ == "__main__"' in p.read_text()}
    assert runs - {"command"} == {
        name for name, path in command.programs().items() if path.stem == name
    }


def test_every_script_says_what_it_does():
    for group in command.GROUPS:
        for name, path in command.scripts(group).items():
            assert len(command.summary(path)) > 10, f"{group} {name}"


def test_every_experiment_is_listed_with_what_runs_it(capsys):
    lines = said(capsys, "experiments").splitlines()
    for name in config.experiments():
        line = next(line for line in lines if line.startswith(f"    {name} "))
        assert " | " in line, line


def test_an_experiment_says_what_it_is(capsys):
    text = said(capsys, "experiments", "sft_sample")
    assert text.splitlines()[0].endswith("configs/language/sft_sample.py") and "200 steps" in text


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("trian",), "did you mean 'train'?"),
        (("sft",), "did you mean `jaxrec train sft`?"),
        (("train", "stf"), "did you mean 'sft'?"),
        (("experiments", "sft_smple"), "did you mean 'sft_sample'?"),
        (("--verbose",), "no verb '--verbose'"),
    ],
)
def test_a_mistake_gets_one_line(capsys, words: tuple[str, ...], hint: str):
    assert hint in refused(capsys, *words)


def test_a_script_knows_how_it_was_called():
    """In processes of their own: a script takes the place of __main__."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "jaxrec", "demo", "--help"], capture_output=True, text=True
    )
    assert done.stdout.startswith("usage: jaxrec demo ") and done.returncode == 0
    assert time.monotonic() - began < 10
    code = "import sys; from jaxrec.command import main; main(['train']); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_reader_that_leaves_is_no_error():
    program = f"{sys.executable} -m jaxrec experiments | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True)
    assert done.stderr == "" and done.returncode in (0, 141)
