"""jaxrec: personalised language models and recommenders in JAX.

Importing the package costs nothing; import the room that you need (`jaxrec.nn`, `jaxrec.models`, ...).
"""

from pathlib import Path as _Path

__version__ = "0.1.0"

# The scripts (`train`, `eval`) and experiment files (`configs`) lie beside the package in a checkout and inside it in a
# wheel. Under the name `jaxrec.train` they are found in both.
_here = _Path(__file__).parent
if not (_here / "train").is_dir():
    __path__.append(str(_here.parent))

from jaxrec import start as _start  # noqa: E402 (it is found in a checkout's own package in any case)

_start.as_module(__name__)
