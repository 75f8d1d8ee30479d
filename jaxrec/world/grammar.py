"""The grammar of the generated tenants: topics, trades, the facts one can draw, and how they are put into words.

The sentences lie in `texts/topics.toml` and the trades' words in `texts/trades.toml`; this file draws facts and
fills slots. Facts are kept in one canonical form ("9 am", "£4.50"); the technical register says them otherwise
("09:00", "GBP 4.50"), and `fact_met` accepts both.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from random import Random

from jaxrec.world.style import Style

DAYS = ("Monday", "Tuesday", "Wednesday", "Sunday")
PEOPLE = ("Anna", "Ben", "Clara", "David", "Ella", "Finn", "Grace", "Hugo")
# topic -> slot -> the values that a tenant's fact is drawn from
POOL: Mapping[str, Mapping[str, Sequence[str]]] = {
    "hours": {
        "open": ("7 am", "8 am", "9 am", "10 am"),
        "close": ("4 pm", "5 pm", "6 pm", "8 pm"),
        "closed": DAYS,
    },
    "delivery": {
        "miles": ("3 miles", "5 miles", "8 miles", "12 miles"),
        "fee": ("£2", "£3", "£4", "£6"),
        "free": ("£20", "£30", "£50", "£80"),
    },
    "refund": {
        "days": ("7 days", "14 days", "30 days", "60 days"),
        "how": ("in cash", "in store credit", "by bank transfer"),
    },
    "booking": {
        "notice": ("one day", "two days", "one week", "two weeks"),
        "channel": ("online", "by phone", "in person", "by email"),
    },
    "cancellation": {
        "hours": ("12 hours", "24 hours", "48 hours", "72 hours"),
        "fee": ("£5", "£10", "£15", "£25"),
    },
    "payment": {
        "methods": (
            "cash and cards",
            "cards only",
            "cash only",
            "cards and bank transfer",
            "cards and phones",
        )
    },
    "complaint": {"person": PEOPLE, "reply": ("one day", "two days", "three days", "five days")},
    "location": {
        "street": (
            "Mill Lane",
            "Bridge Street",
            "Church Road",
            "Market Square",
            "Station Road",
            "Park Avenue",
        ),
        "near": (
            "next to the post office",
            "behind the library",
            "opposite the school",
            "by the old bridge",
        ),
    },
    "warranty": {"months": ("one week", "one month", "six months", "one year")},
    "gift_card": {
        "from": ("£5", "£10", "£20", "£25"),
        "valid": ("six months", "one year", "two years", "three years"),
    },
    "parking": {
        "spot": (
            "a free car park behind the house",
            "a free space by the door",
            "a paid car park across the road",
            "free parking along the street",
        )
    },
    "contact": {
        "phone": ("555 0110", "555 0127", "555 0134", "555 0152", "555 0178", "555 0193"),
        "person": PEOPLE,
    },
    "discount": {
        "percent": ("5%", "10%", "15%", "20%"),
        "who": ("students", "members", "seniors", "families"),
    },
}
PRICES = {
    "cheap": ("£3", "£4.50", "£6", "£8"),
    "fair": ("£9", "£12", "£15", "£18"),
    "dear": ("£24", "£30", "£45", "£60"),
}


@cache
def topics() -> Mapping[str, Mapping]:
    """Topic -> its wordings, answers, and page (see the head of `topics.toml`)."""
    return _table("topics.toml")


@cache
def trades() -> Mapping[str, Mapping]:
    """Trade -> its place, goods, care tips, services, and name parts."""
    return _table("trades.toml")


def _table(name: str) -> Mapping[str, Mapping]:
    return tomllib.loads((resources.files(__package__) / "texts" / name).read_text("utf-8"))


def draw_facts(rng: Random, trade: str) -> dict[str, dict[str, str]]:
    """One tenant's facts by topic and slot. Prices and care tips are by item."""
    facts = {
        topic: {slot: rng.choice(values) for slot, values in slots.items()}
        for topic, slots in POOL.items()
    }
    table = trades()[trade]
    goods = table["goods"]
    prices = [rng.choice(PRICES[level]) for level in table["level"]]
    facts["price"] = dict(zip(goods, prices, strict=True))
    facts["care"] = dict(zip(goods, table["care"], strict=True))
    top, second = rng.sample(goods, 2)
    facts["product"] = {"top": top, "second": second}
    return facts


def redraw(
    rng: Random, facts: Mapping[str, Mapping[str, str]], topic: str, item: str
) -> dict[str, str]:
    """A wrong version of the facts that an answer on this topic states: one of them has another value.

    rng: of the draw. facts: of the tenant, by group and slot. item: what the question is about, if anything.
    """
    right = right_facts(facts, topic, item)
    slot = rng.choice(sorted(right))
    goods = tuple(facts["price"])
    pools = {"tip": tuple(facts["care"].values()), "top": goods, "second": goods}
    pools["price"] = tuple(value for level in PRICES.values() for value in level)
    pool = pools[slot] if slot in pools else POOL[topic][slot]
    return {**right, slot: rng.choice([v for v in pool if v not in right.values()])}


def right_facts(facts: Mapping[str, Mapping[str, str]], topic: str, item: str) -> dict[str, str]:
    """Slot -> value of what a right answer on this topic (and about this item) contains."""
    if topic in ("price", "care"):
        return {topics()[topic]["facts"][0]: facts[topic][item]}
    return dict(facts[topic])


def slots(name: str, trade: str, style: Style | None, item: str, service: str) -> dict[str, str]:
    """Every slot that is no fact: the place, the item and the service in their articles, the tenant's own terms.

    name: of the place. trade: its kind. style: None leaves the own terms out.
    """
    customer, order = (style.customer, style.order) if style else ("customer", "order")
    words = {
        "name": name,
        "place": trades()[trade]["place"],
        "customers": f"{customer}s",
        "order": order,
    }
    for key, phrase in {"item": item, "service": service}.items():
        noun = phrase.split(" ", 1)[1]
        words |= {key: phrase, f"the_{key}": f"the {noun}", f"my_{key}": f"my {noun}"}
    caps = {f"{key}_cap": value[:1].upper() + value[1:] for key, value in words.items()}
    return words | caps


def phrase(value: str, register: str) -> str:
    """A fact as a register says it: "9 am" and "£4.50" are "09:00" and "GBP 4.50" in the technical one."""
    if register != "technical":
        return value
    value = re.sub(
        r"(\d+) (am|pm)", lambda m: f"{int(m[1]) % 12 + 12 * (m[2] == 'pm'):02d}:00", value
    )
    return value.replace("£", "GBP ")


def fact_met(answer: str, facts: Sequence[str]) -> bool:
    """Whether an answer states every fact, in either register's form; true for no facts."""
    text = answer.lower()
    return all(any(_stands(form, text) for form in {f, phrase(f, "technical")}) for f in facts)


def _stands(fact: str, text: str) -> bool:
    """As whole words: "5 pm" is not in "15 pm", "£4" not in "£4.50"."""
    return re.search(rf"(?<![\w.]){re.escape(fact.lower())}(?!\w|\.\d)", text) is not None


def sentences(
    rng: Random, topic: str, words: Mapping[str, str], said: Mapping[str, str], style: Style
) -> list[str]:
    """The body of an answer: the sentence that states the facts, and what its length asks for beyond.

    rng: of the choice. topic: what was asked. words: slots that are no facts. said: slot -> value to state. style: of
    the tenant.
    """
    table, filled = topics()[topic], dict(words)
    filled |= {slot: phrase(value, style.register) for slot, value in said.items()}
    more = {"short": 0, "medium": 1, "long": rng.choice((2, 3))}[style.length]
    extra = rng.sample(table[f"more_{style.formality}"], more)
    lines = [
        rng.choice(table[style.formality]),
        *sorted(extra, key=table[f"more_{style.formality}"].index),
    ]
    return [line.format_map(filled) for line in lines]
