"""A file of record comes out again, or the difference is said and told by the exit status."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jaxrec.eval import reproduce
from jaxrec.eval.reproduce import CannotReproduce, compare, folders, words

ROOT = Path(__file__).resolve().parent.parent
ROW = {"model": "m", "dataset": "d", "seeds": 3, "R@10": 0.05, "N@10": None, "wall_s": 12.0}
ROW |= {"peak_mb": 900, "encode_p50_ms": 3.0}


def test_numbers_are_compared_and_times_are_not():
    later = ROW | {"wall_s": 99.0, "peak_mb": 1, "encode_p50_ms": 9.0, "new": 1.0}
    assert compare([ROW], [ROW | {"model": "echo"}, later], 0.0) == ([], [], 2)
    (off,), missing, _ = compare([ROW], [later | {"R@10": 0.0502}], 1e-3)
    assert (off["number"], off["then"], off["now"], missing) == ("R@10", 0.05, 0.0502, [])
    # A small number may differ by a part of 0.1, a large one by a part of itself.
    assert not compare([ROW], [later | {"R@10": 0.0502}], 2.1e-3)[0]
    large = {"model": "m", "RMSE": 2.0}
    assert compare([large], [{"model": "m", "RMSE": 2.003}], 1e-3)[0]
    assert not compare([large], [{"model": "m", "RMSE": 2.001}], 1e-3)[0]


def test_a_lost_row_and_a_lost_number_are_differences():
    assert compare([ROW], [], 0.5)[1] == ["m, d"]
    assert compare([ROW], [ROW | {"R@10": None}], 0.5)[0][0]["now"] is None
    rows = [{"row": "own", "k": k, "nll": float(k)} for k in (0, 30)]
    assert compare(rows, rows[::-1], 0.0) == ([], [], 2)
    with pytest.raises(CannotReproduce, match="nothing to compare"):
        reproduce.show([], [], 0, 0.1)


def test_all_that_is_written_goes_elsewhere(tmp_path):
    config = {"out": "results/x", "runs": "runs", "parts": {"out": "o", "data": {"path": "p"}}}
    assert list(folders(config)) == ["out", "runs", "parts.out"]
    said = words(
        {"command": "python -m eval.x FILE --out results/x --seeds 0", "config": config}, tmp_path
    )
    assert said[1:6] == ["-m", "eval.x", "FILE", "--seeds", "0"] and "results/x" not in said
    assert said[6:8] == ["--out", str(tmp_path / "out")] and said.count("--out") == 1
    for command in ("rm -r /", "python -m http.server", "python x.py"):
        with pytest.raises(CannotReproduce, match="it is not run"):
            words({"command": command, "config": config}, tmp_path)
    with pytest.raises(CannotReproduce, match="no folder"):
        words({"command": "python -m eval.x", "config": {}}, tmp_path)


def test_what_cannot_be_run_is_said_in_a_line(tmp_path):
    (tmp_path / "recommend").mkdir()
    file = tmp_path / "recommend" / "x.json"
    for text, said in (("", "no JSON"), ("[]", "no command"), ('{"rows": [1]}', "no command")):
        file.write_text(text)
        with pytest.raises(CannotReproduce, match=said):
            reproduce.main(["recommend/x", "--results", str(tmp_path)])
    with pytest.raises(CannotReproduce, match=r"no file .*y.json; there are recommend/x"):
        reproduce.main(["recommend/y", "--results", str(tmp_path)])
    with pytest.raises(CannotReproduce, match="from 0 to 1"):
        reproduce.main(["recommend/x", "--tolerance", "7"])


@pytest.mark.slow
def test_a_row_is_run_again_and_a_changed_record_is_found(tmp_path):
    """The real command, in a process of its own, and its exit status."""
    experiment = tmp_path / "tiny.py"
    experiment.write_text(
        "from jaxrec.eval.recommend_ranking import RankingConfig, SampleWorld\n"
        "config = RankingConfig(name='tiny', data=SampleWorld(people=60), diversity='categories')\n"
    )
    python = [sys.executable, "-m"]
    kept = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "results" / "recommend")]
    subprocess.run([*python, "eval.recommend", str(experiment), *kept], cwd=ROOT, check=True)
    file = tmp_path / "results" / "recommend" / "tiny.json"
    record = json.loads(file.read_text()) | {"command": f"python -m eval.recommend {experiment}"}
    file.write_text(json.dumps(record))
    again = [*python, "eval.reproduce", "recommend/tiny", "--results", str(tmp_path / "results")]
    assert subprocess.run(again, cwd=ROOT, check=False).returncode == 0
    record["rows"][0]["R@10"] += 0.01
    file.write_text(json.dumps(record))
    assert subprocess.run(again, cwd=ROOT, check=False).returncode == 1
    assert json.loads(file.read_text()) == record  # nothing of record is written
