"""How processes of one job find each other."""

import socket

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


def refused(monkeypatch, **config) -> str:
    """What `start` says of a configuration that it refuses before it joins anybody."""
    for name in ("COORDINATOR", "PROCESSES", "PROCESS"):
        monkeypatch.delenv(f"JAXREC_{name}", raising=False)
    with pytest.raises(HostsError) as error:
        processes.start(HostsConfig(**config))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":80", "localhost:http", "a:70000"])
def test_a_coordinator_is_a_host_and_a_port(monkeypatch, address):
    said = refused(monkeypatch, coordinator=address, processes=2, process=1)
    assert "is not of the form host:port" in said and repr(address) in said


def test_a_number_in_the_environment_is_a_number(monkeypatch):
    monkeypatch.setenv("JAXREC_COORDINATOR", "localhost:1")
    monkeypatch.setenv("JAXREC_PROCESSES", "two")
    with pytest.raises(HostsError, match="JAXREC_PROCESSES=two: not a number"):
        processes.start()


def test_a_coordinator_that_does_not_answer(monkeypatch):
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    said = refused(monkeypatch, coordinator=f"localhost:{port}", processes=2, process=1, wait=1)
    assert f"no coordinator answers at localhost:{port} within 1 s" in said


def test_a_port_that_another_program_has(monkeypatch):
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        said = refused(monkeypatch, coordinator=f"localhost:{port}", processes=2, process=0)
    assert "name another port" in said
