"""What trains is a rule over parameter paths: `split(params, r"hypernet/.*|profile/.*") -> (trained, frozen)`.

Parameters are nested dicts; a path is its keys joined by "/" ("stack_0/attn/q/kernel"). Anything that is not a dict is
a leaf, quantised weights included, so a rule never cuts through one of them.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jaxrec.config import RunError

_SHOWN = 60  # paths printed by an error


class PartitionError(RunError, ValueError):
    """A rule that trains nothing or everything, or two trees that both claim a path."""


def paths(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every (path, leaf) of nested dicts, in order."""
    for key, value in params.items():
        # Only dicts are walked into: a quantised weight is a pytree as well, and no rule may cut through it.
        if isinstance(value, Mapping):
            yield from paths(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """{path: leaf} -> nested dicts."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def split(params: Mapping[str, Any], rule: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what the rule matches and so trains, what stays frozen), two trees without a common path.

    `rule` is a regular expression that must match a *whole* path. One that matches nothing, or every leaf, raises
    PartitionError with the paths: both are nearly always a slip (train everything by not splitting at all).
    """
    leaves = dict(paths(params))
    matched = {path for path in leaves if re.fullmatch(rule, path)}
    if not matched or len(matched) == len(leaves):
        said = "matches no parameter" if not matched else "matches every parameter"
        raise PartitionError(f"the rule {rule!r} {said}; the paths are:\n{_listing(leaves)}")
    trained = unflatten({path: leaf for path, leaf in leaves.items() if path in matched})
    frozen = unflatten({path: leaf for path, leaf in leaves.items() if path not in matched})
    return trained, frozen


def merge(params: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict[str, Any]:
    """The whole tree again. Raises PartitionError where both hold the same path."""
    merged = dict(frozen)
    for key, value in params.items():
        if key not in merged:
            merged[key] = value
        elif isinstance(value, Mapping) and isinstance(merged[key], Mapping):
            merged[key] = merge(value, merged[key])
        else:
            raise PartitionError(f"both trees hold {key!r}")
    return merged


def _listing(leaves: Mapping[str, Any]) -> str:
    names = sorted(leaves)
    more = [f"  ... and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return "\n".join([f"  {name}" for name in names[:_SHOWN]] + more)
