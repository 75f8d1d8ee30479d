"""Files of record: complete, valid JSON, written whole or not at all."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxrec import results, train
from jaxrec.results import commit, conclude, kept_origin, print_table, write_results

ROW = {"race": "r", "contender": "jaxrec", "base": "peer", "ratio": 2.0}
ROW |= {"lo": 1.9, "hi": 2.1, "n": 5, "unit": "tokens/s", "value": 10.0}


@dataclasses.dataclass(frozen=True)
class Config:
    """A configuration with what JSON does not know."""

    folder: Path = Path("somewhere")
    sizes: tuple[int, ...] = (1, 2)


def test_fields(tmp_path):
    path = write_results(
        tmp_path / "new" / "folder", "bench", [ROW], config=Config(), seed=3, wall_s=1.234, bar="2x"
    )
    read = json.loads(path.read_text())
    assert path.name == "results.json" and read["rows"] == [ROW] and read["paired"] == []
    assert read["config"] == {"folder": "somewhere", "sizes": [1, 2]}
    assert (read["name"], read["seed"], read["wall_s"], read["bar"]) == ("bench", 3, 1.23, "2x")
    assert {"python", "jax", "numpy"} <= set(read["versions"])
    assert read["hardware"]["cores"] >= 1 and read["hardware"]["memory_gb"] > 0
    assert read["commit"] == commit()


def test_a_file_says_by_which_code_when_and_where_its_rows_were_made(tmp_path):
    read = lambda *rows, **more: json.loads(
        write_results(tmp_path, "bench", rows, **more).read_text()
    )
    (own,) = read(ROW)["trained"]
    assert own["commit"] == commit() and own["at"].startswith("20") and "GB" in own["machine"]
    old = {"commit": "a" * 40, "at": "2020-01-01T00:00:00+00:00", "machine": "another"}
    assert [one["commit"] for one in read(ROW | {"trained": [old]})["trained"]] == ["a" * 40]
    # A seed that was kept and one that was run are two origins; two that were kept by the same code are one.
    both = read(ROW, ROW | {"trained": [old, old | {"at": "2021-01-01T00:00:00+00:00"}]})["trained"]
    assert [one["at"][:4] for one in both] == [own["at"][:4], "2021"]
    with pytest.raises(ValueError, match="bench: origin 0 lacks at"):
        read(ROW | {"trained": [{"commit": "a", "machine": "m"}]})
    kept = tmp_path / "numbers.json"
    kept.write_text("{}")
    assert kept_origin(kept)["commit"] is None and "did not say" in kept_origin(kept)["note"]


def test_the_command_says_what_was_run_and_not_where_to(monkeypatch):
    said = [
        "/usr/bin/python3",
        "-X",
        "dev",
        "-m",
        "eval.x",
        "configs/a b.py",
        "--out",
        "/some/where",
    ]
    monkeypatch.setattr(sys, "orig_argv", [*said, "--seeds", "0"])
    assert results.command() == "python -m eval.x 'configs/a b.py' --seeds 0"
    monkeypatch.setattr(sys, "orig_argv", ["python", "script.py"])
    assert results.command() is None


@pytest.mark.skipif(commit() is None, reason="no git checkout")
def test_a_tree_that_is_not_what_runs_is_said(monkeypatch):
    monkeypatch.setattr(results, "_BEGUN_AT", 0.0)  # every commit was made after so early a start
    assert commit().endswith("+changes")


def test_not_a_number_becomes_null_and_numpy_becomes_plain(tmp_path):
    row = ROW | {"ratio": float("nan"), "hi": np.float32("inf"), "n": np.int64(5), "lo": np.ones(2)}
    text = write_results(tmp_path, "bench", [row]).read_text()
    assert "NaN" not in text and "Infinity" not in text
    read = json.loads(text)["rows"][0]
    assert read["ratio"] is None and read["hi"] is None
    assert read["n"] == 5 and read["lo"] == [1.0, 1.0]


def test_a_row_that_lacks_a_key_is_refused(tmp_path):
    short = {key: value for key, value in ROW.items() if key != "unit"}
    with pytest.raises(ValueError, match="bench: row 1 lacks unit"):
        write_results(tmp_path, "bench", [ROW, short])
    assert not list(tmp_path.iterdir())
    write_results(tmp_path, "anything else", [{"free": 1}])


def test_a_recommender_ranks_or_predicts_ratings(tmp_path):
    shared = {"model": "m", "dataset": "d", "protocol": "full", "seeds": 3}
    ranks = shared | {"R@5": 0.1, "N@5": 0.1, "R@10": 0.2, "N@10": 0.1}
    rates = shared | {"RMSE": 0.9, "MAE": 0.7}
    write_results(tmp_path, "recommend", [ranks, rates])
    with pytest.raises(ValueError, match=r"recommend: row 1 has neither R@5, .* nor RMSE, MAE"):
        write_results(tmp_path, "recommend", [ranks, shared | {"RMSE": 0.9}])
    with pytest.raises(ValueError, match="row 0 lacks seeds"):
        write_results(tmp_path, "recommend", [{k: v for k, v in ranks.items() if k != "seeds"}])


def test_the_headline_must_be_a_row(tmp_path):
    row = {"row": "pooled", "k": 0, "accuracy": 0.5, "accuracy_lo": 0.4, "accuracy_hi": 0.6}
    row |= {"nll": 0.7, "ece": 0.1}
    with pytest.raises(ValueError, match="own_p_encoder"):
        write_results(tmp_path, "personalize", [row], headline="own_p_encoder")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    old = write_results(tmp_path, "bench", [ROW]).read_text()

    def full_disk(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_results(tmp_path, "bench", [ROW | {"n": 6}])
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert (tmp_path / "results.json").read_text() == old


def test_table(capsys):
    print_table(
        [{"row": "own p", "accuracy": 0.123456}, {"row": "mean", "accuracy": None, "k": 30}]
    )
    assert capsys.readouterr().out.splitlines() == [
        "row    accuracy   k",
        "-----  --------  --",
        "own p    0.1235   -",
        "mean          -  30",
    ]


def test_every_stage_ends_with_what_it_wrote_and_what_comes_next(capsys):
    conclude(["runs/x/adapter", "runs/x/peft"], ["jaxrec", "answer", "--tenant", "Corner Bakery"])
    conclude([Path("runs/x")])
    assert capsys.readouterr().out.splitlines() == [
        "wrote runs/x/adapter, runs/x/peft; next: jaxrec answer --tenant 'Corner Bakery'",
        "wrote runs/x",
    ]
    stages = Path(train.__file__).parent.glob("[!_]*.py")
    assert [one.name for one in stages if "results.conclude(" not in one.read_text("utf-8")] == []


def test_a_table_on_a_terminal_leaves_curves_and_origins_to_the_file(capsys):
    results.print_table([{"row": "a", "nll": 1.5, "curve": [(1, 2.0)], "trained": [{"at": "now"}]}])
    head, _, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["row", "nll"] and line.split() == ["a", "1.5"]
