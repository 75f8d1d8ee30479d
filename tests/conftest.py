"""What all tests run under: eight fake CPU devices, strict broadcasting, and compiled programs kept between runs.

Set in the environment rather than through `jax.config`, so that processes started by a test inherit it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

os.environ["JAX_PLATFORMS"] = "cpu"
# Nearly all of a test's time is compilation, and what is compiled runs for milliseconds: LLVM need not try hard.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
).strip()
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".cache" / "jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
os.environ["OMP_NUM_THREADS"] = (
    "1"  # torch's threads wait by spinning, which a busy machine pays for dearly
)
os.environ["MPLBACKEND"] = "Agg"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["JAXREC_NO_REEXEC"] = "1"  # a run that a test starts begins once; see jaxrec.start
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that reaches for the network is a mistake


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes name no test: what is compressed or hashed may hold the time of day, and workers then disagree.

    Pytest numbers the equal names itself.
    """
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of public data sets; tests that read them are skipped where it is not there."""
    folder = os.environ.get("JAXREC_DATA")
    if not folder:
        pytest.skip("JAXREC_DATA is not set (the folder of the public data sets)")
    if not Path(folder).is_dir():
        pytest.fail(f"JAXREC_DATA={folder} is not a folder")
    return Path(folder)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs() -> Iterator[None]:
    """Loaded programs of one test file are of no use to the next and hold memory maps, which run out."""
    yield
    import jax

    jax.clear_caches()
