"""Floor 2: when somebody acts (hours, days of the week, seasons), and what may be told of who they are: of age, sex or
trade only what at least `k` people share.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxrec.data.readers.times import of_size

HOUR, DAY = 3_600, 86_400
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SEASONS = ("winter", "spring", "summer", "autumn")


def rhythm(
    time_T: Int[np.ndarray, " T"], *, utc_offset_h: int | float = 0.0, southern: bool = False
) -> dict[str, dict[Any, int]]:
    """Counts of events by "hour" (0-23), "weekday" and "season", those that occur, in the order of the clock.

    time_T: Unix seconds; milli-, micro- and nanoseconds are told by their size. "hour" is absent where every time is a
    midnight of UTC: such data know days only (Amazon's reviews). Without times: {}. Seasons are the meteorological
    ones, December to February the northern winter.
    """
    if not len(time_T):
        return {}
    time_T = of_size(time_T).astype(np.int64)
    local_T = time_T + round(utc_offset_h * HOUR)
    found: dict[str, dict[Any, int]] = {}
    if (time_T % DAY).any():
        found["hour"] = _counts(local_T % DAY // HOUR, range(24))
    else:
        local_T = time_T  # a date is a date in every time zone
    found["weekday"] = _counts((local_T // DAY + 3) % 7, WEEKDAYS)  # 1 January 1970: a Thursday
    month_T = local_T.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64) % 12
    season_T = (month_T + 1) % 12 // 3
    found["season"] = _counts((season_T + 2 * southern) % 4, SEASONS)
    return found


def _counts(at_T: np.ndarray, names: Any) -> dict[Any, int]:
    count = np.bincount(at_T, minlength=len(names))
    return {name: int(n) for name, n in zip(names, count, strict=True) if n}


AGE_BAND = 10


def anonymised(
    fields: Mapping[str, Sequence[str]], k: int = 5, age: str = "age"
) -> list[dict[str, str]]:
    """One dict a person: k-anonymous by suppression (Sweeney 2002), ages in bands of ten years.

    fields: a column each, a row a person; the first matter most, an empty value is not known. Whoever's combination
    fewer than k people share loses the last field, and so on; what is told of a person is told, word for word, of at
    least k - 1 others, or nothing is. Raises ValueError for columns of different length, and for k below 2.
    """
    if k < 2:
        raise ValueError(f"k is at least 2, not {k}: alone nobody is anonymous")
    if len({len(column) for column in fields.values()}) > 1:
        raise ValueError("the columns have different lengths")
    columns = {name: [_band(v) if name == age else v for v in col] for name, col in fields.items()}
    rows = [
        tuple((name, value) for name, value in zip(columns, values, strict=True) if value)
        for values in zip(*columns.values(), strict=True)
    ]
    told: list[dict[str, str]] = [{} for _ in rows]
    left = set(range(len(rows)))
    for depth in range(len(columns), 0, -1):
        count = Counter(rows[i][:depth] for i in left)
        for i in sorted(left):
            if count[rows[i][:depth]] >= k:
                told[i] = dict(rows[i][:depth])
                left.discard(i)
    return told


def _band(age: str) -> str:
    try:
        low = int(age) // AGE_BAND * AGE_BAND
    except ValueError:
        return age  # a band already, or no number: told as it stands if k people share it
    return f"{low}-{low + AGE_BAND - 1}"
