"""The races are fair: what is thrown away, what is compared, and what a row says when something is missing."""

import importlib
import importlib.util
import json
import sys
import time

import numpy as np
import pytest

from bench import __main__ as bench
from bench import bench_table
from bench.race import chip, gpu_card, harness, real, shape
from bench.race.card import RACES
from bench.race.harness import Against, Entry, Measured, Race
from bench.race.worker import Work, calls_of, timed

CONTENDER = """
from bench.race.worker import Work

def prepare(value=1.0, missing=False, broken=False):
    print("libraries may print")
    if missing:
        import a_package_that_nobody_has
    if broken:
        raise ValueError("no such thing")
    return {"work": Work(lambda: None, lambda: [value, 2.0], {"fake": "1.0"}, {"said": value})}
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """An importable contender module, for processes too."""
    (tmp_path / "fake_contender.py").write_text(CONTENDER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "fake_contender"


def race(entries: dict[str, Entry], **more) -> Race:
    return Race("r", "a race", "base", entries, "tokens/s", 100.0, **more)


class Scripted:
    """Stands in for a worker: replies with given seconds and foreign load, and notes who was asked."""

    asked: list = []  # noqa: RUF012

    def __init__(self, name, seconds, foreign):
        self.name, self.replies = name, list(zip(seconds, foreign, strict=True))
        self.greeting = {"ready": {"info": {}, "versions": {}}}

    def ask(self, **request):
        Scripted.asked.append(self.name)
        seconds, foreign = self.replies.pop(0)
        return {"seconds": seconds, "foreign": foreign, "cpu": 1.5}


def scripted(**contenders):
    Scripted.asked = []
    return {name: (Scripted(name, *both), Entry(name)) for name, both in contenders.items()}


def test_short_work_is_repeated_and_long_work_is_not():
    assert [calls_of(s) for s in (0.01, 0.3, 2.0, 9.0, 10.0, 500.0)] == [100, 4, 1, 1, 0, 0]
    made = []
    took = timed(Work(lambda: (made.append(1), time.sleep(0.01)), share=0.5), calls=4)
    assert len(made) == 5, "one before, which does not count"
    assert 0.02 <= took["seconds"] < 0.2, "of one whole call, of which a call does half"
    made.clear()
    timed(Work(lambda: made.append(1)))
    assert len(made) == 1


def row_of(race, contender, measured, able, agreement=None):
    pair = Against(contender, race.base, race.bars.get(contender))
    return harness.row(race, pair, measured, {}, agreement or {}, able)


def test_rounds_rotate_and_dirty_ones_are_run_again():
    able = scripted(
        base=([1.0, 9.0, 2.0, 4.0], [0.0, 0.0, 0.1, 0.0]),
        ours=([0.5, 9.0, 0.5, 1.0], [0.0, 0.9, 0.0, 0.0]),  # in round 2 somebody else was at work
    )
    samples, rejected = harness.interleave(able, 3)
    assert rejected == 1 and [s["base"]["seconds"] for s in samples] == [1.0, 2.0, 4.0]
    assert Scripted.asked == ["base", "ours", "ours", "base", "base", "ours", "ours", "base"]
    measured = Measured(samples, rejected, {"ours": 130, "base": 100})
    row = row_of(race({}, bars={"ours": 1.6}), "ours", measured, able, {"ours": 2e-5})
    assert (row["ratio"], row["lo"], row["hi"], row["n"]) == (4.0, 2.0, 4.0, 3)
    assert (row["value"], row["base_value"], row["bar"]) == (200.0, 50.0, 1.6)
    assert row["rejected_rounds"] == 1 and "note" not in row
    assert row["info"]["answers_differ_by"] == 2e-5
    assert row["memory_ratio"] == 1.3 and row["info"]["base_memory_mb"] == 100
    assert row["met"] is None  # three rounds tell nothing


def test_a_machine_that_is_never_calm_is_said():
    able = scripted(base=([1.0] * 6, [1.0] * 6), ours=([1.0] * 6, [0.0] * 6))
    samples, rejected = harness.interleave(able, 2)
    row = row_of(race({}, bars={"ours": 0.5}), "ours", Measured(samples, rejected), able)
    assert row["n"] == 6 and row["note"] == "other programs were running" and row["met"] is None


@pytest.mark.parametrize(
    ("bar", "limit", "lo", "met"),
    [
        (1.0, None, 0.97, True),  # as fast as: no round below 0.97
        (1.0, None, 0.96, False),
        (2.0, None, 1.5, True),  # others: the median
        (3.0, None, 2.4, False),
        (None, 50.0, 1.0, True),  # seconds
        (None, 40.0, 1.0, False),
        (None, None, 1.0, None),
    ],
)
def test_when_a_bar_is_reached(bar, limit, lo, met):
    row = {"n": 5, "bar": bar, "limit": limit, "ratio": 2.5, "lo": lo, "value": 45.0}
    assert harness.reached(row) is met
    assert harness.reached(row | {"n": 4}) is None
    said = bench_table._bar(row | {"met": met})
    assert said.endswith({True: ", met", False: ", missed", None: "-"}[met])


def test_a_race_against_two(fake, tmp_path):
    """A ratio to another than the base is a row of its own, and in a table."""
    entries = {
        "base": Entry(fake), "peer": Entry(fake, options={"value": 1.00001}), "ours": Entry(fake)
    }  # fmt: skip
    one = race(entries, also=(Against("ours", "peer", 1.0),))
    rows, _ = harness.run(one, {"": sys.executable}, tmp_path / "logs", 2)
    found = {(row["contender"], row["base"]): row for row in rows}
    assert set(found) == {("peer", "base"), ("ours", "base"), ("ours", "peer")}
    assert found["ours", "peer"]["bar"] == 1.0 and found["ours", "peer"]["ratio"] > 0
    assert 0.5 < found["ours", "peer"]["memory_ratio"] < 2
    assert found["ours", "base"]["memory_ratio"] is None  # one process does both
    record = {"rows": rows, "commit": None, "wall_s": 60.0, "versions": {"python": "3"}}
    record["trained"] = [
        {"commit": "0123456789abcdef", "at": "2026-01-02T00:00:00", "machine": "m"}
    ]
    record["hardware"] = {"cores": 2, "cpu": "x", "memory_gb": 1, "accelerators": []}
    lines = bench_table.bench([("r", record)]).splitlines()
    assert len(lines) == 2 + 3 + 2 and all(line.count("|") == 10 for line in lines[:5])


def test_processes_answers_and_absences(fake, tmp_path):
    entries = {
        "base": Entry(fake),
        "equal": Entry(fake, options={"value": 1.0001}),
        "other": Entry(fake, options={"value": 1.5}),
        "absent": Entry(fake, options={"missing": True}),
        "broken": Entry(fake, options={"broken": True}),
        "peer": Entry(fake, environment="peers"),
    }
    pythons = {"": sys.executable, "peers": None}
    rows, versions = harness.run(race(entries), pythons, tmp_path / "logs", 2)
    by_name = {row["contender"]: row for row in rows}
    assert set(by_name) == set(entries) - {"base"} and versions == {"fake": "1.0"}
    assert by_name["equal"]["ratio"] > 0 and by_name["equal"]["info"]["said"] == 1.0001
    assert by_name["equal"]["info"]["answers_differ_by"] == pytest.approx(5e-5)
    assert by_name["other"]["note"] == "answers differ by 2.5e-01"
    assert by_name["absent"]["note"] == "a_package_that_nobody_has is not installed"
    assert by_name["broken"]["note"] == "failed: ValueError: no such thing"
    assert by_name["peer"]["note"] == "not installed"
    for name in ("other", "absent", "broken", "peer"):
        assert by_name[name]["ratio"] is None and by_name[name]["n"] == 0


def test_fewer_bits_have_a_tolerance_of_their_own(fake, tmp_path):
    entries = {
        "base": Entry(fake),
        "int8": Entry(fake, options={"value": 1.1}),
        "bf16": Entry(fake, options={"value": 1.2}),
    }
    one = race(entries, loose={"int8": 0.06, "bf16": 0.06})
    rows, _ = harness.run(one, {"": sys.executable}, tmp_path, 2)
    by_name = {row["contender"]: row for row in rows}
    assert by_name["int8"]["ratio"] > 0 and by_name["bf16"]["note"] == "answers differ by 1.0e-01"


def test_a_model_that_was_not_fetched_is_left_out_aloud(fake, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    one = race({"base": Entry(fake), "jaxrec": Entry(fake)}, model="gemma3")
    monkeypatch.setitem(bench.CARDS, "cpu", (one,))
    monkeypatch.setattr(sys, "argv", ["bench", "--out", str(tmp_path)])
    assert bench.main() == 0 and not (tmp_path / "r.json").exists()
    said = capsys.readouterr().out
    assert "r: left out: gemma3 was not fetched" in said and "--accept-terms" in said


def test_tokens_of_a_published_model(tmp_path, monkeypatch):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: i for i, word in enumerate(["<|im_start|>", "a", "b", "c"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    rows = real.prompts(tmp_path, ("c b c", "b a c"), 2, 3)
    assert rows.tolist() == [[0, 2, 3], [0, 1, 3]] and real.letter(tmp_path) == 1
    with pytest.raises(ValueError, match="6 tokens of text, 8 are asked for"):
        real.prompts(tmp_path, ("c b c", "b a c"), 2, 4)
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path))
    monkeypatch.setenv("JAXREC_BENCH_PYTHON", "false")
    with pytest.raises(RuntimeError, match=r"bench\.race\.real mpnet: no word"):
        real.made("mpnet", real.FOLDER, tmp_path)


def test_without_the_base_there_is_a_figure_but_no_ratio(fake, tmp_path):
    entries = {"base": Entry(fake, environment="peers"), "jaxrec": Entry(fake)}
    rows, _ = harness.run(race(entries), {"": sys.executable, "peers": None}, tmp_path, 2)
    assert rows[0]["value"] > 0 and rows[0]["ratio"] is None
    assert rows[0]["note"] == "base: not installed"


def test_alone_on_the_track_there_is_a_figure(fake, tmp_path):
    rows, _ = harness.run(race({"base": Entry(fake)}), {"": sys.executable}, tmp_path, 2)
    (row,) = rows
    assert row["contender"] == row["base"] == "base" and row["value"] > 0 and row["ratio"] is None


@pytest.mark.parametrize("broken", [False, True])
def test_command(fake, tmp_path, monkeypatch, capsys, broken):
    entries = {
        "base": Entry(fake, environment="peers"),
        "jaxrec": Entry(fake, options={"broken": broken}),
    }
    monkeypatch.setitem(bench.CARDS, "cpu", (race(entries),))
    monkeypatch.setattr(bench, "CACHE", tmp_path)
    words = ["bench", "--race", "r", "--out", str(tmp_path), "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", words)
    assert bench.main() == int(broken)  # a missing peer is no failure, our own contender's is
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["name"] == "bench" and record["rows"][0]["contender"] == "jaxrec"
    assert "not installed" in capsys.readouterr().out or broken
    monkeypatch.setattr(sys, "argv", ["bench", "--race", "none"])
    with pytest.raises(SystemExit, match="there is no race 'none'; the races are r"):
        bench.main()


def test_races_are_chosen_by_name_or_beginning():
    names = lambda *asked: [race.name for race in bench.choose(asked)]
    assert names("sft") == ["sft"] and names("generate") == ["generate-1", "generate-16"]
    assert names() == [race.name for race in RACES] and names("sft-", "dpo") == ["dpo", "sft-mix"]


@pytest.mark.parametrize("card", [RACES, gpu_card.RACES], ids=["cpu", "gpu"])
def test_the_card_is_consistent(card):
    assert len({race.name for race in card}) == len(card)
    assert {race.device for race in card} == {"cpu" if card is RACES else "gpu"}
    for one in card:
        assert one.base in one.entries and {*one.bars, *one.limits} <= set(one.entries)
        assert all({pair.contender, pair.base} <= set(one.entries) for pair in one.also)
        assert one.rounds >= harness.CLEAN
        ours = {name for name, entry in one.entries.items() if not entry.environment}
        assert ours and any(name.startswith("jaxrec") for name in ours)
        assert all(importlib.util.find_spec(e.module) is not None for e in one.entries.values())


def test_races_of_a_device_are_its_own(monkeypatch):
    names = lambda *asked: [race.name for race in bench.choose(asked, "gpu")]
    assert names() == [race.name for race in gpu_card.RACES]
    assert names("gpu-sft") == ["gpu-sft-1024", "gpu-sft-4096"]
    with pytest.raises(SystemExit, match="there is no race 'sft'; the races are gpu-sft-1024"):
        names("sft")
    assert harness.quiet_environment("cpu")["JAX_PLATFORMS"] == "cpu"
    assert harness.quiet_environment("gpu")["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    monkeypatch.setattr(harness, "ON_DEVICE", {"gpu": {"JAX_PLATFORMS": "cpu"}})
    with pytest.raises(SystemExit, match="JAX finds no GPU here"):
        bench.say_the_gpu()


def test_what_a_chip_reaches():
    assert (
        chip.peaks("NVIDIA H200") == (989, 4800) and chip.peaks("NVIDIA A100-SXM4-40GB")[1] == 1555
    )
    assert chip.peaks("cpu") is None and chip.rates({"chip": "cpu"}, 1.0) == {}
    known = {"chip": "NVIDIA H100 80GB HBM3", "flops": 4.945e14, "moved": 3.35e12}
    assert chip.rates(known, 2.0) == {
        "tflops_s": 247.2, "mfu": 0.25, "gb_s": 1675.0, "of_bandwidth": 0.5
    }  # fmt: skip
    assert chip.rates({"chip": "another", "flops": 2e12}, 2.0) == {"tflops_s": 1.0}


def test_operations_and_bytes_counted_by_hand():
    """TINY: width 32, inner 48, 4 heads and 2 key heads of 8, 2 layers, 96 words."""
    layer = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48
    lora = 3 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48))
    token = 2 * (4 * layer + 4 * lora + 6 * (10 + 1) * 32) + 4 * 32 * 96
    assert chip.sft_flops(shape.TINY, 5, 10, 3) == 5 * 10 * token
    cache = (
        2 * 2 * 2 * 8 * 5 * (7 + 2)
    )  # keys and values, layers, heads x 8, rows, tokens on average
    assert chip.decoding_bytes(shape.TINY, 5, 7, 3, 2) == 2 * 3 * (2 * layer + 32 * 96 + cache)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_runs_on_a_gpu_agrees_with_the_peer(tmp_path, monkeypatch, dtype):
    """The GPU card's contenders on a CPU: Qwen2's layout, both sides, both types."""
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    from bench.race import jax_decode, jax_sft, torch_decode, torch_sft

    monkeypatch.setattr(shape, "CACHE", tmp_path)
    monkeypatch.setattr(shape, "NEW", 4)
    small = {"size": "tiny-qwen", "batch": 2, "dtype": dtype}
    exact = dtype == "float32"
    ours = jax_decode.prepare(**small)["work"]
    theirs = torch_decode.prepare(**small)["work"]
    np.testing.assert_allclose(ours.answer(), theirs.answer(), atol=1e-4 if exact else 0.05)
    ours, theirs = (m.prepare(**small, length=8, rank=2)["work"] for m in (jax_sft, torch_sft))
    np.testing.assert_allclose(ours.answer(), theirs.answer(), rtol=1e-5 if exact else 0.01)
    assert ours.memory is None and theirs.memory is None  # a CPU: the system is asked
    known = {"chip": "cpu", "flops": chip.sft_flops(shape.TINY, 2, 8, 2)}
    assert ours.info == theirs.info == known


def test_products_of_codes_are_those_of_what_they_stand_for():
    from bench.race import jax_matmul

    small = {"into": 128, "out": 256, "repeated": 2}
    codes, floats = (jax_matmul.prepare(stored, **small) for stored in ("nf4", "bfloat16"))
    for name in codes:
        np.testing.assert_allclose(codes[name].answer(), floats[name].answer(), atol=0.02)
        codes[name].run()
    assert codes["tokens_16"].info["flops"] == 2 * 2 * 16 * 128 * 256


@pytest.mark.slow
@pytest.mark.parametrize("model", ["hstu", "tiger"])
def test_a_recommenders_step_learns(model):
    from bench.race import jax_recommenders

    work = jax_recommenders.prepare(model, rows=1)["work"]
    work.run()
    assert np.isfinite(work.answer()).all() and work.info["rows"] == 1


def test_what_both_sides_read(tmp_path, monkeypatch):
    monkeypatch.setattr(shape, "CACHE", tmp_path)
    from safetensors.numpy import load_file

    assert np.allclose(shape.centred([[1.0, 2.0, 6.0]]), [[-2.0, -1.0, 3.0]])
    folder = shape.model_folder("tiny")
    tensors = load_file(folder / "model.safetensors")
    assert tensors["model.layers.1.mlp.down_proj.weight"].shape == (32, 48)
    assert shape.model_folder("tiny") == folder  # made once
    assert np.array_equal(shape.prompts("tiny", 4), shape.prompts("tiny", 4))
    a, b = shape.loras("tiny", 3, 2)["k"]
    assert a.shape == (2, 3, 32, 2) and b.shape == (2, 3, 2, 16) and b.any()
    lengths = [len(text.split()) for text in shape.texts(64)]
    assert min(lengths) >= 3 and max(lengths) <= 60


@pytest.mark.slow
@pytest.mark.parametrize("module", ["tenants_lora", "tenants_head"])
def test_tenants_do_the_same_work(tmp_path, monkeypatch, module):
    """Tenant 0's answer is the same alone, merged, beside fifteen others, and in a stream."""
    monkeypatch.setattr(shape, "CACHE", tmp_path)
    works = importlib.import_module(f"bench.race.jax_{module}").prepare(size="tiny", batch=4)
    answers = {name: np.asarray(w.answer()) for name, w in works.items() if w.answer is not None}
    assert {"shared", "distinct", "stream_10000"} <= set(answers)
    for answer in answers.values():
        np.testing.assert_allclose(answer, answers["shared"], atol=1e-5)
    works["stream_256"].run()


def test_we_decode_what_the_peer_decodes(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from bench.race import jax_decode, torch_decode

    monkeypatch.setattr(shape, "CACHE", tmp_path)
    monkeypatch.setattr(shape, "NEW", 8)
    theirs = torch_decode.prepare(size="tiny", batch=3)["work"]
    ours = jax_decode.prepare(size="tiny", batch=3)["work"]
    np.testing.assert_allclose(ours.answer(), theirs.answer(), atol=1e-4)
    assert ours.run().ids == theirs.run()[:, shape.PROMPT :].tolist()


def test_llama_cpp_decodes_what_we_decode(tmp_path, monkeypatch):
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gguf")
    from bench.race import gguf_file, jax_decode, llama_cpp

    monkeypatch.setattr(shape, "CACHE", tmp_path)
    monkeypatch.setattr(shape, "NEW", 4)
    words = shape.TINY | {"vocab_size": 320, "hidden_size": 64, "head_dim": 16}
    monkeypatch.setitem(shape.SHAPES, "words", words)
    assert gguf_file.write("words") == gguf_file.gguf_file("words")
    theirs = llama_cpp.prepare(size="words", batch=2)["work"]
    theirs.run()
    ours = jax_decode.prepare(size="words", batch=2)["work"]
    np.testing.assert_allclose(ours.answer(), theirs.answer(), atol=1e-4)


def test_our_training_step_learns(tmp_path, monkeypatch):
    from bench.race import jax_sft

    monkeypatch.setattr(shape, "CACHE", tmp_path)
    work = jax_sft.prepare(size="tiny", batch=2, length=8, rank=2)["work"]
    first, second, third = work.answer()
    assert first > second > third
