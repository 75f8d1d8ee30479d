"""The batch stays, the mesh and the microbatches follow what devices there are."""

import json
import logging

import jax
import pytest

from jaxrec import elastic
from jaxrec.mesh import MeshConfig, MeshError


@pytest.mark.parametrize(
    "config, rows, devices, hosts, used",
    [
        (MeshConfig(), 16, 8, 1, 8),
        (MeshConfig(), 16, 3, 1, 2),
        (MeshConfig(), 15, 4, 1, 3),
        (MeshConfig(), 7, 4, 1, 1),
        (MeshConfig(fsdp=4), 16, 7, 1, 4),
        (MeshConfig(data=2, fsdp=-1), 12, 8, 1, 6),
        (MeshConfig(tensor=2), 6, 8, 1, 6),
        (MeshConfig(data=2, tensor=-1), 2, 7, 1, 6),
        (MeshConfig(), 16, 6, 2, 4),
        (MeshConfig(), 16, 12, 3, 0),  # each of three hosts would need a part
        (MeshConfig(data=2, fsdp=-1), 7, 8, 1, 0),
    ],
)
def test_the_largest_number_of_devices_that_deals_a_batch_out(config, rows, devices, hosts, used):
    assert elastic.usable(config, rows, devices, hosts) == used


@pytest.mark.parametrize(
    "rows, parts, accum, share, count",
    [
        (16, 4, 1, 0, 1),
        (16, 2, 1, 4, 2),  # half the devices, as many rows on each at once
        (16, 8, 1, 4, 1),
        (24, 3, 1, 4, 2),
        (24, 2, 1, 5, 3),  # five at once does not divide: four
        (24, 3, 3, 0, 4),  # raised to the next that fits
        (16, 8, 4, 0, 2),  # none larger fits: one row at once
        (7, 7, 2, 0, 1),
    ],
)
def test_microbatches_are_raised_to_the_next_number_that_fits(rows, parts, accum, share, count):
    assert elastic.microbatches(rows, parts, accum, share) == count


def test_a_run_that_goes_on_with_fewer_devices_holds_no_more_rows_at_once(tmp_path, caplog):
    mesh, accum = elastic.arrange(MeshConfig(), 16, 1, tmp_path, jax.devices()[:4])
    assert (mesh.size, accum) == (4, 1) and not caplog.records
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    mesh, accum = elastic.arrange(MeshConfig(), 16, 1, tmp_path, jax.devices()[:3])
    assert (mesh.size, accum) == (2, 2)
    assert "3 devices" in caplog.text and "use 2 of them, 1 stay idle" in caplog.text
    assert "15 rows or 18 rows would use more" in caplog.text
    assert "cut into 2 microbatches instead of 1, 4 rows a device at once" in caplog.text
    mesh, accum = elastic.arrange(MeshConfig(), 16, 1, tmp_path, jax.devices()[:4])
    assert (mesh.size, accum) == (4, 1)
    # Another number of microbatches is a wish, and not a consequence of fewer devices.
    assert elastic.arrange(MeshConfig(), 16, 8, tmp_path, jax.devices()[:1])[1] == 8
    assert json.loads((tmp_path / "layout.json").read_text())["rows_a_device"] == 4


def test_a_layout_that_cannot_be_read_sets_no_limit(tmp_path):
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    (tmp_path / "layout.json").write_text("{")
    assert elastic.arrange(MeshConfig(), 16, 1, tmp_path, jax.devices()[:1])[1] == 1


@pytest.mark.parametrize(
    "config, rows, accum, says",
    [
        (MeshConfig(data=2, fsdp=-1), 7, 1, "can't be dealt out on 4 devices .* 4 rows or 8 rows"),
        (MeshConfig(fsdp=8), 16, 1, "8 does not divide the 4 devices"),
        (MeshConfig(-1, -1), 16, 1, "at most one is -1"),
        (MeshConfig(data=3), 16, 1, "takes 3 devices, but there are 4; set one axis to -1"),
        (MeshConfig(data=4), 6, 1, "6 rows does not divide"),
        (MeshConfig(), 0, 1, "at least 1"),
        (MeshConfig(), 4, 0, "at least 1"),
    ],
)
def test_what_no_number_of_devices_can_do_is_refused(config, rows, accum, says, caplog):
    caplog.set_level(logging.WARNING)
    with pytest.raises(MeshError, match=says):
        elastic.arrange(config, rows, accum, devices=jax.devices()[:4])
    assert not caplog.records
