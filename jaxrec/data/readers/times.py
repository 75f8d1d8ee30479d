"""Numbers and times of events out of cells, or ValueError: nothing is cast before it is looked at.

Times are Unix seconds, milliseconds, microseconds or nanoseconds (told by their size), or dates: ISO 8601, days such
as 20200705, `31.12.2009`, `12/31/2009` (day or month first, as the column itself tells), and those that name the month.
A date without a zone is taken to be in UTC.
"""

import datetime
import math
import re
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from typing import Any

import numpy as np

MILLISECONDS = 100_000_000_000  # from here on a time is in milliseconds (in seconds: the year 5138)
MICROSECONDS = 1000 * MILLISECONDS
NANOSECONDS = 1000 * MICROSECONDS
EARLIEST = 600_000_000  # numbers below it, in a table without a header, are no times
BEYOND = 100 * NANOSECONDS
DAYS = range(19_000_101, 21_001_232)  # whole numbers that may be a date written together
_TOGETHER = re.compile(r"((?:19|20)\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(\d{4}|\d{6})?(?:\.0)?")
_PARTS = re.compile(r"(\d{1,4})([./-])(\d{1,2})\2(\d{1,4})(?:[ T,]+(.*))?")
_FORMATS = (
    "%b %d, %Y", "%B %d, %Y", "%d %b %Y", "%d %B %Y", "%b %d %Y", "%m %d, %Y", "%d-%b-%Y", "%Y-%m-%d %H",
    "%a %b %d %H:%M:%S %z %Y", "%a %b %d %H:%M:%S %Y", "%b %d, %Y %H:%M", "%b %d, %Y %I:%M %p", "%Y-%m",
)  # fmt: skip
_CLOCKS = ("%H:%M:%S", "%H:%M", "%I:%M:%S %p", "%I:%M %p", "%H:%M:%S.%f")
_DECIMAL_COMMA = re.compile(r"-?\d{1,3},\d{1,2}")


def number(value: Any) -> float:
    """A finite number, "4,5" being 4.5. Raises ValueError otherwise, for a truth value and for "1_000" too."""
    if isinstance(value, bool) or value is None:
        raise ValueError(f"{value!r} is not a number")
    if isinstance(value, str):
        if "_" in value:
            raise ValueError(f"{value!r} is not a number")
        if _DECIMAL_COMMA.fullmatch(value.strip()):
            value = value.replace(",", ".")
    got = float(value)
    if not math.isfinite(got):
        raise ValueError(f"{value!r} is not finite")
    return got


def seconds(value: Any, day_first: bool | None = None) -> int:
    """Unix seconds of a number or a date.

    day_first: whether 03/04/2009 is in April; None: nobody knows, and such a date is refused unless a field above 12
    tells. Raises ValueError for what is no time, for times before 1970, and for numbers beyond nanoseconds.
    """
    if isinstance(value, datetime.datetime):
        return _since_1970(value)
    if isinstance(value, datetime.date):
        return _since_1970(datetime.datetime(value.year, value.month, value.day))
    if isinstance(value, str):
        text = value.strip()
        if together := _TOGETHER.fullmatch(text):
            return _written_together(together)
        if not text[:1].isdigit() or not text.replace(".", "", 1).isdigit():
            try:
                value = number(text)
            except ValueError:
                return _date(text, day_first)
    got = number(value)
    if got < 0:
        raise ValueError(f"{value!r} is before 1970")
    if got >= BEYOND:
        raise ValueError(f"{value!r} is no time")
    if got.is_integer() and (together := _TOGETHER.fullmatch(str(int(got)))):
        return _written_together(together)
    return int(np.asarray(of_size(np.float64(got))))


def of_size(times: Any) -> Any:
    """Seconds of numbers that may be in milli-, micro- or nanoseconds, each by its own size; rounded down."""
    unit = np.select(
        [times >= NANOSECONDS, times >= MICROSECONDS, times >= MILLISECONDS], [1e9, 1e6, 1e3], 1.0
    )
    return np.where(unit > 1, times // unit, times)


def plain_seconds(times: np.ndarray) -> bool:
    """Whether a column of numbers needs no look at each: none before 1970, beyond, or a date written together."""
    whole = times[(times >= DAYS.start) & (times < DAYS.stop)]
    long = times[(times >= 1.9e11) & (times < 2.1e11) | (times >= 1.9e13) & (times < 2.1e13)]
    return not (len(whole) or len(long) or times.min() < 0 or times.max() >= BEYOND)


def day_or_month(values: Iterable[Any]) -> bool | None:
    """Whether dates such as 31/12/2009 begin with the day; None where none of them tells, or they contradict."""
    first = second = False
    for value in values:
        found = _PARTS.fullmatch(value.strip()) if isinstance(value, str) else None
        if found and len(found[1]) <= 2 and found[2] != ".":
            first |= int(found[1]) > 12
            second |= int(found[3]) > 12
    return None if first == second else first


def has_slashes(values: Iterable[Any]) -> bool:
    """Whether there are dates that may begin with the day or with the month."""
    parts = (_PARTS.fullmatch(value.strip()) for value in values if isinstance(value, str))
    return any(found and len(found[1]) <= 2 and found[2] != "." for found in parts)


def is_time(value: Any) -> bool:
    """Whether a cell without a header looks like the time of an event: 1989 or later, in any unit, or a date."""
    try:
        return seconds(value, True) > EARLIEST
    except (ValueError, TypeError, OverflowError):
        try:
            return seconds(value, False) > EARLIEST
        except (ValueError, TypeError, OverflowError):
            return False


def _since_1970(when: datetime.datetime) -> int:
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    got = math.floor(when.timestamp())
    if got < 0:
        raise ValueError(f"{when} is before 1970")
    return got


def _written_together(found: re.Match) -> int:
    year, month, day, clock = found.groups()
    clock = clock or "0000"
    hour, minute, second = int(clock[:2]), int(clock[2:4]), int(clock[4:] or 0)
    return _since_1970(datetime.datetime(int(year), int(month), int(day), hour, minute, second))


def _date(text: str, day_first: bool | None) -> int:
    try:
        return _since_1970(datetime.datetime.fromisoformat(text.removesuffix(" UTC")))
    except ValueError as error:
        if "before 1970" in str(error):
            raise
    if found := _PARTS.fullmatch(text):
        return _by_parts(text, found, day_first)
    for form in _FORMATS:
        try:
            return _since_1970(datetime.datetime.strptime(text, form))
        except ValueError as error:
            if "before 1970" in str(error):
                raise
    try:
        return _since_1970(parsedate_to_datetime(text))
    except (TypeError, IndexError):
        raise ValueError(f"{text!r} is no time") from None


def _by_parts(text: str, found: re.Match, day_first: bool | None) -> int:
    one, mark, two, three, clock = found.groups()
    if len(one) == 4:
        year, month, day = int(one), int(two), int(three)
    elif len(three) in (2, 4):
        a, b = int(one), int(two)
        if mark == "." or a > 12:
            day_first = True
        elif b > 12:
            day_first = False
        if day_first is None:
            raise ValueError(f"{text!r} may begin with the day or with the month")
        day, month = (a, b) if day_first else (b, a)
        year = int(three) + (0 if len(three) == 4 else 2000 if int(three) < 70 else 1900)
    else:
        raise ValueError(f"{text!r} is no date")
    when = datetime.datetime(year, month, day)
    if not clock:
        return _since_1970(when)
    zone = re.fullmatch(r"(.*?)\s*(Z|UTC|GMT|[+-]\d\d:?\d\d)?", clock)
    for form in _CLOCKS:
        try:
            at = datetime.datetime.strptime(zone[1].strip(), form)
        except ValueError:
            continue
        offset = zone[2] if zone[2] and zone[2][0] in "+-" else "+00:00"
        return _since_1970(datetime.datetime.combine(when, at.time(), _zone(offset)))
    raise ValueError(f"{text!r} is no time")


def _zone(offset: str) -> datetime.timezone:
    minutes = int(offset[1:3]) * 60 + int(offset[-2:])
    return datetime.timezone(datetime.timedelta(minutes=-minutes if offset[0] == "-" else minutes))
