"""What single cells say: names, numbers and times, looked at before they are cast."""

import datetime

import pytest

from jaxrec.data.readers.names import alike, identity, prose
from jaxrec.data.readers.times import day_or_month, number, seconds

THEN = 1_600_000_000  # 2020-09-13 12:26:40
TIMES = {
    "1600000000": THEN,
    "1.6e9": THEN,
    "1600000000.75": THEN,
    "1600000000123": THEN,
    "1600000000123456": THEN,
    "1600000000123456789": THEN,
    "2020-09-13 12:26:40": THEN,
    "2020-09-13T12:26:40Z": THEN,
    "2020-09-13T14:26:40.123+02:00": THEN,
    "2020-09-13 12:26:40 UTC": THEN,
    "20200913122640": THEN,
    "13.09.2020 12:26:40": THEN,
    "13/09/2020 12:26:40": THEN,
    "9/13/2020 12:26:40 PM": THEN,
    "Sun Sep 13 12:26:40 2020": THEN,
    "Sun Sep 13 05:26:40 -0700 2020": THEN,
    "Sun, 13 Sep 2020 12:26:40 GMT": THEN,
    "20200913": THEN - 44_800,
    "2020-09-13": THEN - 44_800,
    "September 13, 2020": THEN - 44_800,
    "13 Sep 2020": THEN - 44_800,
    "09 13, 2020": THEN - 44_800,
    "2020/9/13": THEN - 44_800,
    "0": 0,
    "17": 17,
}


@pytest.mark.parametrize("text", TIMES)
def test_times(text):
    assert seconds(text) == TIMES[text]


def test_times_that_are_no_texts():
    assert seconds(1_600_000_000_123) == seconds(1.6e9) == THEN
    zone = datetime.timezone(datetime.timedelta(hours=2))
    assert seconds(datetime.datetime(2020, 9, 13, 14, 26, 40, tzinfo=zone)) == THEN
    assert seconds(datetime.date(2020, 9, 13)) == THEN - 44_800


@pytest.mark.parametrize(
    "value",
    ["-5", "", "nan", "inf", "1e30", "then", "1969-12-31", "2020-13-45", "1_6", None, True, "31.2.2020"],
)  # fmt: skip
def test_what_is_no_time(value):
    with pytest.raises(ValueError):
        seconds(value)


def test_day_or_month_first():
    with pytest.raises(ValueError, match="day or with the month"):
        seconds("03/04/2009")
    assert seconds("03/04/2009", True) - seconds("03/04/2009", False) == 30 * 86_400
    assert day_or_month(["03/04/2009", "13/04/2009"]) is True
    assert day_or_month(["03/04/2009", "03/24/2009"]) is False
    assert day_or_month(["03/04/2009"]) is None
    assert day_or_month(["13/04/2009", "03/24/2009"]) is None


def test_numbers():
    assert number("4,5") == 4.5 and number(" 0 ") == 0 and number(0) == 0 and number("-1") == -1
    for value in ("nan", "inf", "", None, True, "1_0", "four", "1,234"):
        with pytest.raises(ValueError):
            number(value)


def test_names():
    assert [identity(x) for x in (0, "0", 0.0, 1.0, 1.5, " a ", b"x")] == [
        "0", "0", "0", "1", "1.5", "a", "x"
    ]  # fmt: skip
    assert not any(identity(x) for x in (None, "", "  ", float("nan"), "NA", "null", "\\N"))
    for value in ([1], {"id": 1}, "A\ud83d", "Jos\udce9"):
        with pytest.raises(ValueError):
            identity(value)
    assert prose("a\ud83d") == "a\ufffd" and prose(None) == prose(float("nan")) == ""
    assert alike(["é", "e\u0301", "e", "x"]) == 1
