"""Pairs of shops as CDRIB publishes them (Cao et al., ICDE 2022): folders X_Y and Y_X, `user<TAB>item` from 0.

X_Y/train.txt are events in shop X; X_Y/valid.txt and test.txt are those of people who are cold in X: all they have
there is held out, and only Y knows them. Items are numbered by shop. **Only the first numbers of people mean the same
person in both shops**: those beyond are each shop's own, and are named "X:17" here so that nobody mixes them.
"""

import re
from pathlib import Path

import numpy as np

from jaxrec.data.histories import Interactions
from jaxrec.data.readers.raw import DataError, Events, Problems, RawSet
from jaxrec.data.readers.text_files import beside, lines


def shops_of(folder: Path) -> tuple[str, str] | None:
    """The names of the two shops, in the order of the alphabet, where `folder` is a pair."""
    for there in sorted(folder.iterdir()) if folder.is_dir() else []:
        parts = there.name.split("_")
        if there.is_dir() and len(parts) == 2:
            other = folder / f"{parts[1]}_{parts[0]}"
            if other.is_dir() and beside(there, "train.txt") and beside(other, "train.txt"):
                return parts[0], parts[1]
    return None


def read_cdrib(folder: Path, problems: Problems, shared: int | None = None) -> RawSet:
    """Both shops over one user base: "x/3" is item 3 of shop x, "17" a person of both, "x:17" one of x alone.

    shared: how many people are the same in both. By default what the folder's own counts say ("common user num"), the
    smallest that is beyond every cold person, as these are always shared; else the last cold person's number plus 1.
    """
    names = shops_of(folder)
    if names is None:
        raise DataError(
            f"{folder}: not a pair of CDRIB: it needs folders X_Y and Y_X with train.txt"
        )
    parts: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for shop, other in (names, names[::-1]):
        for part in ("train", "valid", "test"):
            path = beside(folder / f"{shop}_{other}", f"{part}.txt")
            if path is None:
                raise DataError(f"{folder}/{shop}_{other}: no {part}.txt")
            parts[shop, part] = _pairs(path, problems)
    count = shared if shared is not None else _shared(folder, names, parts)
    events = {part: Events() for part in ("train", "valid", "test")}
    for shop in names:
        cold = {user for part in ("valid", "test") for user, _ in parts[shop, part]}
        if cold & {user for user, _ in parts[shop, "train"]}:
            raise DataError(f"{folder}: people who are cold in {shop} have events in its train.txt")
        for part, into in events.items():
            pairs = parts[shop, part]
            into.extend(
                [str(user) if user < count else f"{shop}:{user}" for user, _ in pairs],
                [f"{shop}/{item}" for _, item in pairs],
            )
    train = events["train"]
    for part in ("valid", "test"):  # people and items that occur only there are numbered as well
        for name in events[part].users:
            train.users.setdefault(name, len(train.users))
        for name in events[part].items:
            train.items.setdefault(name, len(train.items))
    held_out = {part: _renumbered(events[part].interactions(), train) for part in ("valid", "test")}
    shop = {name: name.partition("/")[0] for name in train.items}
    return RawSet("cdrib", train.interactions(), shop=shop, held_out=held_out)


def _pairs(path: Path, problems: Problems) -> list[tuple[int, int]]:
    found = []
    for at, line in lines(path, problems):
        row = line.split()
        if len(row) >= 2 and row[0].isdigit() and row[1].isdigit():
            found.append((int(row[0]), int(row[1])))
        elif row:
            problems.note(path, at, "not `user<TAB>item`", line)
    return found


def _shared(folder: Path, names: tuple[str, str], parts: dict) -> int:
    cold = [user for shop in names for part in ("valid", "test") for user, _ in parts[shop, part]]
    least = max(cold, default=-1) + 1
    told = [
        int(number)
        for path in folder.glob("*_*/*data_info.txt")
        for number in re.findall(r"common user num\D*(\d+)", path.read_text())
    ]
    return min((number for number in told if number >= least), default=least)


def _renumbered(held: Interactions, train: Events) -> Interactions:
    user = np.array([train.users[name] for name in held.users], np.int64)
    item = np.array([train.items[name] for name in held.items], np.int64)
    empty = np.zeros(0, np.int64)
    return Interactions(
        user_T=user[held.user_T] if len(held) else empty,
        item_T=item[held.item_T] if len(held) else empty,
        users=tuple(train.users),
        items=tuple(train.items),
    )
