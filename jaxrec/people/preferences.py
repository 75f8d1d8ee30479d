"""Floor 2: what somebody likes now and what they like at heart: means of item vectors that fade with two half-lives.

    taste = preference_vectors(histories, vectors_IE)      # everybody at once, from their histories
    mean = FadingMean(dim, half_life)                      # one person, event by event

A fading mean at time t weighs an event of age a by 0.5 ** (a / half-life). Its value does not depend on t, since all
weights shrink alike; so nobody's taste has to be brought up to date for time going by.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxrec.data.histories import Histories

DAY = 86_400
BLOCK = 1 << 18  # events whose vectors are gathered at once


@dataclasses.dataclass(frozen=True)
class HalfLives:
    """After how many days, or where events have no times after how many later events, half the weight is left."""

    short_days: int | float = 7.0
    long_days: int | float = 180.0
    short_events: int | float = 2.0
    long_events: int | float = 20.0


class Taste(NamedTuple):
    """Fading means of item vectors, one row a person; zero rows for people without events."""

    short_BE: Float[np.ndarray, "B E"]
    long_BE: Float[np.ndarray, "B E"]


def preference_vectors(
    histories: Histories,
    vectors_IE: Float[np.ndarray, "I E"],
    half_lives: HalfLives = HalfLives(),
) -> Taste:
    """Short-term and long-term preferences of every row, by age where there are times, else by place."""
    timed = histories.time_T is not None
    age_T = _age_in_days(histories) if timed else _age_in_events(histories)
    short = half_lives.short_days if timed else half_lives.short_events
    long = half_lives.long_days if timed else half_lives.long_events
    mean = lambda half_life: _weighted_means(histories, vectors_IE, 0.5 ** (age_T / half_life))
    return Taste(mean(short), mean(long))


class FadingMean:
    """One person's fading mean, event by event, in any order of time. `half_life` in the unit of the times.

    What is held is the sum of weights and vectors as seen from the newest event; an older one that comes late enters
    with the weight that it has by now. `remove` takes an event out again.
    """

    def __init__(self, dim: int, half_life: int | float):
        if half_life <= 0:
            raise ValueError(f"a half-life is above 0, not {half_life}")
        self.half_life, self.newest = half_life, -np.inf
        self._sum_E, self._weight = np.zeros(dim), 0.0

    def add(self, vector_E: Float[np.ndarray, " E"], time: int | float) -> None:
        """One more event."""
        self._meet(time)
        self._enter(vector_E, time, 1.0)

    def remove(self, vector_E: Float[np.ndarray, " E"], time: int | float) -> None:
        """One event less, which was added before with this vector and time."""
        self._enter(vector_E, time, -1.0)

    @property
    def value_E(self) -> Float[np.ndarray, " E"] | None:
        """The mean; None without events."""
        return self._sum_E / self._weight if self._weight > 1e-12 else None

    def _meet(self, time: int | float) -> None:
        if time > self.newest:
            if self._weight:
                fade = 0.5 ** ((time - self.newest) / self.half_life)
                self._sum_E, self._weight = self._sum_E * fade, self._weight * fade
            self.newest = time

    def _enter(self, vector_E: np.ndarray, time: int | float, sign: float) -> None:
        weight = sign * 0.5 ** ((self.newest - time) / self.half_life)
        self._sum_E += weight * vector_E
        self._weight += weight


def _age_in_days(histories: Histories) -> Float[np.ndarray, " T"]:
    """Days before the newest event of the same row."""
    newest_B = np.zeros(len(histories))
    there = histories.length_B > 0
    newest_B[there] = histories.time_T[histories.start_B[1:][there] - 1]
    return (newest_B[histories.row_T] - histories.time_T) / DAY


def _age_in_events(histories: Histories) -> Float[np.ndarray, " T"]:
    """How many later events the same row has."""
    last_T: Int[np.ndarray, " T"] = histories.start_B[1:][histories.row_T] - 1
    return (last_T - np.arange(len(last_T))).astype(float)


def _weighted_means(
    histories: Histories, vectors_IE: np.ndarray, weight_T: np.ndarray
) -> Float[np.ndarray, "B E"]:
    row_T = histories.row_T
    sum_BE = np.zeros((len(histories), vectors_IE.shape[1]))
    for start in range(0, len(row_T), BLOCK):
        part = slice(start, start + BLOCK)
        row, weight = row_T[part], weight_T[part]
        heads = np.flatnonzero(np.diff(row, prepend=-1))  # rows are contiguous
        sum_BE[row[heads]] += np.add.reduceat(
            weight[:, None] * vectors_IE[histories.item_T[part]], heads, axis=0
        )
    total_B = np.bincount(row_T, weights=weight_T, minlength=len(histories))
    return (sum_BE / np.maximum(total_B, 1e-300)[:, None]).astype(np.float32)
