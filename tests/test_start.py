"""A run begins anew with huge pages once, and only where they can be had; everything of the process stays as it was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxrec import start

ROOT = Path(__file__).resolve().parent.parent
PAGES = "always [madvise] never\n"


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("python -m train.sft --rows 2", "train.sft"),
        ("python -mtrain.sft", "train.sft"),
        ("python -X importtime -um train.sft -m", "train.sft"),
        ("python -W error -m bench", "bench"),
        ("python -m pdb -m train.sft", "pdb"),
        ("python -u script.py -m train.sft", "script.py"),
        ("python /usr/bin/jaxrec train sft", "/usr/bin/jaxrec"),
        ("python -c pass -m train.sft", ""),
        ("python", ""),
    ],
)
def test_what_python_was_asked_to_run(command: str, module: str):
    assert start.program_of(command.split()) == module


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, True),
        ({"environment": {"JAX_PLATFORMS": "cpu"}, "accelerator": True}, True),
        ({"accelerator": True}, False),
        ({"environment": {"JAX_PLATFORMS": "cuda,cpu"}}, False),
        ({"environment": {"GLIBC_TUNABLES": ""}}, False),
        ({"environment": {"JAXREC_NO_REEXEC": "1"}}, False),
        ({"environment": {"LD_PRELOAD": "/usr/lib/libjemalloc.so"}}, False),
        ({"libc": "glibc 2.34"}, False),
        ({"libc": ""}, False),
        ({"pages": "[always] madvise never\n"}, False),
    ],
)
def test_only_where_it_helps(changes: dict, wanted: bool):
    plain = {"environment": {}, "libc": "glibc 2.36", "pages": PAGES, "accelerator": False}
    assert start.needs_restart(**plain | changes) is wanted


def test_programs_compute_and_lists_do_not():
    assert start.is_run("train.sft") and start.is_run("jaxrec.eval.text") and start.is_run("bench")
    assert not start.is_run("jaxrec") and not start.is_run("jaxrec.data.fetch")


def begun(folder: Path, *command: str, said: str = "", **variables: str):
    """(the processes that Python began, with their tunables, and the finished process) of a command."""
    note = "import json, os\nwith open(os.environ['NOTE'], 'a') as file:\n"
    note += "    print(json.dumps([os.getpid(), os.environ.get('GLIBC_TUNABLES')]), file=file)\n"
    (folder / "sitecustomize.py").write_text(note)
    seen = folder / "seen"
    seen.unlink(missing_ok=True)
    environment = {
        k: v for k, v in os.environ.items() if k not in ("GLIBC_TUNABLES", "JAXREC_NO_REEXEC")
    }
    environment |= {"PYTHONPATH": f"{folder}:{ROOT}", "NOTE": str(seen), **variables}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        input=said,
        capture_output=True,
        text=True,
    )
    return [json.loads(line) for line in seen.read_text().splitlines()], done


needs_pages = pytest.mark.skipif(
    not start.needs_restart({"JAX_PLATFORMS": "cpu"}, start._libc(), start._pages(), False),
    reason="this system has no huge pages to ask for",
)


@needs_pages
@pytest.mark.parametrize("command", [("-m", "jaxrec.demo"), ("-m", "jaxrec", "demo")], ids=str)
def test_a_run_begins_anew_once(tmp_path: Path, command: tuple[str, ...]):
    (tmp_path / "file").touch()
    seen, done = begun(tmp_path, *command, "--out", "file")
    assert [tunables for _, tunables in seen] == [None, start.TUNABLE]
    assert seen[0][0] == seen[1][0]  # the same process
    assert done.returncode == 1  # its exit status, too
    told, error = done.stderr.splitlines()
    assert "JAXREC_NO_REEXEC=1" in told and error.startswith("error: cannot write")


@needs_pages
@pytest.mark.parametrize(
    ("command", "variables"),
    [
        (("-m", "jaxrec.demo", "--help"), {}),
        (("-m", "jaxrec", "experiments"), {}),
        (("-m", "jaxrec.demo", "--out", "file"), {"JAXREC_NO_REEXEC": "1"}),
        (("-m", "jaxrec.demo", "--out", "file"), {"GLIBC_TUNABLES": "glibc.malloc.check=0"}),
        (("-m", "pdb", "-m", "jaxrec.demo", "--out", "file"), {}),
        (("-m", "cProfile", "-m", "jaxrec.demo", "--out", "file"), {}),
        (("-c", "import jaxrec.demo, jaxrec.train, jaxrec.eval"), {}),
        (("-c", "from jaxrec.command import main; main(['demo', '--out', 'file'])"), {}),
    ],
    ids=["help", "list", "opted_out", "set_already", "debugger", "profiler", "library", "called"],
)
def test_nothing_else_does(tmp_path: Path, command: tuple[str, ...], variables: dict):
    (tmp_path / "file").touch()
    seen, done = begun(tmp_path, *command, said="continue\nquit\n", **variables)
    assert len(seen) == 1 and "huge pages" not in done.stderr


@needs_pages
def test_what_stands_in_the_pipe_is_still_there(tmp_path: Path):
    """stdin isn't read before the second beginning."""
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").write_text((ROOT / "bench" / "__init__.py").read_text())
    (tmp_path / "bench" / "echo.py").write_text(
        "import sys; print(sys.stdin.read()); sys.exit(7)\n"
    )
    seen, done = begun(tmp_path, "-m", "bench.echo", said="three\nlines\n")
    assert len(seen) == 2 and done.stdout == "three\nlines\n\n" and done.returncode == 7
