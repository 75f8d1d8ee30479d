"""Floor 3: a person's row of folders that hold many people's p and Deltas: `profile/` and `model/` of a run.

Whoever else is in the folder keeps their numbers, value for value; the folder is replaced as a whole.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Tree = Mapping[str, Any]
_FACTS = "facts.json"


def names_in(folder: Path) -> list[str]:
    """Names of the rows of a folder of parameters; [] where it is none."""
    try:
        facts = json.loads((folder / _FACTS).read_text("utf-8"))
    except (OSError, ValueError):
        return []
    there = isinstance(facts, dict) and (folder / "params").is_dir()
    return [str(name) for name in facts.get("tenants", ())] if there else []


def take_row(folder: Path, name: str) -> str:
    """Takes somebody's row out of p, of the encoder's p, and of the bank of Deltas; gives what was taken, in words.

    A folder of nobody else's is removed. Raises CheckpointError where it can't be read or written.
    """
    import numpy as np

    from jaxrec import checkpoint

    facts, params = checkpoint.load_facts(folder), checkpoint.load_params(folder)
    tenants, own = list(facts["tenants"]), list(facts.get("own", ()))
    row, taken = tenants.index(name), []

    def without(array: Any, at: int, axis: int) -> np.ndarray:
        return np.delete(np.asarray(array), at, axis)

    for key in ("p", "p_encoder"):
        if key in params:
            params[key] = without(params[key], row, 0)
            taken.append(key)
    if "p" in params.get("profile", {}):
        table = dict(params["profile"])
        table["p"] = without(table["p"], row, 0)
        params["profile"] = table
        taken.append("p")
    if name in own and "delta" in params:
        at = own.index(name)
        own.remove(name)
        taken.append("Delta")
        if own:
            params["delta"] = _by_rows(params["delta"], lambda x, axis: without(x, at, axis))
            facts["own"] = own
        else:
            params.pop("delta")
            facts.pop("own")
            facts.pop("own_delta", None)
    tenants.remove(name)
    facts["tenants"] = tenants
    if isinstance(facts.get("sources"), list | tuple):
        facts["sources"] = [s for s in facts["sources"] if Path(str(s)).name != name]
    checkpoint.save_params(folder, params, facts)
    return " and ".join(taken) or "the name"


def _by_rows(delta: Tree, change: Any) -> Tree:
    """Changes each leaf of a bank as a checkpoint has it: rows stand behind the layers in `stacks`, first elsewhere."""

    def walk(tree: Any, axis: int) -> Any:
        if isinstance(tree, Mapping):
            return {key: walk(inner, axis) for key, inner in tree.items()}
        return change(tree, axis)

    return {part: walk(tree, 1 if part == "stacks" else 0) for part, tree in delta.items()}
