"""jaxrec: personalised language models and recommenders in JAX.

Importing the package costs nothing; import the room that you need (`jaxrec.nn`, `jaxrec.models`, ...).
"""

from pathlib import Path as _Path

__version__ = "0.1.0"

# The scripts (`train`, `eval`) and experiment files (`configs`) lie beside the package in a checkout and inside it in a
# wheel. Under the name `jaxrec.train` they are found in both.
_beside = _Path(__file__).parent.parent
if (_beside / "train" / "sft.py").is_file():
    __path__.append(str(_beside))
