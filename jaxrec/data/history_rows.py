"""Floor 1: histories packed by real length into rows of one width, several people a row.

    row   a a a a b b b c c c c c .      items, targets (each the item that came next), positions
          1 1 1 1 2 2 2 3 3 3 3 3 0      segments: who is whose, 0 is padding

Lengths are matched so that next to nothing is padding (best fit, longest first), and people of one length are shuffled,
so who shares a row with whom says nothing. A history longer than `max_length` keeps its newest events, or, by
option, is cut into windows that are rows of their own to the model.
"""

from typing import Any, Literal

import flax.struct as struct
import numpy as np
from jaxtyping import Int

from jaxrec.data.histories import Histories, ranges
from jaxrec.files import content_hash

Count = Literal["end", "start"]
_COUNTED = 1 << 22  # events that are in memory at once where all of a store's are counted


@struct.dataclass
class HistoryRows:
    """Packed histories; every leaf is [B, L]. Item, target -1 and segment 0: nothing.

    `who`: the number of the history, in the order of the `Histories`. `negatives` [B, L, J]: items that it lacks.
    `times`: Unix seconds of the items, as 32 bits: a difference of two is right whatever the year.
    """

    items_BL: Any
    targets_BL: Any
    segments_BL: Any
    positions_BL: Any
    who_BL: Any
    times_BL: Any = None
    negatives_BLJ: Any = None


def pack(
    histories: Histories,
    width: int,
    max_length: int,
    *,
    windows: bool = False,
    count: Count = "end",
    seed: int = 0,
) -> HistoryRows:
    """Rows to learn from: each item of a history but the last, and the one after it. Numpy, all of them at once.

    A history gives its newest `max_length` pairs, or all of them in windows of `max_length`. Positions run to
    `max_length` - 1 at the newest item (count "end") or from 0 at the oldest one kept ("start").
    histories: of all people. width: positions a row holds. seed: of the order in which people are packed.
    Raises ValueError where nobody has two events, and where the width is less than `max_length`.
    """
    whole = PackedHistories(histories, width, max_length, windows=windows, count=count, seed=seed)
    return whole[np.arange(len(whole))]


class PackedHistories:
    """The rows of `pack`, each made when it is asked for: `rows[index]`. What lies in memory is where each part is.

    histories: of all people; their events may lie in a store. width, max_length, windows, count, seed: as of `pack`.
    """

    def __init__(
        self,
        histories: Histories,
        width: int,
        max_length: int,
        *,
        windows: bool = False,
        count: Count = "end",
        seed: int = 0,
    ):
        self.histories, self.width, self.max_length = histories, width, max_length
        self.windows, self.count, self.seed = windows, count, seed
        row_W, begin_W, length_W = _parts(histories, max_length, windows)
        place_W = _lay(length_W, width, max_length, seed)
        order = np.argsort(place_W)
        self._row_W, self._begin_W, self._length_W, self._place_W = (
            x[order] for x in (row_W, begin_W, length_W, place_W)
        )
        self._upto = np.searchsorted(
            self._place_W, width * np.arange(self._place_W[-1] // width + 2)
        )

    def __len__(self) -> int:
        return len(self._upto) - 1

    def __getitem__(self, index: Int[np.ndarray, " B"]) -> HistoryRows:
        count_B = self._upto[index + 1] - self._upto[index]
        parts = ranges(self._upto[index], count_B)
        place_W = self._place_W[parts] % self.width
        place_W += np.repeat(np.arange(len(index)), count_B) * self.width
        row_W, begin_W, length_W = (x[parts] for x in (self._row_W, self._begin_W, self._length_W))
        rows = _fill(
            self.histories, row_W, begin_W, length_W, place_W, self.width, self.max_length,
            self.count, len(index),
        )  # fmt: skip
        targets = np.full(rows.items_BL.size, -1, np.int32)
        targets[ranges(place_W, length_W)] = self.histories.item_T[ranges(begin_W + 1, length_W)]
        return rows.replace(targets_BL=targets.reshape(-1, self.width))

    @property
    def identity(self) -> np.ndarray:
        """What tells these rows from others, as an array: lengths, how they are packed, and a part of the events."""
        told = f"{self.width} {self.max_length} {self.windows} {self.count} {self.seed}"
        events = len(self.histories.item_T)
        some = self.histories.item_T[np.linspace(0, events - 1, min(events, 4096)).astype(np.int64)]
        found = content_hash(told, self.histories.start_B, some)
        return np.frombuffer(found.encode(), np.uint8)


def _parts(
    histories: Histories, max_length: int, windows: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(whose each part is, where it begins, how many pairs it has)."""
    pairs_B = np.maximum(histories.length_B - 1, 0)
    first_B = histories.start_B[:-1]
    if windows:
        parts_B = -(-pairs_B // max_length)
        row_W = np.repeat(np.arange(len(histories)), parts_B)
        back_W = np.arange(len(row_W)) - np.repeat(np.cumsum(parts_B) - parts_B, parts_B)
        stop_W = pairs_B[row_W] - back_W * max_length  # the newest window is the full one
        length_W = np.minimum(stop_W, max_length)
    else:
        row_W = np.flatnonzero(pairs_B)
        stop_W = pairs_B[row_W]
        length_W = np.minimum(stop_W, max_length)
    if not len(row_W):
        raise ValueError("nobody has two events: there is nothing to learn from")
    return row_W, first_B[row_W] + stop_W - length_W, length_W


def pack_whole(
    histories: Histories, width: int, max_length: int, *, count: Count = "end"
) -> tuple[HistoryRows, Int[np.ndarray, " B"]]:
    """Rows to ask: the newest `max_length` items of each history, and where the newest one lies.

    That place is row x width + slot; -1 for an empty history.

    histories: of all people. width: positions a row holds. count: as of `pack`.
    """
    row_W = np.flatnonzero(histories.length_B)
    length_W = np.minimum(histories.length_B[row_W], max_length)
    begin_W = histories.start_B[1:][row_W] - length_W
    place = _lay(length_W, width, max_length, 0)
    last_B = np.full(len(histories), -1, np.int64)
    last_B[row_W] = place + length_W - 1
    count_B = int(place.max(initial=-1)) // width + 1
    rows = _fill(histories, row_W, begin_W, length_W, place, width, max_length, count, count_B)
    return rows, last_B


def best_fit(length_W: Int[np.ndarray, " W"], width: int, seed: int = 0) -> Int[np.ndarray, " W"]:
    """Where each of the parts begins, row x width + slot: the longest first, then whatever fills the row best.

    Parts of one length are taken in random order. Raises ValueError for a part longer than the width.
    """
    if len(length_W) and length_W.max() > width:
        raise ValueError(f"a part of {length_W.max()} does not fit into rows of {width}")
    order = np.random.default_rng(seed).permutation(len(length_W))
    order = order[np.argsort(length_W[order], kind="stable")]
    left = np.bincount(length_W, minlength=width + 1).tolist()
    stop = np.cumsum(left).tolist()  # parts of length n: order[stop[n] - left[n] : stop[n]]
    place = np.empty(len(length_W), np.int64)
    top, row, todo = width, 0, len(length_W)
    while todo:
        while not left[top]:
            top -= 1
        free, size = width, top
        while size:
            left[size] -= 1
            place[order[stop[size] - left[size] - 1]] = row * width + width - free
            free, todo = free - size, todo - 1
            size = min(free, size)
            while size and not left[size]:
                size -= 1
        row += 1
    return place


class Negatives:
    """Wraps a source of `HistoryRows`: adds, for each position, `count` items that its history lacks.

    Uniform over those items, exactly: the r-th item that a history lacks is found by a search, nothing is drawn twice.
    What is drawn is a function of the source's state, so a resumed run draws the same. A history of all items
    gets any item.

    source: gives rows of packed histories. histories: of all people. share: the rows of this process.
    """

    def __init__(
        self, source: Any, histories: Histories, count: int = 1, share: slice | None = None
    ):
        self.source, self.count, self.share = source, count, share
        self.histories, self.n_items = histories, histories.n_items

    def init(self) -> Any:
        """The inner source's first state."""
        return self.source.init()

    def __call__(self, step: int, params: Any, state: Any) -> tuple[HistoryRows, Any]:
        """The inner source's batch with `negatives_BLJ`, and its state."""
        rows, after = self.source(step, params, state)
        people, who = np.unique(np.maximum(rows.who_BL, 0), return_inverse=True)
        who_BLJ = who.reshape(rows.who_BL.shape)[..., None]
        own = self.histories.take(people)
        taken = np.unique(own.row_T.astype(np.int64) * self.n_items + np.asarray(own.item_T))
        row, item = taken // self.n_items, taken % self.n_items
        size_B = np.bincount(row, minlength=len(people))
        first_B = np.cumsum(size_B) - size_B
        lacking_B = np.maximum(self.n_items - size_B, 1)
        # For the k-th taken item: how many lacking ones lie below it. Ascends within a history.
        below = row * (self.n_items + 1) + item - (np.arange(len(item)) - first_B[row])
        chance = _dice(state, self.share).random((*rows.who_BL.shape, self.count))
        nth = (chance * lacking_B[who_BLJ]).astype(np.int64)
        # `below` ascends over all histories as one array, so that one search answers for every draw of the batch
        # how many taken items lie below the nth one that is lacking.
        upto = np.searchsorted(below, who_BLJ * (self.n_items + 1) + nth, side="right")
        drawn = np.minimum(nth + upto - first_B[who_BLJ], self.n_items - 1)
        return rows.replace(negatives_BLJ=drawn.astype(np.int32)), after


class DrawnItems:
    """Wraps a source of `HistoryRows`: each row brings `count` drawn items, as `negatives_BLJ` [B, 1, count].

    An item is drawn with probability exp(log_q), where q goes like its number of events (one at least) to the power
    `popularity`. With replacement, and whoever has it: the loss corrects for both.

    source: gives rows of packed histories. histories: whose items are counted. share: the rows of this process.
    """

    def __init__(
        self,
        source: Any,
        histories: Histories,
        count: int,
        popularity: float = 0.0,
        share: slice | None = None,
    ):
        events_I = np.zeros(histories.n_items, np.int64)
        for at in range(0, len(histories.item_T), _COUNTED):
            part = histories.item_T[at : at + _COUNTED]
            events_I += np.bincount(part, minlength=histories.n_items)
        events_I = np.maximum(events_I, 1)
        q_I = events_I.astype(np.float64) ** popularity
        self.log_q_I = np.log(q_I / q_I.sum()).astype(np.float32)
        self.upto_I = np.cumsum(q_I / q_I.sum())
        self.source, self.count, self.share = source, count, share

    def init(self) -> Any:
        """The inner source's first state."""
        return self.source.init()

    def __call__(self, step: int, params: Any, state: Any) -> tuple[HistoryRows, Any]:
        """The inner source's batch with the drawn items, and its state."""
        rows, after = self.source(step, params, state)
        chance = _dice(state, self.share).random((len(rows.items_BL), 1, self.count))
        # By rounding the last bound may lie below 1; what is drawn above it is the last item.
        drawn = np.minimum(np.searchsorted(self.upto_I, chance), len(self.upto_I) - 1)
        return rows.replace(negatives_BLJ=drawn.astype(np.int32)), after


# ------------------------------------------------------------------------------------------ inside


def _dice(state: Any, share: slice | None) -> np.random.Generator:
    """Random numbers that are a function of the source's state, other ones in each process."""
    first = share.start or 0 if share else 0
    return np.random.default_rng([*(int(state[k]) for k in ("seed", "epoch", "position")), first])


def _lay(length_W: np.ndarray, width: int, max_length: int, seed: int) -> np.ndarray:
    if max_length > width:
        raise ValueError(f"histories of {max_length} items do not fit into rows of {width}")
    return best_fit(length_W, width, seed)


def _fill(
    histories: Histories,
    row_W: np.ndarray,
    begin_W: np.ndarray,
    length_W: np.ndarray,
    place_W: np.ndarray,
    width: int,
    max_length: int,
    count: Count,
    rows: int,
) -> HistoryRows:
    at, within = ranges(place_W, length_W), ranges(begin_W, length_W)

    def laid(values: np.ndarray, nothing: int, kind: type = np.int32) -> np.ndarray:
        out = np.full(rows * width, nothing, kind)
        out[at] = values
        return out.reshape(rows, width)

    # the how-manieth part of its row each one is
    order = np.argsort(place_W)
    ordered = place_W[order] // width
    nth = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    segment_W = np.empty(len(order), np.int64)
    segment_W[order] = nth + 1
    position = np.arange(len(at)) - np.repeat(np.cumsum(length_W) - length_W, length_W)
    if count == "end":
        position = position + np.repeat(max_length - length_W, length_W)
    times = None
    if histories.time_T is not None:
        times = laid(histories.time_T[within].astype(np.int64) % 2**32, 0, np.uint32)
    return HistoryRows(
        items_BL=laid(histories.item_T[within], -1),
        targets_BL=np.full((rows, width), -1, np.int32),
        segments_BL=laid(np.repeat(segment_W, length_W), 0),
        positions_BL=laid(position, 0),
        who_BL=laid(np.repeat(row_W, length_W), -1),
        times_BL=times,
    )
