"""How processes of one job find each other."""

import jax
import pytest

from jaxrec import processes
from jaxrec.processes import HostsConfig, HostsError


def test_one_process_needs_no_coordinator_and_half_a_coordinator_is_an_error(monkeypatch):
    processes.start()
    monkeypatch.setenv("JAXREC_COORDINATOR", "localhost:1")
    with pytest.raises(HostsError, match="JAXREC_PROCESSES"):
        processes.start()
    with pytest.raises(HostsError, match="process 2 of 2"):
        processes.start(HostsConfig(processes=2, process=2))


def test_programs_are_kept_where_nobody_said_otherwise(tmp_path, monkeypatch):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setenv("HOME", str(tmp_path))
    try:
        jax.config.update(names[0], "elsewhere")
        processes.keep_programs()
        assert jax.config.jax_compilation_cache_dir == "elsewhere"
        jax.config.update(names[0], None)
        processes.keep_programs()
        assert jax.config.jax_compilation_cache_dir.startswith(
            f"{tmp_path}/.cache/jaxrec/programs/"
        )
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
