"""The next list obeys what was said, in the sample world's three shops: through the machine and a fitted flow."""

import statistics

import pytest

from jaxrec.dialogue.checks import broken_wish
from jaxrec.dialogue.machine import Talk, hear
from jaxrec.dialogue.memory import said
from jaxrec.dialogue.shops import read_shops
from jaxrec.dialogue.state import DialogueState, Shown, Wishes
from jaxrec.recommenders.flow import Flow, FlowConfig, FlowError
from jaxrec.recommenders.flow.wished import Wanted, recommend_wished, shown
from jaxrec.world.events import interaction_set
from jaxrec.world.shops import make_shops

pytestmark = pytest.mark.slow  # a flow is fitted: some six CPU seconds
HEALTH = {"vitamins", "protein", "fitness", "wellness", "bath"}
TALK = Talk()


@pytest.fixture(scope="module")
def world():
    """(flow over all three shops, facts of its items, the shop of each)."""
    shops = make_shops(people=40)
    flow = Flow.fit(interaction_set(shops), FlowConfig(encoder="none"), progress=False)
    catalog, facts, place = shops.catalog, {}, {}
    for i, (shop, kind) in enumerate(zip(catalog.shop, catalog.category, strict=True)):
        name = f"item_{i:03d}"
        facts[name] = Shown(
            name, catalog.title[i], float(catalog.price_I[i]), catalog.description[i]
        )
        goods = "health" if kind in HEALTH else "goods"
        place[name] = goods if shop == "market" else "food"
    return flow, facts, place


def listed(world, state: DialogueState, message: str, k: int = 5):
    """The state after a message and the list that it got, and that list."""
    flow, facts, place = world
    state, action = hear(TALK, state, message)
    assert action.kind == "recommend", (message, action)
    wanted = Wanted(action.query, action.shop, action.wishes)
    found = recommend_wished(
        flow, wanted, facts, user="person_003", k=k, why=False, shop_of=place.get
    )
    items = shown(found, facts)
    return said(state, "a list", shown=items), items


@pytest.mark.parametrize(
    ("shop", "asked", "avoid"),
    [
        ("food", "I want something to eat", "nuts"),
        ("goods", "find me a gift", "ceramic"),
        ("health", "I need something healthy", "sugar"),
    ],
)
def test_each_wish_is_obeyed_at_once_in_each_shop(world, shop, asked, avoid):
    _, _, place = world
    state, first = listed(world, DialogueState("c"), asked)
    assert first and {place[one.item] for one in first} == {shop}
    state, cheaper = listed(world, state, "cheaper")
    middle = statistics.median(one.price for one in first)
    assert cheaper and all(one.price < middle for one in cheaper)
    state, without = listed(world, state, "not the first one, please")
    assert without and cheaper[0].item not in {one.item for one in without}
    state, thumbed = listed(world, state, "👎")
    assert (
        without[0].item not in {one.item for one in thumbed}
        and without[0].item in state.wishes.disliked
    )
    state, others = listed(world, state, "show me others")
    assert not {one.item for one in others} & {
        one.item for one in (*thumbed, *without[:1], *cheaper[:1])
    }
    state, last = listed(world, state, f"without {avoid}")
    assert state.wishes.avoid == (avoid,)
    for one in last:  # all that was ever said still holds
        assert not broken_wish(one, state.wishes) and one.price < middle and place[one.item] == shop
        assert not read_shops().forbidden([avoid], f"{one.title} {one.text}")


def test_nothing_is_relaxed_and_what_is_left_out_is_said(world):
    flow, facts, _ = world
    found = recommend_wished(flow, Wanted(wishes=Wishes(most=0.01)), facts)
    assert not found and "only 0 obey all wishes" in found.notes
    assert any(note.endswith("by price") for note in found.notes)
    free = recommend_wished(flow, Wanted(), facts, user="person_003", why=False)
    assert [o.item for o in free] == [o.item for o in flow.recommend("person_003", k=10, why=False)]
    blind = recommend_wished(flow, Wanted(wishes=Wishes(most=5.0)), {}, k=3)
    assert len(blind) == 3 and "of 3 the price is not known" in blind.notes
    foreign = recommend_wished(flow, Wanted("vitamin", "food"), facts, k=3, shop_of=world[2].get)
    assert len(foreign) == 3 and foreign.notes[0].startswith("nothing in food answers 'vitamin'")
    with pytest.raises(FlowError, match="needs shop_of"):
        recommend_wished(flow, Wanted(shop="food"), facts)
    with pytest.raises(FlowError):
        recommend_wished(flow, Wanted(), facts, k=0)
