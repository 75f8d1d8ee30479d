"""This process as a driver of a Ray cluster: what an address means, whether anything answers there, what Ray is told.

Ray's usage report and its dashboard are off. A cluster of this machine's own ("local:2") listens on loopback, with a
token that only its processes know, keeps at most `STORE` bytes of results in shared memory, and is gone when the job
ends.
"""

import contextlib
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxrec.cluster.job import ClusterError

_log = logging.getLogger(__name__)
ANSWERS = 10.0  # seconds in which something that speaks gRPC must answer at an address
STORE = 512 * 2**20
STARTS = 3  # of a cluster of this machine's own, where Ray's 30 seconds for it do not suffice
_FORMS = '"auto", "host:port", "ray://host:port" or "local:N"'
# Told to every process that Ray starts from here.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}
_OTHER_MACHINES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # named so, and heard on every system
_HUSHED = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}


@dataclass(frozen=True)
class Address:
    """Where a cluster is: `local` workers of this machine, or what Ray is given; host and port where they are known."""

    ray: str
    local: int = 0
    host: str = ""
    port: int = 0


class Terms(NamedTuple):
    """How a job is worked on; as of `cluster.map_shards`."""

    address: Address
    threads: int = 0
    accelerator: bool = False
    in_flight: int = 0
    attempts: int = 3
    patience: float = 300.0


def parse(address: str) -> Address:
    """What an address means. Raises ClusterError for one of no known form."""
    if local := re.fullmatch(r"local:(\d+)", address):
        if not int(local[1]):
            raise ClusterError("local:0 has no workers; without an address the job runs here")
        return Address("local", int(local[1]))
    if address == "auto":
        return Address("auto")
    if found := re.fullmatch(r"(ray://)?([\w.-]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", address):
        return Address(address, host=found[2].strip("[]"), port=int(found[3]))
    raise ClusterError(f"{address!r} is no address of a cluster: it is {_FORMS}")


@contextlib.contextmanager
def connected(terms: Terms) -> Iterator[Any]:
    """The module `ray`, this process being a driver of the cluster. A connection that was there is used, and left."""
    where = terms.address
    if where.ray == "auto" and (named := os.environ.get("RAY_ADDRESS")):
        where = parse(named)
    if where.host:
        _knock(where.ray, where.host, where.port)
    added, options, folder = dict(_QUIET), dict(_HUSHED), ""
    if where.local:
        # Ray takes loopback for its own only where it expects no other machines, as it does on a desktop.
        added |= {_OTHER_MACHINES: "0", "RAY_AUTH_MODE": "token"}
        added |= {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
        folder = tempfile.mkdtemp(prefix="jaxrec-ray-")
        options |= {"num_cpus": where.local * threads_of(terms), "_temp_dir": folder}
        options |= {"include_dashboard": False, "object_store_memory": STORE}
    handler = signal.getsignal(signal.SIGTERM)  # Ray puts its own there
    try:
        with _environment(added):
            ray = _load_ray()
            ours = not ray.is_initialized()
            if where.local and not ours:
                raise ClusterError(f"local:{where.local}: this process is in a Ray cluster already")
            try:
                if ours:
                    _knock_again(where)
                    _begin(ray, where, options)
                yield ray
            finally:
                if ours:
                    ray.shutdown()
    finally:
        with contextlib.suppress(ValueError):  # not the main thread, which alone has handlers
            signal.signal(signal.SIGTERM, handler)
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _environment(added: dict[str, str]) -> Iterator[None]:
    """Variables of this process, and so of those that Ray starts from it, for a while."""
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _load_ray() -> Any:
    """The module `ray`, brought to what the environment says now: it looks but once a process, and jobs may differ."""
    try:
        import ray
        from ray._private import ray_constants
        from ray._raylet import AuthenticationTokenLoader, Config
    except ImportError:
        raise ClusterError(
            "a cluster needs Ray: pip install 'jaxrec[cluster]' (without an address the job runs here)"
        ) from None
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    ray_constants.ENABLE_RAY_CLUSTER = os.environ.get(_OTHER_MACHINES, "1") != "0"
    return ray


def _begin(ray: Any, where: Address, options: dict[str, Any]) -> None:
    if where.ray.startswith("ray://"):
        options = {}
    try:
        for left in reversed(range(STARTS)):
            try:
                ray.init(where.ray, **options)
                return
            except Exception as error:
                if not (where.local and left and "timed out during startup" in str(error)):
                    raise
                _log.warning("Ray did not begin within its 30 seconds on this busy machine: again")
                ray.shutdown()
    except (Exception, SystemExit) as error:  # Ray ends the process where a head does not know it
        if where.ray == "auto":
            raise ClusterError(
                "auto: this machine is part of no running Ray cluster (`ray start`), and RAY_ADDRESS names none"
            ) from error
        raise ClusterError(f"cluster {where.ray}: {first_line(error)}") from error


def _knock_again(where: Address) -> None:
    """Knocks where Ray itself will: at this machine's head for "auto", at the network's address for a loopback one."""
    from ray._private import services

    if where.ray == "auto":
        try:
            found = services.canonicalize_bootstrap_address("auto") or ""
        except (ConnectionError, ValueError):  # Ray says it better
            return
        host, _, port = found.rpartition(":")
        if host:
            _knock(f"{found}, which runs on this machine,", host, int(port))
    elif where.host and not where.ray.startswith("ray://"):
        host = services.resolve_ip_for_localhost(where.host)
        if host != where.host:
            _knock(f"{host}:{where.port}, for which {where.host} stands", host, where.port)


def _knock(called: str, host: str, port: int) -> None:
    """Raises ClusterError where nothing at an address speaks gRPC; Ray itself would try for minutes, or for ever.

    An HTTP/2 server sends its settings first (RFC 9113, 3.4): a frame of type 4 on stream 0.
    """
    said = f"no Ray cluster answers at {called} within {ANSWERS:g} seconds"
    try:
        with socket.create_connection((host, port), ANSWERS) as line:
            line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
            frame = line.recv(9)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ClusterError(f"{said} ({why})") from None
    if len(frame) < 9 or frame[3] != 4:
        raise ClusterError(f"{said} (something else listens there)")


def threads_of(terms: Terms) -> int:
    """Cores of a worker: what was asked for, else one, or its share of this machine where the workers are its own."""
    if terms.threads or not terms.address.local:
        return terms.threads or 1
    return max(1, len(os.sched_getaffinity(0)) // terms.address.local)


def first_line(error: BaseException) -> str:
    """What an error of Ray's says, without the paragraphs behind it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if ":" not in line[:22] or "cause" in line.lower()]
    words = (told or lines or [type(error).__name__])[0]
    return words[:200].rstrip(".")
