"""What the training scripts share, on a model of two numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import mesh
from jaxrec.checkpoint import CheckpointError
from jaxrec.data.source import ArraySource
from jaxrec.mesh import MeshConfig
from jaxrec.training import partition, tuning
from jaxrec.training.gradients import Aux
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig


def test_a_rule_that_names_the_only_part_freezes_nothing():
    tree = {"backbone": {"a": 1, "b": 2}}
    assert tuning.parts(tree, "backbone/.*") == (tree, {})
    assert tuning.parts(tree, "backbone/a") == ({"backbone": {"a": 1}}, {"backbone": {"b": 2}})
    with pytest.raises(partition.PartitionError, match="matches no parameter"):
        tuning.parts(tree, "delta")


def test_what_was_left_out_is_printed(capsys):
    class Skipped:
        def lines(self):
            return ["1 malformed"]

    rows = tuning.read_all(("a", "b"), lambda source: ([source + "1"], Skipped()))
    assert rows == ["a1", "b1"]
    assert capsys.readouterr().out == "a: 1 malformed\nb: 1 malformed\n"


def test_a_run_is_trained_and_its_best_parameters_are_found(tmp_path):
    """One weight is fitted to the data; the best is of the form of the last ones, on their devices."""
    devices = mesh.make(MeshConfig())
    loss = lambda params, frozen, extra, batch, totals, key_B: (
        ((params["a"]["w"][None] + frozen["b"] - batch) ** 2).sum() / totals["rows"],
        Aux({}),
    )
    weigh = lambda batch: {"rows": jnp.float32(len(batch))}
    seen = []

    def evaluate(params, _):
        seen.append(float(params["a"]["w"][0]))
        return {"distance": abs(seen[-1] - 2)}

    fitted = tuning.tune(
        (loss, weigh), {"a": {"w": np.zeros(1, np.float32)}},
        ArraySource(np.full((16, 1), 3, np.float32), 8, seed=0),
        opt=OptConfig(lr=0.5, warmup=0, schedule="constant"),
        config=LoopConfig(steps=8, eval_every=1, monitor="distance", progress=False),
        mesh=devices, rows=8, out=tmp_path, frozen={"b": np.float32(1)}, evaluate=evaluate,
    )  # fmt: skip
    best = tuning.best_of(tmp_path, fitted.state.params)
    assert float(best["a"]["w"][0]) == min(seen, key=lambda w: abs(w - 2))
    assert best["a"]["w"].sharding == fitted.state.params["a"]["w"].sharding
    with pytest.raises(CheckpointError, match="see a/v"):
        tuning.best_of(tmp_path, {"a": {"v": jax.numpy.zeros(1)}})
