"""The demo: its settings, what it refuses, and (slow) one real run of a few steps a stage.

python -m pytest -q tests/test_demo.py            -m slow for the real run
"""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxrec import config, demo
from jaxrec.config import RunError

ROOT = Path(__file__).resolve().parent.parent


def strings(cfg) -> list[str]:
    """All text in a configuration."""
    found = []
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        found += strings(value) if dataclasses.is_dataclass(value) else [value]
    return [value for value in found if isinstance(value, str)]


@pytest.fixture(scope="module")
def settings() -> dict:
    return {
        stage.name: demo.experiment(stage, Path("/there"), quick=False) for stage in demo.STAGES
    }


def paths(cfg) -> list[str]:
    """The text in a configuration that names files (others with a slash are patterns and metrics)."""
    return [text for text in strings(cfg) if text.startswith(("/", "runs", "results"))]


def test_all_paths_lie_in_out(settings):
    for name, cfg in settings.items():
        assert paths(cfg) and all(text.startswith("/there/") for text in paths(cfg)), name


def test_each_stage_reads_what_one_before_it_wrote(settings):
    written: list[str] = []
    for stage in demo.STAGES:
        out = settings[stage.name].out
        read = [text for text in paths(settings[stage.name]) if text != out]
        assert bool(read) == bool(written)
        assert all(any(text.startswith(done) for done in written) for text in read), stage.name
        assert (Path("/there") / stage.result).is_relative_to(out)
        written.append(out)


def test_the_real_story_keeps_all_in_out_and_stands_on_what_is_fetched():
    story, written = demo.STORIES["smollm2"], ["/there/features"]
    names = [stage.name for stage in story.stages]
    assert len(set(names)) == len(names) and "pretrain" not in names
    for stage in story.stages:
        cfg = demo.experiment(stage, Path("/there"), False, story.paths)
        read = [text for text in paths(cfg) if text != cfg.out]
        assert all(any(text.startswith(done) for done in written) for text in read), stage.name
        assert (Path("/there") / stage.result).is_relative_to(cfg.out)
        written.append(cfg.out)
        if stage.name == "retrofit":
            assert cfg.backbone == story.fetched


def test_an_interruption_costs_little(settings):
    trained = [cfg for cfg in settings.values() if hasattr(cfg, "loop")]
    assert len(trained) == 4
    assert all(0 < cfg.loop.save_every <= 50 and cfg.loop.resume for cfg in trained)


def test_quick_changes_steps_and_nothing_that_decides_what_runs(settings):
    for stage in demo.STAGES:
        quick = demo.experiment(stage, Path("/there"), quick=True)
        assert quick != settings[stage.name]
        full = settings[stage.name]
        for name, value in stage.quick.items():
            full = demo.set_field(full, name, value)
        assert quick == full


def recorded(out: Path, settings: dict) -> demo.Record:
    """A record in which every stage has ended well, and its result is there."""
    record = demo.Record(out, quick=False)
    for stage in demo.STAGES:
        with record.timed(stage, settings[stage.name]):
            (out / stage.result).parent.mkdir(parents=True, exist_ok=True)
            (out / stage.result).touch()
    return record


def test_what_is_complete_is_known_after_a_restart(tmp_path, settings):
    recorded(tmp_path, settings)
    again = demo.Record(tmp_path, quick=False)
    again.refuse_others(settings)
    assert all(again.complete(stage) for stage in demo.STAGES)
    assert 0 < again.peak_gb < 64
    gone = demo.STAGES[1]
    (tmp_path / gone.result).unlink()
    assert [s.name for s in demo.STAGES if not again.complete(s)] == [gone.name]


def test_an_interrupted_stage_is_not_complete_and_its_time_counts(tmp_path, settings):
    record, stage = demo.Record(tmp_path, quick=False), demo.STAGES[0]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), record.timed(stage, settings[stage.name]):
            time.sleep(0.12)
            raise KeyboardInterrupt
    (tmp_path / stage.result).parent.mkdir(parents=True)
    (tmp_path / stage.result).touch()
    again = demo.Record(tmp_path, quick=False)
    assert not again.complete(stage)
    assert again.seconds() >= 0.2


def test_other_settings_in_the_same_folder_are_refused(tmp_path, settings):
    record = recorded(tmp_path, settings)
    other = {**settings, "retrofit": demo.set_field(settings["retrofit"], "opt.lr", 0.5)}
    with pytest.raises(RunError, match=r"retrofit ran with opt\.lr = .*this one has 0\.5.*--fresh"):
        record.refuse_others(other)


def test_a_damaged_record_is_refused(tmp_path):
    (tmp_path / "demo.json").write_text('{"stages": {')
    with pytest.raises(RunError, match=r"damaged.*--fresh"):
        demo.Record(tmp_path, quick=False)


def test_fresh_removes_what_a_demo_made_and_nothing_else(tmp_path, settings):
    recorded(tmp_path, settings)
    (tmp_path / "report.html").touch()
    (tmp_path / "mine.txt").write_text("keep")
    demo.prepare(tmp_path, fresh=False)
    assert (tmp_path / "demo.json").exists()
    demo.prepare(tmp_path, fresh=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot write to .*file/here.*--out"):
        demo.prepare(tmp_path / "file" / "here", fresh=False)


def test_too_little_room(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "NEEDED_MB", 10**12)
    with pytest.raises(RunError, match="has room for"):
        demo.prepare(tmp_path, fresh=False)


def test_a_full_disk_is_recognised_however_it_is_wrapped():
    def wrapped(inner: BaseException) -> BaseException:
        try:
            raise RuntimeError("the library failed") from inner
        except RuntimeError as error:
            return error

    assert demo._is_full(wrapped(OSError(errno.ENOSPC, "full")))
    assert demo._is_full(wrapped(ValueError("write: No space left on device (os error 28)")))
    assert not demo._is_full(wrapped(OSError(errno.EACCES, "no")))


def test_the_terminal_is_not_at_the_mercy_of_an_answer():
    said = demo._wrapped("  answers  ", "a\x1b[2Jb " + "word " * 40)
    assert "\x1b" not in said and said.startswith("  answers  a")
    assert all(line.startswith(" " * 11) for line in said.splitlines()[1:])


def started(out: Path) -> subprocess.Popen:
    words = [sys.executable, "-m", "jaxrec.demo", "--quick", "--out", str(out)]
    plain = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}  # one device, as for a user
    return subprocess.Popen(
        words, cwd=ROOT, env=plain, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_real_run_is_interrupted_goes_on_and_is_not_repeated(tmp_path):
    out = tmp_path / "demo"
    first = started(out)
    while first.poll() is None and not (out / "retrofit").exists():
        time.sleep(0.2)
    first.send_signal(signal.SIGINT)
    said, _ = first.communicate(timeout=300)
    assert first.returncode == 130
    assert "The same command goes on from here" in said
    assert json.loads((out / "demo.json").read_text())["stages"]["pretrain"]["done"]

    second = started(out)
    said, complaint = second.communicate(timeout=900)
    assert second.returncode == 0, complaint
    assert "pretrain: complete, not done again" in said and "retrofit: it is frozen" in said
    assert "own p, fitted" in said and "answers" in said
    told = json.loads((out / "demo.json").read_text())
    assert told["peak_gb"] < 4
    assert list(told["stages"]) == [stage.name for stage in demo.STAGES]
    page = (out / "report.html").read_text("utf-8")
    assert "A quick run" in page and page.count("<svg") == 5

    before = (out / "voices" / "results.json").stat().st_mtime
    third = started(out)
    said, complaint = third.communicate(timeout=300)
    assert third.returncode == 0, complaint
    assert said.count("complete, not done again") == len(demo.STAGES)
    assert (out / "voices" / "results.json").stat().st_mtime == before


def test_a_mistake_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    words = [sys.executable, "-m", "jaxrec.demo", "--out", str(tmp_path / "file")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write to") and done.stderr.count("\n") == 1


def test_its_configuration_is_read_like_any_other():
    cfg = config.load(demo.DemoConfig, ["--quick", "--out", "x"])
    assert cfg == demo.DemoConfig(out="x", quick=True)
