"""metrics.jsonl, TensorBoard, and what is written beside the results."""

import json
import math

import pytest

from jaxrec import log
from jaxrec.training.loop import LoopConfig


def write(out, steps, start=0, **options):
    with log.RunLog(out, 10, start, progress=False, **options) as lines:
        for step in steps:
            lines.tick()
            lines.write(step, "train", {"loss": 1 / step})
    return out / "metrics.jsonl"


def test_rows_go_to_a_file_and_come_back(tmp_path):
    path = write(tmp_path, [1, 2])
    rows = log.read_metrics(path)
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[1]["loss"] == 0.5 and rows[1]["kind"] == "train"
    assert log.read_metrics(path, "eval") == []


def test_a_resumed_run_drops_the_rows_that_it_makes_again(tmp_path):
    write(tmp_path, [1, 2, 3, 4])
    path = write(tmp_path, [3, 4, 5], start=2)
    assert [row["step"] for row in log.read_metrics(path)] == [1, 2, 3, 4, 5]


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path):
    path = write(tmp_path, [1, 2])
    path.write_text(path.read_text()[:-9])
    assert [row["step"] for row in log.read_metrics(path)] == [1]
    assert [row["step"] for row in log.read_metrics(write(tmp_path, [3], start=2))] == [1, 3]


def test_what_is_not_a_number_is_null(tmp_path):
    with log.RunLog(tmp_path, 1, progress=False) as lines:
        lines.write(1, "train", {"loss": math.nan})
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_by_option(tmp_path):
    write(tmp_path / "plain", [1])
    assert not (tmp_path / "plain" / "tensorboard").exists()
    write(tmp_path / "board", [1], tensorboard=True)
    assert list((tmp_path / "board" / "tensorboard").glob("events.*"))


def test_the_bar_shows_loss_and_speed(tmp_path, capsys):
    with log.RunLog(tmp_path, 3, title="tiny") as lines:
        lines.write(1, "train", {"loss": 0.25, "tokens/s": 1234.0})
        for _ in range(3):
            lines.tick()
        lines.say("resumed")
    shown = capsys.readouterr().err
    for part in ("tiny", "3/3", "loss=0.25", "tokens/s=1234", "resumed"):
        assert part in shown


def test_config_and_environment_lie_beside_the_results(tmp_path):
    log.write_provenance(tmp_path, LoopConfig(steps=7))
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 7
    told = json.loads((tmp_path / "environment.json").read_text())
    assert {"commit", "versions", "devices"} <= told.keys()
    assert {"python", "jax"} <= told["versions"].keys()
