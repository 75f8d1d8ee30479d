"""What the sample world's people do, as data sets like any public one: what they bought, and how they rate.

rating = 3 + 1.2 x (planted score, standardised over all that the person could rate) + noise, rounded and clipped.
So the planted score is the right answer here too, and nobody rates only what they like.
"""

import numpy as np

from jaxrec.data.histories import Interactions
from jaxrec.data.interaction_sets import InteractionSet, Items
from jaxrec.data.readers.raw import Problems
from jaxrec.world.shops import Shops


def interaction_set(shops: Shops) -> InteractionSet:
    """Person u is number u, item i is number i, so `shops.oracle_UI` reads as it stands. Cold items are in no event."""
    people, catalog = shops.people, shops.catalog
    count = [len(person.items_T) for person in people]
    events = Interactions(
        user_T=np.repeat(np.arange(len(people)), count),
        item_T=np.concatenate([person.items_T for person in people]).astype(np.int64),
        users=tuple(person.id for person in people),
        items=tuple(f"item_{item:03d}" for item in range(len(catalog))),
        time_T=np.concatenate([person.times_T for person in people]).astype(np.int64),
    )
    names = tuple(dict.fromkeys(catalog.shop))
    pairs = tuple(zip(catalog.shop, catalog.category, strict=True))
    return InteractionSet(
        name="sample-world",
        layout="world",
        interactions=events,
        items=Items(title=catalog.title, category=pairs, description=catalog.description),
        people={},
        problems=Problems(),
        shops=names,
        shop_I=np.array([names.index(shop) for shop in catalog.shop]),
    )


def rate_items(shops: Shops, each: int = 40, noise: float = 0.4, seed: int = 0) -> Interactions:
    """`each` ratings a person, of different items, a second apart. Raises ValueError if there are not so many.

    shops: of the sample world. noise: deviation of a rating from the taste. seed: of the draw.
    """
    people, items = shops.oracle_UI.shape
    if not 0 < each <= items:
        raise ValueError(f"{each} different items of {items}")
    rng = np.random.default_rng(seed)
    item_UT = np.stack([rng.permutation(items)[:each] for _ in range(people)])
    score_UI = shops.oracle_UI.astype(np.float64)
    score_UI = (score_UI - score_UI.mean(1, keepdims=True)) / score_UI.std(1, keepdims=True)
    said_UT = 3 + 1.2 * np.take_along_axis(score_UI, item_UT, 1)
    said_UT += noise * rng.normal(size=said_UT.shape)
    return Interactions(
        user_T=np.repeat(np.arange(people), each),
        item_T=item_UT.reshape(-1),
        users=tuple(person.id for person in shops.people),
        items=tuple(shops.catalog.title),
        rating_T=np.clip(np.round(said_UT), 1, 5).astype(np.float32).reshape(-1),
        time_T=np.tile(np.arange(each), people),
    )
