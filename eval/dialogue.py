"""What users want of services, read turn by turn (SGD), and what a long conversation keeps in the prompt.

    python -m eval.dialogue configs/dialogue/sgd.py

Rows, over the dialogues of the held-out services and of those that training knew: the goal before is kept (the set's
own one), values found by matching strings, and the learned tracker, which goes on from its own reading and sees
nothing but texts. `goal`: turns and services whose goal is right; `joint`: those with every slot value right and no
other (small letters, without articles and signs; any wording that the set lists). Intervals: 95%, bootstrap over
dialogues. Which services a turn is about is told, as in the set's own measure. Writes results/dialogue/NAME.json.
"""

import dataclasses
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxrec import config
from jaxrec.config import RunError
from jaxrec.data.folder import dataset
from jaxrec.data.schema_dialogues import (
    Frame,
    Schema,
    SchemaDialogue,
    read_schema_dialogues,
    read_schemas,
)
from jaxrec.detection import group_weights
from jaxrec.dialogue.tracking.candidates import KnownValues, plain
from jaxrec.dialogue.tracking.tracker import Tracker, TrackerConfig, Wanted
from jaxrec.results import print_table, write_results
from jaxrec.usage import own_seconds

Read = list[list[list[Wanted]]]  # of each dialogue, of each user turn, of each service
KEPT, MATCHED, LEARNED = "the goal before is kept", "strings that match", "learned"
# The set's own values of the turn before are no reading, and strings tell no goal.
UNTOLD = {KEPT: ("joint",), MATCHED: ("goal",)}


@dataclasses.dataclass(frozen=True)
class DialogueConfig:
    """Which dialogues, and how much of them."""

    data: str = "sgd"  # a folder under JAXREC_DATA
    train_every: int = (
        8  # of this many training dialogues one is learned from; the others give known values
    )
    dev_every: int = 1  # of this many one is measured
    tracker: TrackerConfig = TrackerConfig()
    seeds: tuple[int, ...] = (0, 1, 2)  # orders of the rows in the linear models' training
    draws: int = 1000  # of the bootstrap
    name: str = "sgd"
    out: str = "results/dialogue"


def main(cfg: DialogueConfig) -> list[dict[str, Any]]:
    """Fits, follows, prints the table, writes the record; gives its rows. Raises RunError without data or seeds."""
    if not cfg.seeds or min(cfg.train_every, cfg.dev_every) < 1:
        raise RunError("one seed at least, and train_every and dev_every from 1 on")
    begun, cpu = time.monotonic(), own_seconds()
    folder = dataset(cfg.data)
    whole = list(read_schema_dialogues(folder / "train.jsonl.gz"))
    train, others = parted(whole, cfg.train_every)
    seen, schemas = (read_schemas(folder / f"{part}_schema.json.gz") for part in ("train", "dev"))
    dev = list(read_schema_dialogues(folder / "dev.jsonl.gz", cfg.dev_every))
    print(f"{len(train):,} dialogues to learn from, {len(dev):,} to measure on", flush=True)
    known = KnownValues.of(others)
    ways: dict[str, list[Read]] = {
        KEPT: [kept(dev)],
        MATCHED: [matched(dev, schemas, values_by_slot(others))],
        LEARNED: [],
    }
    for seed in cfg.seeds:
        tracker = Tracker.fit(train, seen, known, dataclasses.replace(cfg.tracker, seed=seed))
        ways[LEARNED].append(tracker.follow(dev, schemas))
        print(f"seed {seed}: {own_seconds() - cpu:.0f} CPU seconds so far", flush=True)
    rows = []
    for services, chosen in {
        "all": lambda name: True,
        "known in training": lambda name: name in seen,
        "unseen": lambda name: name not in seen,
    }.items():
        for way, reads in ways.items():
            told = measured(dev, reads, chosen, cfg.draws)
            for name in UNTOLD.get(way, ()):
                told |= {name: None, f"{name}_lo": None, f"{name}_hi": None}
            rows.append({"row": way, "services": services, **told})
    by_service = []
    for name in sorted({frame.service for frame in frames_of(dev)}):
        own = measured(dev, ways[LEARNED], lambda one, name=name: one == name, draws=0)
        by_service.append({"service": name, "known": name in seen, **own})
    print_table(rows)
    print_table(by_service)
    path = write_results(
        cfg.out, "dialogue", rows, config=cfg, seed=cfg.seeds[0], wall_s=time.monotonic() - begun,
        filename=f"{cfg.name}.json", services=by_service, cpu_s=round(own_seconds() - cpu),
        learned_from=len(train), measured_on=len(dev),
    )  # fmt: skip
    print(f"written to {path}")
    return rows


def parted(
    dialogues: Sequence[SchemaDialogue], every: int
) -> tuple[list[SchemaDialogue], list[SchemaDialogue]]:
    """(what is learned from, the others). With every=1 the second half only gives known values."""
    if every == 1:
        half = len(dialogues) // 2
        return list(dialogues[:half]), list(dialogues[half:])
    own = list(dialogues[::every])
    return own, [one for i, one in enumerate(dialogues) if i % every]


def frames_of(dialogues: Iterable[SchemaDialogue]) -> list[Frame]:
    """Every service of every user turn."""
    return [frame for one in dialogues for turn in one.turns for frame in turn.frames]


def kept(dialogues: Sequence[SchemaDialogue]) -> Read:
    """The goal that the set says of the turn before, and its slot values."""
    found = []
    for one in dialogues:
        before: dict[str, Wanted] = {}
        own = []
        for turn in one.turns:
            if turn.is_user:
                nothing = lambda name: Wanted(name, "NONE", {}, 1.0)
                own.append([before.get(f.service, nothing(f.service)) for f in turn.frames])
                before |= {
                    f.service: Wanted(
                        f.service, f.goal, {k: v[0] for k, v in f.values.items()}, 1.0
                    )
                    for f in turn.frames
                }
        found.append(own)
    return found


def values_by_slot(dialogues: Iterable[SchemaDialogue]) -> dict[str, list[str]]:
    """The values that slots of a name have had, the longest first."""
    found: dict[str, set[str]] = defaultdict(set)
    for frame in frames_of(dialogues):
        for slot, values in frame.values.items():
            found[slot] |= {plain(value) for value in values}
    return {slot: sorted(values, key=len, reverse=True) for slot, values in found.items()}


def matched(
    dialogues: Sequence[SchemaDialogue],
    schemas: Mapping[str, Schema],
    values: Mapping[str, list[str]],
) -> Read:
    """Values that stand in the user's words: of the schema's lists, or known of slots of that name. They stay."""
    patterns = {
        slot: re.compile(rf"\b(?:{'|'.join(map(re.escape, own))})\b")
        for slot, own in values.items()
        if own
    }
    found = []
    for one in dialogues:
        state: dict[str, dict[str, str]] = defaultdict(dict)
        own = []
        for turn in one.turns:
            if not turn.is_user:
                continue
            said = plain(turn.text)
            for frame in turn.frames:
                for slot in schemas[frame.service].slots:
                    if slot.is_choice:
                        hits = [v for v in slot.values if f" {plain(v)} " in f" {said} "]
                    else:
                        hit = patterns[slot.name].search(said) if slot.name in patterns else None
                        hits = [hit[0]] if hit else []
                    if hits:
                        state[frame.service][slot.name] = hits[0]
            own.append([Wanted(f.service, "", dict(state[f.service]), 1.0) for f in turn.frames])
        found.append(own)
    return found


def is_joint(frame: Frame, wanted: Wanted) -> bool:
    """Whether exactly the slots of a frame have values, and right ones."""
    return frame.values.keys() == wanted.values.keys() and all(
        plain(value) in {plain(one) for one in frame.values[slot]}
        for slot, value in wanted.values.items()
    )


def measured(
    dialogues: Sequence[SchemaDialogue],
    reads: Sequence[Read],
    chosen: Callable[[str], bool],
    draws: int,
) -> dict[str, Any]:
    """Shares of goals and joint values, means over several readings, with intervals over dialogues.

    dialogues: what was read. reads: a reading a seed. chosen: which services count. draws: of the bootstrap, 0: none.
    """
    group, goal, joint = [], [], []
    for d, dialogue in enumerate(dialogues):
        turns = [turn for turn in dialogue.turns if turn.is_user]
        for t, turn in enumerate(turns):
            for f, frame in enumerate(turn.frames):
                if not chosen(frame.service):
                    continue
                said = [read[d][t][f] for read in reads]
                group.append(d)
                goal.append(np.mean([one.goal == frame.goal for one in said]))
                joint.append(np.mean([is_joint(frame, one) for one in said]))
    told: dict[str, Any] = {"n": len(group), "dialogues": len(set(group)), "seeds": len(reads)}
    weight_SB = group_weights(np.array(group), draws)[1] if draws else None
    for name, right in (("goal", np.array(goal)), ("joint", np.array(joint))):
        told[name] = float(right.mean()) if len(right) else None
        if weight_SB is not None and len(right):
            drawn_S = (weight_SB * right).sum(1) / weight_SB.sum(1)
            told[f"{name}_lo"], told[f"{name}_hi"] = np.quantile(drawn_S, [0.025, 0.975]).tolist()
    return told


if __name__ == "__main__":
    config.run(main, DialogueConfig, __doc__)
