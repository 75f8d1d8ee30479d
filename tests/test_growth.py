"""Growth curves: the paper's formulas against counts by hand and by XLA, the fit, what is kept of a stopped run."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from bench import growth, report
from bench.growth import GrowthConfig, GrowthError, Points
from bench.growth_cases import case
from bench.growth_paper import AXES, Cost, Machine, Sizes, anchored, cost, exponent, sites, thin
from jaxrec.config import load
from jaxrec.delta import DeltaConfig, shapes
from jaxrec.nn.decoder import Decoder, DecoderConfig

TINY = Sizes(
    batch=2, length=8, layers=1, vocabulary=40, tenants=5, rows=2, items=30, table=20, vectors=64,
    width=16, inner=24, heads=2, groups=1, head_dim=8, rank=2, p_width=8, positions=128, ratings=16,
    vector_width=8,
)  # fmt: skip


def test_every_axis_has_its_size_and_its_points():
    fields = {f.name for f in dataclasses.fields(Sizes)}
    assert set(AXES) <= fields
    assert {f.name for f in dataclasses.fields(Points)} == set(AXES)
    growth.check(GrowthConfig())


def test_a_lora_step_counted_by_hand():
    """q 16x16, k and v 16x8, o 16x16, gate and up 16x24, down 24x16; 16 tokens, of 8 keys as many as are seen."""
    layer = 256 + 128 + 128 + 256 + 3 * 384
    lora = 2 * (32 + 24 + 24 + 32 + 3 * 40)
    each = 4 * layer + 4 * lora + 6 * 9 * 16 + 4 * 16 * 40
    assert cost("batch", 2, TINY).flops == 16 * each
    assert cost("layers", 3, TINY).flops == 16 * (3 * (each - 4 * 640) + 4 * 640)
    assert cost("batch", 8, TINY).flops == 4 * cost("batch", 2, TINY).flops
    more = cost("length", 16, TINY).flops - 2 * cost("length", 8, TINY).flops
    assert more == 2 * 16 * 6 * 8 * 16  # what is quadratic
    steps = [cost("vocabulary", v, TINY).flops for v in (40, 80, 120)]
    assert steps[2] - steps[1] == steps[1] - steps[0] == 16 * 4 * 16 * 40  # affine


def test_matrices_and_loras_are_those_of_the_model():
    s = Sizes()
    cfg = DecoderConfig(s.vocabulary, s.width, s.layers, s.heads, s.groups, s.head_dim, s.inner)
    assert sorted(sites(s)) == sorted(Decoder.sites(cfg).stacks["stack_0"].lora.values())
    lora = shapes(Decoder.sites(cfg), DeltaConfig(lora_rank=s.rank))
    sizes = [x.size for x in jax.tree.leaves(lora) if x.ndim > 2]
    assert sum(sizes) == s.layers * thin(sites(s), s.rank)


@pytest.mark.parametrize(
    ("axis", "value"),
    [
        ("batch", 4),
        pytest.param("length", 512, marks=pytest.mark.slow),
        pytest.param("vocabulary", 8192, marks=pytest.mark.slow),
    ],
)
def test_xla_counts_as_many_operations(axis, value):
    """Before anything is optimised, one layer and one chunk (a loop's body counts once); sums and exponentials too."""
    sizes = dataclasses.replace(Sizes(), layers=1, batch=1 if axis == "length" else 4)
    counted = case(axis, value, sizes).counted()
    assert 0.97 < counted / cost(axis, value, sizes).flops < 1.1


def test_the_number_of_tenants_costs_memory_alone():
    few, many = (cost("tenants", n) for n in (1, 10_000))
    assert (few.flops, few.moved) == (many.flops, many.moved)
    assert many.held - few.held == 4 * 9_999 * 128
    tables = [cost("table", n) for n in (10_000, 20_000)]
    assert tables[0].moved == tables[1].moved
    assert tables[1].held - tables[0].held == 4 * 3 * 2 * 10_000 * 64
    assert cost("reach", 10_000) == cost("reach", 320_000) == cost("table", 320_000)


def test_the_slower_of_operations_and_bytes_decides():
    machine = Machine(flops=10, moved=2)
    assert machine.seconds(Cost(flops=100, moved=2, held=0)) == 10
    assert machine.seconds(Cost(flops=100, moved=30, held=0)) == 15
    search = cost("vectors", 1000)
    assert Machine().seconds(search) == search.moved / Machine().moved


def test_exponents_of_known_powers():
    values = (1, 2, 4, 8, 16, 32)
    assert exponent(values, [3 * v**1.5 for v in values]) == pytest.approx(1.5)
    assert exponent(values, [7.0] * 6) == pytest.approx(0)
    # only the upper half counts: 8, 16, 32
    assert exponent(values, [100, 100, 100, 8, 16, 32]) == pytest.approx(1)
    assert exponent(values, [1, 1, 1, 1, 1, 0.0]) is None
    assert exponent(values, [1, 1, 1, 1, 1, None]) is None
    assert exponent((5,), (1.0,)) is None
    assert anchored([1, 2, 4, 8], [9, 9, 20, 9]) == [5, 10, 20, 40]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--axes", "lenght"], "did you mean 'length'?"),
        (["--axes", "bananas"], "there are batch, length"),
        (["--axes", "batch", "--points.batch", "4", "2"], "--points.batch"),
        (["--axes", "batch", "--points.batch", "4"], "--points.batch"),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(flags, said):
    with pytest.raises(GrowthError, match=said.replace("?", r"\?")):
        growth.main(load(GrowthConfig, flags))


class Children:
    """Stands for the processes: time grows with value^1.5, memory with it; counts who was asked."""

    def __init__(self, noise=(0.0,)):
        self.asked, self.noise = [], list(noise)

    def __call__(self, cfg, words):
        if words == ["--machine"]:
            return {"flops": 1e11, "moved": 1e10}
        axis, value = words[0].split("=")[1], int(words[1].split("=")[1])
        self.asked.append((axis, value))
        others = self.noise.pop(0) if len(self.noise) > 1 else self.noise[0]
        told = {"step_ms": 10.0 * value**1.5 + others, "peak_mb": 5.0 * value, "steps": 5}
        return told | {"system": 0.1, "others": others, "wall_s": 1.0}


def config_in(folder, **more):
    points = Points(batch=(1, 2, 4), layers=(1, 2))
    more = {"axes": ("batch",)} | more
    return GrowthConfig(
        points=points, out=str(folder / "runs"), results=str(folder / "results" / "growth"), **more
    )


@pytest.fixture
def no_plots(monkeypatch):
    monkeypatch.setattr(growth, "plot", lambda *args: None)


def test_a_stopped_run_goes_on(tmp_path, monkeypatch, no_plots):
    children = Children()
    monkeypatch.setattr(growth, "child", children)
    rows = growth.main(config_in(tmp_path))
    assert [row["value"] for row in rows] == [1, 2, 4] and len(children.asked) == 3
    middle = 10 * 2**1.5  # of three points the curves meet at the second
    assert [row["expected_ms"] for row in rows] == pytest.approx([middle / 2, middle, 2 * middle])
    (tmp_path / "runs" / "rows" / "batch_2.json").unlink()
    assert growth.main(config_in(tmp_path)) == rows
    assert children.asked[3:] == [("batch", 2)]
    growth.main(config_in(tmp_path, axes=("layers",)))  # joins what is there
    record = json.loads((tmp_path / "results" / "growth" / "cpu.json").read_text())
    assert [slope["axis"] for slope in record["slopes"]] == ["batch", "layers"]
    assert record["slopes"][0]["slope_measured"] == pytest.approx(1.5)
    assert record["slopes"][0]["slope_expected"] == pytest.approx(1.0)
    before = len(children.asked)
    growth.main(config_in(tmp_path, sizes=Sizes(width=128)))  # other sizes: other points
    assert len(children.asked) == before + 3
    growth.main(config_in(tmp_path, sizes=Sizes(width=128), fresh=True))
    assert len(children.asked) == before + 6
    table = report.render("<!-- table:growth -->\n<!-- /table -->", tmp_path / "results")
    assert "| batch | LoRA step | 1 - 4 | 10 - 80 ms | 1.50 | 1.00 | 5 - 20 MB | 1.00 |" in table


def test_a_disturbed_point_is_measured_again(tmp_path, monkeypatch, no_plots):
    children = Children(noise=[1.5, 0.4, 0.0])
    monkeypatch.setattr(growth, "child", children)
    rows = growth.main(config_in(tmp_path))
    assert [value for _, value in children.asked] == [1, 1, 2, 4]
    assert rows[0]["others"] == 0.4


def test_a_point_that_fails_says_why(tmp_path):
    cfg = config_in(tmp_path)
    with pytest.raises(GrowthError, match=r"--axis=bananas .* status 2 .*invalid choice"):
        growth.child(cfg, ["--axis=bananas", "--value=1"])


def test_the_plot_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "child", Children())
    growth.main(config_in(tmp_path))
    for measure in ("time", "memory"):
        path = tmp_path / "results" / "growth" / f"cpu_{measure}.png"
        assert 1000 < path.stat().st_size < 100_000


@pytest.mark.parametrize("axis", list(AXES))
@pytest.mark.slow
def test_every_case_makes_its_step(axis):
    made = case(axis, getattr(TINY, axis), TINY)
    state = made.step(made.step(made.build()))
    arrays = [x for x in jax.tree.leaves(state) if isinstance(x, jax.Array)]
    floats = [x for x in arrays if jnp.issubdtype(x.dtype, jnp.floating)]
    assert all(jnp.isfinite(x).all() for x in floats)


@pytest.mark.slow
def test_two_points_end_to_end(tmp_path):
    cfg = dataclasses.replace(
        config_in(tmp_path), points=Points(batch=(1, 2)), sizes=TINY, steps=2, seconds=0.0, attempts=1
    )  # fmt: skip
    rows = growth.main(cfg)
    assert [row["value"] for row in rows] == [1, 2]
    assert all(row["step_ms"] > 0 and row["steps"] == 2 for row in rows)
    assert (tmp_path / "results" / "growth" / "cpu_time.png").exists()
