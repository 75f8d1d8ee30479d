"""Floor 2: when somebody acts: the hours, days of the week and seasons of their events."""

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
