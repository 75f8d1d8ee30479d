"""Three shops, and people whose tastes are planted, so that the right recommendation is known.

Every item carries tags (`texts/shops.toml`): ten factors of taste that run through all three shops. A person likes
some tags and dislikes others, minds prices more or less, and what they buy is drawn by the *planted score*

    score[u, i] = taste[u] . tags[i] / sqrt(number of tags)  -  thrift[u] * (how dear i is in its shop)  +  appeal[i]

plus Gumbel noise, without replacement. Some people never use one shop ("cold" there): what they would buy in it is
kept apart, and is only to be found through the other two.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

import numpy as np
from jaxtyping import Float, Int

from jaxrec.types import Catalog, Person

SHOPS = {"food": "Doorstep Kitchen", "grocery": "Green Basket", "market": "Wellmart"}
TAGS = {
    "vegan": ("Made without anything from animals.", "Vegan.", "For vegans and the curious."),
    "sweet": ("For those with a sweet tooth.", "Sweet.", "A sweet treat."),
    "spicy": ("Hot and spicy.", "For people who like heat.", "It bites back."),
    "sport": (
        "For active people.",
        "Popular with athletes.",
        "High in protein or made for training.",
    ),
    "cosy": (
        "For a cosy evening.",
        "Comfort, plain and warm.",
        "Goes well with rain on the window.",
    ),
    "fresh": ("Light and fresh.", "Fresh.", "For those who like it light."),
    "family": ("Children love it.", "For the whole family.", "Made with families in mind."),
    "gourmet": ("For gourmets.", "A fine choice for special days.", "The connoisseur's pick."),
    "organic": ("Organic.", "Natural and certified organic.", "Good for you and for the soil."),
    "energy": ("Wakes you up.", "For long days.", "Gives you a lift."),
}
START, DAYS, DAY = 1_735_689_600, 180, 86_400  # 1 January 2025, in Unix seconds
# shop -> (hours at which it is used, their weights; weight of a Saturday or Sunday against a working day)
RHYTHM = {
    "food": ((12, 13, 18, 19, 20, 21), (1, 1, 2, 3, 3, 1), 1.5),
    "grocery": ((9, 10, 11, 17, 18), (3, 3, 2, 1, 1), 3.0),
    "market": ((8, 12, 16, 20, 21, 22), (1, 1, 1, 2, 3, 2), 1.0),
}
COLD_EVENTS = 6


@dataclass(frozen=True)
class Shops:
    """The catalogue, the people, and what was planted.

    `oracle_UI` is the planted score: ranking by it is the best that any recommender can do. `cold[u]` are the items
    that person u would buy in the shop that they never used (in no one's events).
    """

    catalog: Catalog
    people: tuple[Person, ...]
    oracle_UI: Float[np.ndarray, "U I"]
    taste_UW: Float[np.ndarray, "U W"]
    tags_IW: Float[np.ndarray, "I W"]
    cold: Mapping[int, Int[np.ndarray, "T"]]


def make_shops(
    seed: int = 0, people: int = 480, cold_share: float = 0.2, noise: float = 0.5
) -> Shops:
    """The world of this seed. `noise` is the temperature of choice: at 0 everybody buys by their score alone.

    people: how many. cold_share: of them, how many have no event in one of the shops.
    """
    catalog = read_catalog()
    rng = np.random.RandomState(seed)  # the one stream that numpy promises never to change
    tags_IW = _tags(catalog)
    taste_UW = _tastes(rng, people)
    thrift_U = rng.normal(0.3, 0.4, people)
    appeal_I = rng.normal(0.0, 0.4, len(catalog))
    oracle_UI = taste_UW @ tags_IW.T - thrift_U[:, None] * _dear(catalog)[None] + appeal_I[None]
    are_cold = set(rng.permutation(people)[: round(people * cold_share)].tolist())
    folk, cold = [], {}
    for u in range(people):
        keys_I = oracle_UI[u] + noise * rng.gumbel(size=len(catalog))
        without = int(rng.randint(len(SHOPS))) if u in are_cold else None
        person, missed = _person(rng, f"person_{u:03d}", keys_I, catalog, without)
        folk.append(person)
        if missed is not None:
            cold[u] = missed
    return Shops(catalog, tuple(folk), oracle_UI.astype(np.float32), taste_UW, tags_IW, cold)


def read_catalog() -> Catalog:
    """The 324 items, shop after shop; ValueError names a line that does not read as "title | tags | price"."""
    table = tomllib.loads((resources.files(__package__) / "texts/shops.toml").read_text("utf-8"))
    rows = []
    for shop, kinds in table.items():
        for kind, group in kinds.items():
            for line in group["items"]:
                rows.append(_item(len(rows), shop, kind, group["blurb"], line))
    title, description, shop, category, attributes, price = zip(*rows, strict=True)
    return Catalog(title, description, shop, category, attributes, np.array(price))


def _item(index: int, shop: str, kind: str, blurb: str, line: str) -> tuple:
    parts = [part.strip() for part in line.split("|")]
    tags = parts[1].split() if len(parts) == 3 else []
    if shop not in SHOPS or not tags or not set(tags) <= TAGS.keys():
        raise ValueError(
            f"shops.toml [{shop}.{kind}]: {line!r} is not 'title | tags | price', tags of {list(TAGS)}"
        )
    phrases = [TAGS[tag][(index + i) % len(TAGS[tag])] for i, tag in enumerate(tags)]
    attributes = {"store": SHOPS[shop], "kind": kind, "tags": " ".join(tags)}
    return parts[0], " ".join([blurb, *phrases]), shop, kind, attributes, float(parts[2])


def _tags(catalog: Catalog) -> Float[np.ndarray, "I W"]:
    """Which tags an item has, as a vector of length one."""
    rows = [[tag in row["tags"].split() for tag in TAGS] for row in catalog.attributes]
    tags_IW = np.array(rows, float)
    return tags_IW / np.sqrt(tags_IW.sum(1, keepdims=True))


def _tastes(rng: np.random.RandomState, people: int) -> Float[np.ndarray, "U W"]:
    """Three tags liked, two disliked, next to nothing felt for the others."""
    taste_UW = rng.normal(0.0, 0.2, (people, len(TAGS)))
    for u in range(people):
        chosen = rng.permutation(len(TAGS))[:5]
        taste_UW[u, chosen] += np.concatenate(
            [rng.uniform(1.5, 3.0, 3), rng.uniform(-2.0, -1.0, 2)]
        )
    return taste_UW


def _dear(catalog: Catalog) -> Float[np.ndarray, "I"]:
    """How dear an item is in its shop: the logarithm of its price, standardised by shop."""
    log_I, shop_I = np.log(catalog.price_I), np.array(catalog.shop)
    out_I = np.empty_like(log_I)
    for shop in SHOPS:
        here = shop_I == shop
        out_I[here] = (log_I[here] - log_I[here].mean()) / log_I[here].std()
    return out_I


def _person(
    rng: np.random.RandomState,
    name: str,
    keys_I: Float[np.ndarray, "I"],
    catalog: Catalog,
    without: int | None,
) -> tuple[Person, Int[np.ndarray, "T"] | None]:
    """A person's events (the best keys of each shop that they use), and what they would buy in the other one."""
    shop_I, names = np.array(catalog.shop), list(SHOPS)
    items: list[int] = []
    times: list[int] = []
    missed = None
    for s, shop in enumerate(names):
        here_I = np.flatnonzero(shop_I == shop)
        ranked_I = here_I[np.argsort(-keys_I[here_I])]
        if s == without:
            missed = np.sort(ranked_I[:COLD_EVENTS])
            continue
        count = int(rng.randint(5, 13))
        items += rng.permutation(ranked_I[:count]).tolist()
        times += [_moment(rng, shop) for _ in range(count)]
    order = np.argsort(times, kind="stable")
    cold = () if without is None else (names[without],)
    return Person(name, np.array(items)[order], np.array(times)[order], cold), missed


def _moment(rng: np.random.RandomState, shop: str) -> int:
    """Unix seconds of one event, by the shop's rhythm of hours and days of the week."""
    hours, weights, weekend = RHYTHM[shop]
    days = np.arange(DAYS)
    heavy = np.where((days + 2) % 7 >= 5, weekend, 1.0)  # day 0 is a Wednesday
    day = rng.choice(days, p=heavy / heavy.sum())
    hour = rng.choice(hours, p=np.array(weights) / sum(weights))
    return int(START + day * DAY + hour * 3600 + rng.randint(3600))
