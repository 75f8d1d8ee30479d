"""Floor 4: a list that obeys what was said in a conversation: prices, items that may not come, allergens.

    state, action = hear(talk, state, "cheaper, and without nuts")
    found = recommend_wished(flow, Wanted(action.query, action.shop, action.wishes), facts, user="U1")

The flow ranks as ever; what breaks a wish is left out, and the list is drawn from further down until it is full or the
shop has no more. Nothing is relaxed: a list may be short or empty, and its notes say what left how many out.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping

from jaxrec.dialogue.checks import broken_wish
from jaxrec.dialogue.shops import Shops, read_shops
from jaxrec.dialogue.state import Shown, Wishes
from jaxrec.recommenders.flow.flow import Flow
from jaxrec.recommenders.flow.pipeline import FlowError
from jaxrec.recommenders.flow.reasons import Recommendations

_WIDER = 4  # how much further down is looked, each time


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a conversation wants of a flow. shop: one of several that the flow holds, "" all."""

    query: str = ""
    shop: str = ""
    wishes: Wishes = Wishes()


def recommend_wished(
    flow: Flow,
    wanted: Wanted,
    facts: Mapping[str, Shown],
    *,
    user: str = "",
    k: int = 10,
    why: bool = True,
    shop_of: Callable[[str], str] | None = None,
    shops: Shops | None = None,
) -> Recommendations:
    """The k best items that obey.

    Args:
      flow: of the shop, or of several together.
      wanted: query, shop, wishes.
      facts: price and ingredients by item id; an item that is missing here has no price and only its title.
      user: as the events name them.
      k: how many.
      why: with reasons.
      shop_of: the shop of an item's id, where the flow holds several.
      shops: what words to be avoided stand for; None: the house's own.

    Raises FlowError for k below 1, and for a shop where no `shop_of` tells them apart.
    """
    if wanted.shop and shop_of is None:
        raise FlowError(
            f"a list of the shop {wanted.shop!r} alone needs shop_of: the shop of each item"
        )
    shops = shops or read_shops()
    liked = [item for item in wanted.wishes.liked if item in flow.shop.number]
    size, wide = (
        len(flow.shop.ids),
        k if wanted.wishes == Wishes() and not wanted.shop else _WIDER * k,
    )
    while True:
        wide = min(max(wide, k), max(size, k))
        found = flow.recommend(user, wanted.query, wide, why=why, liked=liked)
        kept, left = [], Counter()
        for one in found:
            if wanted.shop and shop_of is not None and shop_of(one.item) != wanted.shop:
                continue
            fact = facts.get(one.item, Shown(one.item, one.title))
            wrong = broken_wish(fact, wanted.wishes, shops)
            if wrong:
                left[_kind(fact, wanted.wishes)] += 1
            else:
                kept.append(one)
        if len(kept) >= k or wide >= size or len(found) < wide:
            break
        wide *= _WIDER
    if wanted.query and not kept and not left:  # a query by words may meet other shops' items alone
        found = recommend_wished(
            flow, dataclasses.replace(wanted, query=""), facts,
            user=user, k=k, why=why, shop_of=shop_of, shops=shops,
        )  # fmt: skip
        note = f"nothing in {wanted.shop or flow.shop.name} answers {wanted.query[:60]!r}: by taste and popularity"
        return Recommendations(found, user, wanted.query, found.persona, (note, *found.notes))
    notes = [note for note in found.notes if not note.startswith("only ")]
    notes += [f"left out: {count} {kind}" for kind, count in sorted(left.items())]
    if len(kept) < k:
        notes.append(f"only {len(kept)} obey all wishes")
    unpriced = sum(facts.get(one.item, Shown("", "")).price is None for one in kept[:k])
    bounded = wanted.wishes.most is not None or wanted.wishes.least is not None
    if bounded and unpriced:
        notes.append(f"of {unpriced} the price is not known")
    return Recommendations(kept[:k], user, wanted.query, found.persona, tuple(notes))


def shown(found: Recommendations, facts: Mapping[str, Shown]) -> tuple[Shown, ...]:
    """A list as a conversation's state keeps it. facts: as above."""
    return tuple(facts.get(one.item, Shown(one.item, one.title)) for one in found)


def _kind(item: Shown, wishes: Wishes) -> str:
    if item.item in wishes.without:
        return "that may not come"
    alone = dataclasses.replace(wishes, without=(), avoid=())
    return "by price" if broken_wish(item, alone) else f"with {' or '.join(wishes.avoid)}"
