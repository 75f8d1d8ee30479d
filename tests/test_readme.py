"""README's snippets are short, and run as they stand."""

import os
import subprocess
import sys

import pytest
import tiny_readme

SNIPPETS = tiny_readme.snippets()


def test_they_are_short():
    assert list(SNIPPETS) == ["tune", "tenants", "shop"]
    for name, code in SNIPPETS.items():
        assert 0 < len(code.splitlines()) <= 8, name


@pytest.mark.parametrize("name", SNIPPETS)
def test_they_run(name: str, tmp_path):
    """In a process of their own, on one device, as whoever copies them runs them."""
    tiny_readme.make_world(name, tmp_path)
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(tiny_readme.ROOT)}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-c", SNIPPETS[name]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for word in {"tune": ("rouge1", "nats"), "tenants": (), "shop": (" - ",)}[name]:
        assert word in done.stdout, done.stdout
