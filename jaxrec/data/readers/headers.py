"""Which column is what: the names that people give to the columns of events and of items.

Names are compared without case, spaces and punctuation ("User-ID", "userId", "user_id" are one). A column goes to the
first line below that has its name; in a line the first name that the table has wins, except that two of the *wide*
names of people, or of items, are a question that is put to who runs it. What is guessed beyond an id (a session for a
person, a name for an item), and which columns are not read, is said once.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxrec.data.readers.raw import DataError, Problems

# The names of the published data sets, in the order in which they are preferred.
PUBLISHED = {
    "user": "user_id user reviewer_id uid user_name customer_id",
    "item": "item_id item movie_id parent_asin asin product_id iid business_id",
    "rating": "rating overall stars score",
    "time": "timestamp unix_review_time time unix_time",
    "review": "review_text text review",
    "summary": "summary review_title",
}
# What else shops call them, and the same in Russian.
_PERSON = (
    "customer client member account buyer shopper visitor person subscriber consumer purchaser reviewer profile "
    "player listener viewer reader guest patient student traveler traveller employee contact owner "
    "пользователь клиент покупатель заказчик читатель зритель"
)
_THING = (
    "item product sku article asin isbn ean gtin upc barcode movie film book video song track artist album game app "
    "anime manga recipe restaurant business hotel place poi venue location news joke course offer good goods listing "
    "property beer wine show series podcast store_item merchandise material part dish "
    "товар продукт артикул фильм книга позиция изделие номенклатура"
)
WIDE = {
    "user": _PERSON,
    "item": _THING,
    "rating": "ratings star star_rating grade mark vote points user_rating review_score review_rating book_rating "
    "review_overall evaluation оценка рейтинг балл баллы звезды звёзды",
    "time": "datetime date_time date when ts created_at created ordered_at order_date order_time purchased_at "
    "purchase_date event_time event_date review_time review_date rating_date rated_at rating_time time_stamp "
    "timestamp_ms timestamp_s t_dat date_added added_at submitted_at reviewed_at played_at viewed_at clicked_at "
    "invoice_date transaction_date visit_time at day date_time_utc submit_date at_time "
    "дата время дата_заказа дата_покупки дата_отзыва дата_время когда момент",
    "review": "review_body comment comments body content review_content отзыв комментарий текст текст_отзыва",
    "summary": "review_headline headline review_summary заголовок_отзыва",
}
# Taken where there is nothing better, and said.
LAST = {
    "user": "username login email e_mail nickname nick phone customer_name client_name user session session_id "
    "sid visit_id visitor_key cookie device device_id household household_key playlist playlist_id "
    "логин почта телефон имя фио сессия",
    "item": "product_name item_name product_title item_title movie_title book_title title name product_url url link "
    "название наименование",
}
FACTS = {
    "title": "title name {}_title {}_name {} label headline original_title full_name "
    "название наименование заголовок имя название_{} наименование_{} {}",
    "brand": "brand brand_name {}_brand store manufacturer author authors {}_author {}_authors maker vendor publisher "
    "artist artist_name studio "
    "developer director seller бренд автор авторы производитель марка издатель режиссер режиссёр",
    "category": "category categories genre genres class category_name {}_category main_category product_type "
    "department section type tags group категория категории жанр жанры раздел рубрика группа тип",
    "description": "description desc about details overview plot synopsis abstract product_description text "
    "описание аннотация содержание",
    "price": "price cost list_price unit_price amount retail_price цена стоимость",
    "year": "release_year year publication_year year_of_publication released release_date year_of_release год "
    "год_издания год_выпуска",
}
# In a table of events only names that leave no doubt are facts of the item; those below where nobody reviews.
FACTS_OF_EVENTS = {
    "title": "product_title item_title movie_title book_title product_name item_name movie_name название_товара",
    "category": "product_category item_category",
    "brand": "product_brand item_brand",
    "price": "product_price item_price",
}
FACTS_UNREVIEWED = {
    "title": "title",
    "category": "category categories genre genres",
    "brand": "brand",
}
ENDS = ("", "id", "ids", "key", "code", "no", "nr", "num", "number", "uuid", "guid", "ref", "index")
STARTS = ("", "id", "ид", "код", "номер")
_CODES = ("sku", "asin", "isbn", "ean", "gtin", "upc", "article", "артикул")
NONE = "none"  # data.time none: the table has such a column, and it is not read


class Columns(NamedTuple):
    """Where in a row each thing stands; None where the table has it not."""

    user: int
    item: int
    rating: int | None = None
    time: int | None = None
    review: int | None = None
    summary: int | None = None


def plain(name: str) -> str:
    """A column's name without case, spaces and punctuation; ё is е."""
    name = unicodedata.normalize("NFKC", name).casefold().replace("ё", "е")
    return re.sub(r"[\W_]+", "", name)


def _plain_all(names: str) -> list[str]:
    return list(dict.fromkeys(plain(name) for name in names.split()))


def _with_ids(names: str) -> set[str]:
    """ "customer": customer, customers, customer_id, id_customer, customer_code ..."""
    made = set()
    for name in _plain_all(names):
        made |= {name + end for end in ENDS} | {start + name for start in STARTS} | {name + "s"}
        # The Russian genitive: код_товара, номер_клиента.
        made |= {start + name + "а" for start in STARTS[1:]} | {
            start + name[:-1] + "я" for start in STARTS[1:]
        }
    return made


_WIDE_IDS = {what: _with_ids(WIDE[what]) for what in ("user", "item")}


def _candidates(what: str, header: Sequence[str]) -> tuple[list[int], str]:
    """Columns that may be it, best first, and the tier that they come from."""
    keys = [plain(name) for name in header]
    tiers = {"published": _plain_all(PUBLISHED[what])}
    if what in _WIDE_IDS:
        wide = [i for i, key in enumerate(keys) if key in _WIDE_IDS[what]]
    else:
        wide = [keys.index(name) for name in _plain_all(WIDE[what]) if name in keys]
    found = [keys.index(name) for name in tiers["published"] if name in keys]
    if found:
        return found, "published"
    if wide:
        return wide, "wide"
    return [keys.index(n) for n in _plain_all(LAST.get(what, "")) if n in keys], "last"


def columns_of(
    header: Sequence[str],
    named: Mapping[str, str],
    path: Path,
    problems: Problems,
    facts: bool = True,
) -> Columns:
    """The columns of a table of events by its header.

    header: the names. named: columns by meaning ("user", "item", "rating", "time"), as the configuration gives them.
    path: of the file, for messages. problems: is told of guesses and of columns that are not read. facts: whether those
    of `fact_places` are.
    Raises DataError where a named column is not there, or which is the user or the item is not clear.
    """
    header = [name.strip() for name in header]
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    taken: dict[str, int | None] = {}
    for what in PUBLISHED:
        wanted = named.get(what, "")
        if wanted == NONE and what not in ("user", "item"):
            taken[what] = None
        elif wanted:
            taken[what] = _named(header, what, wanted, path, repeated)
    for what in PUBLISHED:
        if what in taken:
            continue
        found, tier = _candidates(what, header)
        found = [i for i in found if i not in taken.values()]
        if what in ("user", "item"):
            _settle(what, found, tier, header, path, problems)
        if found and header[found[0]] in repeated:
            _refuse_repeated(header[found[0]], what, path)
        taken[what] = found[0] if found else None
    columns = Columns(**taken)  # type: ignore[arg-type]
    told = fact_places(header, columns) if facts else {}
    read = {what: i for what, i in columns._asdict().items() if i is not None} | told
    left = [name or f"column {i}" for i, name in enumerate(header) if i not in read.values()]
    if left or any(
        plain(header[i]) not in _plain_all(PUBLISHED.get(what, "")) for what, i in read.items()
    ):
        shown = ", ".join(f"{what} = {header[i]!r}" for what, i in read.items())
        problems.say(f"{path.name}: {shown}" + (f"; not read: {', '.join(left)}" if left else ""))
    return columns


def fact_places(header: Sequence[str], columns: Columns) -> dict[str, int]:
    """Where a table of events tells something of its items."""
    unreviewed = (
        columns.review is None and columns.summary is None
    )  # else "title" may be a review's
    found = {}
    for what, names in FACTS_OF_EVENTS.items():
        more = FACTS_UNREVIEWED.get(what, "") if unreviewed else ""
        place = first_of(header, f"{names} {more}")
        if place is not None and place not in columns:
            found[what] = place
    return found


def names_events(header: Sequence[str]) -> bool:
    """Whether a row holds names of columns of people and of items, and so is a header."""
    return all(_candidates(what, header)[0] for what in ("user", "item"))


def names_anything(header: Sequence[str], named: Mapping[str, str]) -> bool:
    """Whether a row holds a name of a column that is known, or that the configuration gives."""
    cells = {cell.strip() for cell in header}
    if any(place and not place.isdigit() and place in cells for place in named.values()):
        return True
    return any(_candidates(what, header)[0] for what in PUBLISHED)


def item_ids(header: Sequence[str]) -> list[int]:
    """Columns that may be the id of an item, best first; those that end in "id", "code" and so on before others."""
    keys = [plain(name) for name in header]
    found, _ = _candidates("item", header)
    ended = (*filter(None, ENDS), *_CODES)
    begun = tuple(filter(None, STARTS))
    return sorted(found, key=lambda i: not (keys[i].endswith(ended) or keys[i].startswith(begun)))


def first_of(header: Sequence[str], names: str) -> int | None:
    """The place of the first of some names ("{}" stands for what an item may be called) in a header."""
    keys = [plain(name) for name in header]
    for name in names.split():
        for thing in _plain_all(_THING) if "{}" in name else [""]:
            if (key := plain(name.replace("{}", thing))) in keys:
                return keys.index(key)
    return None


def _settle(
    what: str, found: list[int], tier: str, header: Sequence[str], path: Path, problems: Problems
) -> None:
    there = ", ".join(name or f"column {i}" for i, name in enumerate(header))
    if not found:
        raise DataError(
            f"{path}: which column is the {what}? There are: {there}; say it by --data.{what} COLUMN"
        )
    names = [header[i] for i in found]
    if what == "item" and tier == "last":  # a bare id beside a name: the item's, or the row's?
        names += [name for name in header if plain(name) in ("id", "ид", "код")]
    if (tier == "wide" and len(found) > 1) or len(names) > len(found):
        raise DataError(
            f"{path}: which column is the {what}, {' or '.join(names)}? There are: {there}; say it by "
            f"--data.{what} COLUMN"
        )
    if tier == "last":
        problems.say(
            f"{path.name}: column {names[0]!r} is taken for the {what} (--data.{what} COLUMN settles it)"
        )


def _named(
    header: Sequence[str], what: str, wanted: str, path: Path, repeated: Sequence[str]
) -> int:
    if wanted in repeated:
        _refuse_repeated(wanted, what, path)
    if wanted in header:
        return header.index(wanted)
    same = [i for i, name in enumerate(header) if plain(name) == plain(wanted)]
    if len(same) == 1:
        return same[0]
    raise DataError(
        f"{path}: no column {wanted!r}; there are: {', '.join(filter(None, header))} (--data.{what} COLUMN)"
    )


def _refuse_repeated(name: str, what: str, path: Path) -> None:
    raise DataError(
        f"{path}: two columns are called {name!r}: rename the one that is not the {what}"
    )
