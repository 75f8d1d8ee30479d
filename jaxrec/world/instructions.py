"""General instructions and tool-call traces in small: sixteen families, every answer computed, so every answer right.

A tool trace has four turns: the question, the assistant's call (one line of JSON after "call"), the tool's result
(JSON), and the answer in words.
"""

import datetime
import json
from collections.abc import Callable
from random import Random

from jaxrec.data.tenant import Turn
from jaxrec.world.records import Trace

WORDS = (
    "apple",
    "bread",
    "chair",
    "door",
    "eagle",
    "fern",
    "green",
    "house",
    "island",
    "jacket",
    "kettle",
    "lemon",
)
MONTHS = ("January", "March", "May", "June", "August", "October", "December")
CITIES = {  # city -> its sky, and the degrees that go with it
    "Oslo": ("snow", -8, 0),
    "Rome": ("sun", 18, 30),
    "Paris": ("rain", 8, 16),
    "Lima": ("fog", 12, 20),
    "Cairo": ("wind", 16, 28),
    "Delhi": ("heat", 32, 40),
}
STOCK = {"lamps": 4, "chairs": 12, "mugs": 30, "rugs": 7, "books": 52, "pens": 95}
Exchange = tuple[str, ...]  # the turns' texts: 2, or 4 where a tool is called


def instructions(seed: int = 0, n: int = 480) -> list[Trace]:
    """`n` different traces, the families in turn; the same for the same seed."""
    rng, seen, traces = Random(f"{seed}/instructions"), set(), []
    names = list(FAMILIES)
    while len(traces) < n:
        family = names[len(traces) % len(names)]
        texts = FAMILIES[family](rng)
        if texts[0] in seen:
            continue
        seen.add(texts[0])
        roles = (
            ("customer", "assistant")
            if len(texts) == 2
            else ("customer", "assistant", "tool", "assistant")
        )
        turns = tuple(Turn(role, text) for role, text in zip(roles, texts, strict=True))
        traces.append(Trace(f"{family}-{len(traces):03d}", family, turns))
    return traces


def _ask(rng: Random, wordings: tuple[str, ...], **values: object) -> str:
    return rng.choice(wordings).format(**values)


def _pick(rng: Random, low: int, high: int) -> str:
    return " ".join(rng.sample(WORDS, rng.randint(low, high)))


def _add(rng: Random) -> Exchange:
    a, b = rng.randint(1, 49), rng.randint(1, 49)
    return _ask(
        rng, ("What is {a} plus {b}?", "Add {a} and {b}."), a=a, b=b
    ), f"{a} + {b} = {a + b}"


def _subtract(rng: Random) -> Exchange:
    b, a = sorted((rng.randint(1, 49), rng.randint(50, 99)))
    return _ask(
        rng, ("What is {a} minus {b}?", "Take {b} from {a}."), a=a, b=b
    ), f"{a} - {b} = {a - b}"


def _multiply(rng: Random) -> Exchange:
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    return _ask(
        rng, ("What is {a} times {b}?", "Multiply {a} by {b}."), a=a, b=b
    ), f"{a} x {b} = {a * b}"


def _copy(rng: Random) -> Exchange:
    words = _pick(rng, 2, 5)
    return _ask(rng, ("Copy this: {w}", "Repeat after me: {w}"), w=words), words


def _reverse(rng: Random) -> Exchange:
    words = _pick(rng, 2, 4)
    ask = _ask(
        rng,
        ("Put these words in reverse order: {w}", "Say it backwards, word by word: {w}"),
        w=words,
    )
    return ask, " ".join(words.split()[::-1])


def _sort_numbers(rng: Random) -> Exchange:
    numbers = rng.sample(range(1, 60), rng.randint(3, 5))
    ask = _ask(
        rng, ("Sort these numbers: {n}", "Put in order from small to large: {n}"), n=_list(numbers)
    )
    return ask, _list(sorted(numbers))


def _sort_words(rng: Random) -> Exchange:
    words = _pick(rng, 3, 5).split()
    ask = _ask(
        rng,
        ("Sort these words by the alphabet: {w}", "Put in alphabetical order: {w}"),
        w=_list(words),
    )
    return ask, _list(sorted(words))


def _largest(rng: Random) -> Exchange:
    numbers = rng.sample(range(1, 90), rng.randint(3, 5))
    return _ask(
        rng, ("Which is the largest: {n}?", "Find the biggest of {n}."), n=_list(numbers)
    ), str(max(numbers))


def _count(rng: Random) -> Exchange:
    words = _pick(rng, 2, 7)
    return _ask(rng, ("How many words are here: {w}", "Count the words: {w}"), w=words), str(
        len(words.split())
    )


def _compare(rng: Random) -> Exchange:
    a, b = rng.sample(range(1, 90), 2)
    ask = _ask(rng, ("Is {a} more than {b}?", "Is {a} larger than {b}?"), a=a, b=b)
    return ask, f"Yes, {a} is more than {b}." if a > b else f"No, {a} is less than {b}."


def _last_word(rng: Random) -> Exchange:
    words = _pick(rng, 3, 6)
    return _ask(
        rng, ("What is the last word of: {w}", "Give me the final word: {w}"), w=words
    ), words.split()[-1]


def _fill(rng: Random) -> Exchange:
    start, step = rng.randint(1, 20), rng.randint(2, 9)
    row = [start + i * step for i in range(5)]
    ask = _ask(rng, ("What comes next: {n}?", "Continue the row: {n}"), n=_list(row[:4]))
    return ask, str(row[4])


def _call(tool: str, result: dict, **arguments: object) -> tuple[str, str]:
    return "call " + json.dumps({"tool": tool, **arguments}), json.dumps(result)


def _calendar(rng: Random) -> Exchange:
    month, day, year = rng.choice(MONTHS), rng.randint(1, 28), rng.choice((2024, 2025, 2026))
    number = datetime.datetime.strptime(month, "%B").month
    weekday = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")[
        datetime.date(year, number, day).weekday()
    ]
    date = f"{day} {month} {year}"
    ask = _ask(rng, ("What day of the week is {d}?", "On which weekday does {d} fall?"), d=date)
    return ask, *_call("calendar", {"weekday": weekday}, date=date), f"{date} is a {weekday}."


def _weather(rng: Random) -> Exchange:
    city, day = rng.choice(list(CITIES)), rng.choice(("today", "tomorrow", "on Sunday"))
    sky, low, high = CITIES[city]
    degrees = rng.randint(low, high)
    ask = _ask(
        rng, ("How is the weather in {c} {d}?", "What is the weather {d} in {c}?"), c=city, d=day
    )
    call = _call(
        "weather", {"sky": sky, "degrees": degrees}, city=city, day=day.removeprefix("on ")
    )
    return ask, *call, f"In {city} there is {sky} {day}, at {degrees} degrees."


def _stock(rng: Random) -> Exchange:
    thing, wanted = rng.choice(list(STOCK)), rng.randint(1, 99)
    ask = _ask(rng, ("Do you have {n} {t}?", "Are there {n} {t} in stock?"), n=wanted, t=thing)
    have = STOCK[thing]
    answer = (
        f"Yes, we have {have} {thing}." if have >= wanted else f"No, we have only {have} {thing}."
    )
    return ask, *_call("stock", {"count": have}, item=thing), answer


def _convert(rng: Random) -> Exchange:
    miles, rate = rng.randint(2, 60), 1.6
    ask = _ask(
        rng, ("How many kilometres are {m} miles?", "Turn {m} miles into kilometres."), m=miles
    )
    value = round(miles * rate, 1)
    return (
        ask,
        *_call("convert", {"value": value}, value=miles, to="km"),
        f"{miles} miles are about {value} km.",
    )


def _list(values: list) -> str:
    return ", ".join(map(str, values))


FAMILIES: dict[str, Callable[[Random], Exchange]] = {
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "copy": _copy,
    "reverse": _reverse,
    "sort_numbers": _sort_numbers,
    "sort_words": _sort_words,
    "largest": _largest,
    "count": _count,
    "compare": _compare,
    "last_word": _last_word,
    "fill": _fill,
    "calendar": _calendar,
    "weather": _weather,
    "stock": _stock,
    "convert": _convert,
}
