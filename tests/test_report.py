"""The tables of README.md and docs/ say what the files of record say."""

import json
import sys
from pathlib import Path

import pytest

from bench import report
from jaxrec.config import RunError
from jaxrec.results import write_results

ROOT = Path(__file__).resolve().parent.parent
MARKED = "before\n<!-- table:{} -->\nold\n<!-- /table -->\nafter\n"


def person_rows():
    for row, gain in (("pooled", 0.0), ("own_p_encoder", 0.01)):
        for k in (0, 30):
            value = 0.6 + gain * k / 10
            yield {
                "row": row,
                "k": k,
                "accuracy": value,
                "accuracy_lo": value - 0.02,
                "accuracy_hi": value + 0.02,
                "nll": 0.6,
                "ece": 0.05,
            }


def test_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= 9_000
    text = (ROOT / "README.md").read_text()
    names = [m["name"] for m in report.BLOCK.finditer(text)]
    assert len(names) == 3, "the other tables stand in docs/results.md"
    assert all(report.table(n, ROOT / "results").count("\n") == 6 for n in names), "five rows each"


@pytest.mark.parametrize("page", report.PAGES, ids=str)
def test_the_tables_are_not_stale(page):
    old = (ROOT / page).read_text()
    assert report.render(old, ROOT / "results") == old, "run `make tables`"


def test_personalize(tmp_path):
    gap = {"a": "own_p_encoder", "b": "pooled", "k": 30, "metric": "accuracy"}
    gap |= {"diff": 0.03, "lo": 0.01, "hi": 0.05}
    write_results(
        tmp_path / "personalize",
        "personalize",
        list(person_rows()),
        [gap],
        headline="own_p_encoder",
        filename="people.json",
    )
    for name in ("personalize", "personalize/people"):
        text = report.render(MARKED.format(name), tmp_path)
        assert "| row | k = 0 | k = 30 | NLL, k = 30 | ECE, k = 30 |" in text
        assert "| **own_p_encoder** | 0.600 (0.580 - 0.620) | 0.630 (0.610 - 0.650) |" in text
        assert "own_p_encoder - pooled, accuracy at k = 30: +0.0300 [+0.0100, +0.0500]" in text
        assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
        assert report.render(text, tmp_path) == text


def test_no_table_is_made_of_rows_that_cannot_be_traced(tmp_path, monkeypatch, capsys):
    row = {"race": "generate", "contender": "jaxrec", "base": "hf", "ratio": 2.0, "lo": 1.9}
    row |= {"hi": 2.25, "n": 5, "unit": "tokens/s", "value": 1234.0}
    path = write_results(tmp_path / "bench", "bench", [row], filename="generate.json")
    record = json.loads(path.read_text())
    origin = {"commit": "b" * 40 + "+changes", "at": "2026-01-02T03:04:05+00:00", "machine": "m"}
    path.write_text(json.dumps(record | {"trained": [origin]}))
    assert f"commit {'b' * 10} + changes, 2026-01-02" in report.table("bench", tmp_path)
    for lacking, said in (
        ({"trained": None}, "trained"),
        ({"trained": [origin | {"at": None}]}, "trained.at"),
        ({"trained": [origin | {"commit": None}]}, "trained.commit"),
        ({"commit": None}, "commit"),
        ({"hardware": {}}, "hardware"),
        ({"wall_s": None}, "wall_s"),
    ):
        path.write_text(json.dumps(record | lacking))
        with pytest.raises(RunError, match=f"generate.json has no {said}: no table"):
            report.table("bench", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(MARKED.format("bench"))
    monkeypatch.setattr(sys, "argv", ["report", str(page), "--results", str(tmp_path)])
    assert report.main() == 1 and "can't be traced" in capsys.readouterr().err
    assert page.read_text() == MARKED.format("bench")
    # What is not known may be said instead.
    path.write_text(json.dumps(record | {"trained": [origin | {"commit": None, "note": "lost"}]}))
    assert "; lost, 2026-01-02; " in report.table("bench", tmp_path)


def test_bench_says_what_was_missing(tmp_path):
    row = {"race": "generate", "contender": "jaxrec", "base": "hf", "ratio": 2.0, "lo": 1.9}
    row |= {"hi": 2.25, "n": 5, "unit": "tokens/s", "value": 1234.0, "bar": "1.6x"}
    absent = row | dict.fromkeys(("ratio", "lo", "hi", "value")) | {"n": 0, "note": "no torch"}
    write_results(tmp_path / "bench", "bench", [row, absent], filename="generate.json")
    text = report.render(MARKED.format("bench"), tmp_path)
    assert "| generate | jaxrec | hf | **2.00** | 1.90 - 2.25 | 5 | 1,234 tokens/s | 1.6x |" in text
    assert "| generate | jaxrec | hf | no torch | - | 0 | - | 1.6x |" in text


def test_recommend_has_a_table_for_each_data_set_and_way_of_asking(tmp_path):
    row = {"model": "sasrec", "dataset": "beauty", "protocol": "full", "seeds": 3}
    row |= {"R@5": 0.05, "N@5": 0.04, "R@10": 0.08, "N@10": None, "R@5_sd": 0.001}
    row |= {"history": "masked", "coverage": 0.25, "wall_s": 1234.5, "bar": "R@10 .0605"}
    floor = row | {"model": "popularity", "R@5_sd": None, "seeds": 1, "bar": ""}
    sampled = row | {"protocol": "sampled-100 (99 uniform negatives)", "R@10": 0.47}
    rates = {"model": "svd", "dataset": "films", "protocol": "5-fold", "seeds": 1}
    rates |= {"RMSE": 0.9355, "MAE": 0.74}
    gap = {"a": "ours", "b": "popularity", "metric": "R@10", "diff": 0.01, "lo": 0.005, "hi": 0.02}
    shops = row | {"dataset": "shops", "R@10_lo": 0.07, "R@10_hi": 0.09}
    write = lambda name, rows, *more, **told: write_results(
        tmp_path / "recommend", "recommend", rows, *more, filename=f"{name}.json", **told
    )
    write("beauty", [row, sampled])
    write("beauty_popularity", [floor])
    write("films", [rates], bar="RMSE .93", peer="Surprise")
    write("shops", [shops | {"R@5_unmasked": 0.01, "N@10_unmasked": 0.02}], [gap])
    text = report.render(MARKED.format("recommend"), tmp_path)
    full, other = text.split("**beauty**: ")[1:]
    assert full.startswith("full ranking, history masked\n")
    assert "| model | seeds | R@5 | N@5 | R@10 | N@10 | coverage | wall_s | bar |" in full
    assert (
        "| sasrec | 3 | 0.0500 ± 0.0010 | 0.0400 | 0.0800 | - | 0.25 | 1,234 | R@10 .0605 |" in full
    )
    assert "| popularity | 1 | 0.0500 | 0.0400 | 0.0800 | - | 0.25 | 1,234 | - |" in full
    assert "Files: beauty: commit " in full and "; beauty_popularity: commit " in full
    assert other.startswith("sampled-100 (99 uniform negatives), ") and "| 0.4700 |" in other
    assert "**films**: 5-fold" in text and "| svd | 1 | 0.9355 | 0.7400 |" in text
    assert "bar: RMSE .93; peer: Surprise." in text
    assert "| 0.080 (0.070 - 0.090) |" in text
    assert "| N@10 | N@10_unmasked | coverage |" in text and "R@5_unmasked" not in text
    assert "Paired: ours - popularity, R@10: +0.0100 [+0.0050, +0.0200]." in text
    assert report.render(text, tmp_path) == text


def test_no_results_yet_and_bad_markers(tmp_path):
    assert "*No results of record yet.*" in report.render(MARKED.format("bench"), tmp_path)
    with pytest.raises(ValueError, match="no table is known by the name 'other'"):
        report.render(MARKED.format("other"), tmp_path)
    with pytest.raises(ValueError, match="has no"):
        report.render("<!-- table:bench -->\n", tmp_path)


def test_check_writes_nothing(tmp_path, monkeypatch, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(MARKED.format("bench"))
    flags = ["report", str(readme), "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*flags, "--check"])
    assert report.main() == 1 and "make tables" in capsys.readouterr().out
    assert readme.read_text() == MARKED.format("bench")
    monkeypatch.setattr(sys, "argv", flags)
    assert report.main() == 0
    monkeypatch.setattr(sys, "argv", [*flags, "--check"])
    assert report.main() == 0


def test_voices_shows_rows_and_the_cost_of_a_token(tmp_path):
    rows = [
        {
            "row": "own_p_gradient",
            "tenants": "generated",
            "nll": 0.58,
            "style": 0.73,
            "facts": None,
            "f1": 0.46,
            "n": 8,
        },
        {
            "row": "nearest",
            "tenants": "generated",
            "nll": None,
            "style": 1.0,
            "facts": 0.25,
            "f1": 0.57,
            "n": 8,
        },
    ]
    cost = [{"decoder": "head", "mflop_token": 1.574, "ms_token": 0.2}]
    write_results(tmp_path / "voices", "voices", rows, filename="sample.json", cost=cost)
    text = report.render(MARKED.format("voices"), tmp_path)
    assert "| own_p_gradient | generated | 0.5800 | 0.7300 | - | 0.4600 | 8 |" in text
    assert "head 1.57 MFLOP, 0.20 ms" in text


def test_explain(tmp_path):
    rows = [
        {"model": m, "set": s, "n": 7, "perplexity": p, "rouge_l": 0.25, "true": None if s == "XRec" else 1.5}
        for m, p in (("base", 41.0), ("template", None)) for s in ("XRec", "rated")
    ]  # fmt: skip
    write_results(
        tmp_path / "explain", "explain", rows, filename="genrec.json",
        latency=[{"stage": "explain", "p50_ms": 120.0, "p95_ms": 150.0}],
    )  # fmt: skip
    told = report.render(MARKED.format("explain"), tmp_path)
    assert "**genrec**, XRec: 7 held-out prompts" in told
    assert "| texts by | perplexity | ROUGE-L |\n| --- | --- | --- |\n| base | 41 | 0.25 |" in told
    assert "| template | - | 0.25 | 1.5 |" in told and "true attributes" in told
    assert "explain 120.0 (150.0)" in told


def test_quant(tmp_path):
    losses = [
        {"row": row, "before": 3.0, "nll": nll, "sd": None, "seeds": 1}
        for row, nll in (("fp32", 2.0), ("nf4", 2.01))
    ]
    gap = {"a": "nf4", "b": "fp32", "metric": "nll", "diff": 0.01, "lo": 0.008, "hi": 0.012}
    write_results(tmp_path / "quant", "quant", losses, [gap], filename="losses.json", part="losses")
    load = {"size": "7b", "kind": "nf4", "file_gb": 13.5, "peak_gb": 4.9}
    write_results(tmp_path / "quant", "quant", [load], filename="load.json", part="load")
    text = report.render(MARKED.format("quant"), tmp_path)
    assert "| nf4 | 3 | 2.01 | - | 1 |" in text
    assert "nf4 - fp32: +0.0100 [+0.0080, +0.0120]." in text
    assert text.index("nats a token") < text.index("peak of loading")
