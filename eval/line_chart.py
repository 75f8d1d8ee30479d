"""Where the lines of a small chart go: numbers in, coordinates out. The page draws them, so it can colour and escape.

y ticks |   .--- path of one series (a line, and dots where it has few points)
        |__________ x ticks
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 480, 270  # of the drawing; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 30


@dataclass(frozen=True)
class Series:
    """One line of a chart, points as (x, y), x ascending. `dots` draws them too, for values measured seldom; a single
    point is always drawn, since a line of it would not be seen."""

    label: str
    points: tuple[tuple[float | int, float | int], ...]
    dots: bool = False

    def said(self) -> str:
        """The line in words, for who does not see it."""
        (x0, y0), (x1, y1) = self.points[0], self.points[-1]
        if x0 == x1:
            return f"{self.label}: {y0:.3g} at step {x0:g}"
        return f"{self.label}: from {y0:.3g} at step {x0:g} to {y1:.3g} at step {x1:g}"


@dataclass(frozen=True)
class Line:
    """A series as an SVG path, its dots as (x, y), and its last value."""

    label: str
    path: str
    dots: tuple[tuple[float | int, float | int], ...]
    last: float


@dataclass(frozen=True)
class Chart:
    """A drawing of `WIDTH` x `HEIGHT`. Ticks are (coordinate, label); `said` describes it in words."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    said: str


def chart(title: str, unit: str, series: Sequence[Series]) -> Chart | None:
    """The geometry of a chart of all series that have points; None when none has."""
    series = [s for s in series if s.points]
    if not series:
        return None
    xs, ys = ([point[i] for s in series for point in s.points] for i in (0, 1))
    y_marks = ticks(min(ys) if min(ys) > 0.4 * max(ys) else min(0.0, *ys), max(ys))
    x_marks = [x for x in ticks(0, max(xs), 5) if x <= max(xs)]
    low, high = y_marks[0], y_marks[-1]
    across = lambda x: round(LEFT + (WIDTH - LEFT - RIGHT) * x / (max(xs) or 1), 1)
    down = lambda y: round(TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / (high - low), 1)

    def drawn(s: Series) -> Line:
        places = tuple((across(x), down(y)) for x, y in s.points)
        path = "M" + "L".join(f"{x} {y}" for x, y in places)
        return Line(s.label, path, places if s.dots or len(places) == 1 else (), s.points[-1][1])

    return Chart(
        title,
        unit,
        tuple(map(drawn, series)),
        tuple((across(x), f"{x:g}") for x in x_marks),
        tuple((down(y), f"{y:g}") for y in y_marks),
        "; ".join(s.said() for s in series),
    )


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers, evenly spaced, the first at most `low` and the last at least `high`."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / about
    size = 10 ** math.floor(math.log10(rough))
    gap = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= rough * 0.999)
    first, last = math.floor(low / gap + 1e-9), math.ceil(high / gap - 1e-9)
    return [round(i * gap, 10) for i in range(first, last + 1)]
