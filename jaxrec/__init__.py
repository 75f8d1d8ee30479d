"""jaxrec: personalised language models and recommenders in JAX.

    jaxrec.tune, jaxrec.evaluate              a language model on chats of one's own, and how well it answers
    jaxrec.Assistant                          tenants: onboard from guide and examples, answer in their voice
    jaxrec.recommender                        a shop: events and titles to ten items with reasons
    jaxrec.read_tenants, jaxrec.Tenant        tenants from folders and files

`help(jaxrec.tune)` explains each argument. Importing the package costs nothing: a name brings in what it needs when it
is first used. All else is in rooms: `jaxrec.nn`, `jaxrec.models`, ... (ARCHITECTURE.md).
"""

import os as _os
import sys as _sys

__version__ = "0.1.0"

# The scripts (`train`, `eval`) and experiment files (`configs`) lie beside the package in a checkout and inside it in a
# wheel. Under the name `jaxrec.train` they are found in both.
_here = _os.path.dirname(_os.path.abspath(__file__))
if not _os.path.isdir(_os.path.join(_here, "train")):
    __path__.append(_os.path.dirname(_here))

# So it reads while Python looks for the module of `python -m jaxrec.x`.
if getattr(_sys, "argv", [])[:1] == ["-m"]:
    from jaxrec import start as _start

    _start.as_module(__name__)

# Name -> where it lies, and what it is called there. __init__.pyi says the same to editors and type checkers.
_NAMES = {
    "Assistant": ("jaxrec.assistant", "Assistant"),
    "Tenant": ("jaxrec.data.tenant", "Tenant"),
    "evaluate": ("jaxrec.verbs", "evaluate"),
    "read_tenants": ("jaxrec.data.tenants", "read_tenants"),
    "recommender": ("jaxrec.recommenders.flow", "open_shop"),
    "tune": ("jaxrec.verbs", "tune"),
}


def __getattr__(name: str) -> object:
    """Imports a name of the surface when it is first used (PEP 562)."""
    if name not in _NAMES:
        raise AttributeError(
            f"module 'jaxrec' has no attribute {name!r}; it has {', '.join(_NAMES)}"
        )
    from importlib import import_module

    module, own = _NAMES[name]
    globals()[name] = found = getattr(import_module(module), own)
    return found


def __dir__() -> list[str]:
    return [*_NAMES, "__version__"]
