"""Floor 2: what describes a taste in words: categories and brands, or where a shop names none, telling title words."""

from collections import Counter
from collections.abc import Iterator

from jaxrec.data.histories import Histories
from jaxrec.data.interaction_sets import Items
from jaxrec.people.words import words

KINDS = 6  # so many different categories, or brands, tell one taste from another
COMMON = 0.2  # a word in more than this share of all titles tells nothing
# How much, how large and how it is packed: no taste.
MEASURES = frozenset(
    "pack packs packet set sets piece pieces pcs count size sizes small medium large mini inch inches feet foot ounce "
    "ounces pound pounds gram grams liter litre litres millilitre color colour colors black white new gift box case "
    "pair single double edition volume vol with for assorted".split()
)


def taken_terms(rows: Histories, items: Items) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(row's person, terms of an item that they took) for every event, as `fit_personas` reads it.

    Terms are the categories and the brand where the shop has at least `KINDS` different ones; else the words of the
    title without measures, numbers and words that many titles have. Nothing where there are no titles either.
    """
    terms_I = item_terms(items)
    people = rows.user_B[rows.row_T].tolist()
    for person, item in zip(people, rows.item_T.tolist(), strict=True):
        if item < len(terms_I) and terms_I[item]:
            yield person, terms_I[item]


def item_terms(items: Items) -> list[tuple[str, ...]]:
    """The terms of every item; empty where the shop tells nothing of its items."""
    columns: list[list[tuple[str, ...]]] = []
    if items.category and len({kind for kinds in items.category for kind in kinds}) >= KINDS:
        columns.append(list(items.category))
    if items.brand and len(set(items.brand) - {""}) >= KINDS:
        columns.append([(brand,) for brand in items.brand])
    if columns:
        rows = zip(*columns, strict=True)
        return [tuple(term for own in row for term in own if term) for row in rows]
    if not items.title:
        return []
    words_I = [set(words(title)) - MEASURES for title in items.title]
    many = Counter(word for own in words_I for word in own)
    most = max(COMMON * len(words_I), 3)
    return [tuple(sorted(word for word in own if many[word] <= most)) for own in words_I]
