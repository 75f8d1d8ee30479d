"""A test's name is the same in every process: workers that disagree about the names run nothing at all.

Two workers of one run compare their names anyway; what is here says why they would differ, and collects all files anew.
"""

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_another_second_and_another_hash_seed_collect_the_same_tests(request):
    """No name may come from bytes that hold the time, from the order of a set or from an address.

    The files of this run are collected once more, later and under another hash seed.
    """
    names = [item.nodeid for item in request.session.items]
    files = list(dict.fromkeys(name.split("::")[0] for name in names))
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    plain = ("-o", "addopts=", "-p", "no:xdist", "-p", "no:cacheprovider")
    again = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *plain, *files],
        cwd=request.config.rootpath,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        | {"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stdout[-2000:]
    wanted = set(names)
    assert [line for line in again.stdout.splitlines() if line in wanted] == names
