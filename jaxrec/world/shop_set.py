"""The sample world's three shops as a data set like any public one: its people's events, its items' titles."""

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
