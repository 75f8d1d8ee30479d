"""Floor 3: which goal of a service a turn means: each is scored by its words, the turn's, and the goal before."""

import re
from itertools import pairwise

from jaxrec.data.schema_dialogues import NO_GOAL, Goal, Schema
from jaxrec.dialogue.tracking.candidates import Heard

_DULL = set("a an the of for to in on at by and or with any some user is their your it".split())


def goal_rows(schema: Schema, heard: Heard, before: str) -> list[tuple[str, list[str]]]:
    """(goal, features) of each goal of a service and of none.

    before: the goal after the last turn, "" at the first.
    """
    words = [token.word for token in heard.tokens]
    said = [*words[:24], *(f"{a} {b}" for a, b in pairwise(words[:21]))]
    system = re.findall(r"\w+", re.split(r"(?<=[.!])\s+", heard.system.lower())[-1])[:16]
    stems = {word[:5] for word in words}
    offered = {word[:5] for word in system}
    was = next((goal for goal in schema.goals if goal.name == before), None)
    own = [(goal.name, goal, _stems(goal)) for goal in schema.goals]
    overlap = {name: len(stems & kept) for name, _, kept in own}
    best = max(overlap.values(), default=0)
    rows = []
    for name, goal, kept in own:
        form = _form(goal, was, before)
        hits = min(overlap[name], 3)
        unlike = overlap[name] - max(
            (n for other, n in overlap.items() if other != name), default=0
        )
        told = [form, f"{form}|hits{hits}", f"{form}|lead{max(min(unlike, 2), -2)}"]
        told += [
            f"{form}|best{overlap[name] == best}",
            f"{form}|offer{min(len(offered & kept), 3)}",
        ]
        told += [f"{form}|{w}" for w in said] + [f"{form}|s|{w}" for w in system]
        rows.append((name, told + [f"g|{a}|{w}" for a in _name(goal) for w in words[:20]]))
    form = f"none{before == NO_GOAL}{before == ''}"
    rows.append(
        (
            NO_GOAL,
            [
                form,
                f"{form}|{best}",
                *(f"{form}|{w}" for w in said),
                *(f"{form}|s|{w}" for w in system),
            ],
        )
    )
    return rows


# ------------------------------------------------------------------------------------------ inside


def _form(goal: Goal, was: Goal | None, before: str) -> str:
    """How a goal stands to the one before: the same, or another of this kind after that kind."""
    if goal.name == before:
        return f"same{goal.does}"
    return f"to{goal.does}from{was.does if was else before or 'start'}"


def _name(goal: Goal) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z][a-z]+|[a-z]+", goal.name)]


def _stems(goal: Goal) -> set[str]:
    text = f"{' '.join(_name(goal))} {goal.about.lower()}"
    return {word[:5] for word in re.findall(r"\w+", text) if word not in _DULL}
