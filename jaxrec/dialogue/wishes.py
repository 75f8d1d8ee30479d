"""Floor 3: what a message asks of the next list: a price, an item that may not come, a thumb. English and Russian.

    change = read_wishes("not the second one, and cheaper", state.shown)
    wishes = change.on(state.wishes)

"Cheaper" is cheaper than the item that is meant, without one than half of what was shown; where something is guessed
("this one" of a list of five is the first), `Change.notes` says so.
"""

import dataclasses
import re
import statistics
from collections.abc import Sequence

from jaxrec.dialogue.state import Shown, Wishes
from jaxrec.words import words

_NUMBER = r"(?:[£$€₽]\s?)?(\d{1,7}(?:[ \u00a0]\d{3})*(?:[.,]\d{1,2})?)(?:\s?([kк])\b)?"
# not a price: a time of day, a number of people, days or things
_NO_PRICE = (
    r"(?![\d:]|\s*(?:am|pm|o'clock|час|утра|вечера|числа|people|persons|человек|minutes|min\b|минут|days|дней|items"
    r"|штук))"
)
_MOST = re.compile(
    r"(?:\b(?:under|below|less\s+than|cheaper\s+than|up\s+to|at\s+most|no\s+more\s+than|not\s+more\s+than"
    r"|max(?:imum)?(?:\s+of)?|within|budget(?:\s+(?:is|of))?|до|дешевле|не\s+дороже|не\s+больше|не\s+более|меньше"
    rf"|максимум|бюджет)|<)\s*:?\s*{_NUMBER}{_NO_PRICE}",
    re.IGNORECASE,
)
_LEAST = re.compile(
    r"(?:\b(?:over|above|more\s+than|at\s+least|no\s+less\s+than|not\s+less\s+than|starting\s+at|дороже|от"
    rf"|не\s+меньше|не\s+дешевле|минимум)|>)\s*{_NUMBER}{_NO_PRICE}",
    re.IGNORECASE,
)
_BETWEEN = re.compile(
    rf"(?:\bbetween\s+{_NUMBER}\s+and\s+{_NUMBER}|\bfrom\s+{_NUMBER}\s+(?:to|up\s+to)\s+{_NUMBER}"
    rf"|\bот\s+{_NUMBER}\s+до\s+{_NUMBER}"
    rf"|(?<![\d-]){_NUMBER}\s?[-–—]\s?{_NUMBER}\s?(?:pounds|dollars|euros?|рубл|р\b|£|\$|€|₽)){_NO_PRICE}",
    re.IGNORECASE,
)
_ANY_PRICE = re.compile(
    r"\b(?:any\s+price|price\s+(?:does\s+not|doesn'?t)\s+matter|whatever\s+(?:it|the\s+price)\s*(?:costs?|is)?|money\s+is\s+no\s+object"
    r"|любая\s+цена|цена\s+не\s+важна|неважно,?\s+сколько\s+стоит)\b",
    re.IGNORECASE,
)
_CHEAPER = re.compile(
    r"\b(?:cheaper|less\s+expensive|lower\s+price|too\s+(?:expensive|dear|much)|more\s+affordable"
    r"|(?:по)?дешевле|не\s+так\s+дорого|слишком\s+дорог\w*|подешевле)\b",
    re.IGNORECASE,
)
_DEARER = re.compile(
    r"\b(?:more\s+expensive|pricier|dearer|fancier|too\s+cheap|(?:по)?дороже|слишком\s+дёшево|слишком\s+дешево)\b",
    re.IGNORECASE,
)
_OTHERS = re.compile(
    r"\b(?:another(?:\s+one)?|others?|something\s+else|anything\s+else|different\s+(?:ones?|list)|none\s+of\s+(?:these|them|those)"
    r"|not\s+(?:these|those|any\s+of\s+(?:them|these))|more\s+(?:options|ideas|suggestions)|what\s+else|next\s+ones?"
    r"|друг(?:ой|ое|ую|ие|их|ого)|что-(?:нибудь|то)\s+ещ[её]|ещ[её]\s+(?:варианты|что-нибудь|идеи)|не\s+эти|ни\s+один|ничего\s+из\s+этого|остальные)\b",
    re.IGNORECASE,
)
_THIS = re.compile(r"\b(?:this|that|it|это|этот|эта|эту|его|её|этого)\b", re.IGNORECASE)
_NOT = re.compile(
    r"\b(?:not|no|without|except|exclude|remove|drop|skip|hide|hate|dislike|(?:don'?t|do\s+not)\s+(?:like|want|need)|never|rather\s+not"
    r"|не|без|кроме|убери(?:те)?|убрать|исключи(?:те)?|ненавижу)\b|👎|🙅|😡",
    re.IGNORECASE,
)
_LIKE = re.compile(
    r"\b(?:like|love|good|great|perfect|nice|yes|take|нравится|люблю|отлично|хорош\w*|супер|беру)\b|👍|❤️?|😍|🙏",
    re.IGNORECASE,
)
_THUMB_UP, _THUMB_DOWN = re.compile("👍|❤|😍"), re.compile("👎|🙅|😡")
_ORDINALS = (
    *(r"first|1st|перв\w+", r"second|2nd|втор\w+", r"third|3rd|трет(?:ий|ь\w+)", r"fourth|4th|четв[её]рт\w+"),
    *(r"fifth|5th|пят(?:ый|ая|ое|ую|ого|ой)", r"sixth|6th|шест(?:ой|ая|ое|ую|ого)", r"seventh|7th|седьм\w+"),
    *(r"eighth|8th|восьм(?:ой|ая|ое|ую|ого)", r"ninth|9th|девят(?:ый|ая|ое|ую|ого)"),
    r"tenth|10th|десят(?:ый|ая|ое|ую|ого)",
)  # fmt: skip
_PLACES = [re.compile(rf"\b(?:{one})\b", re.IGNORECASE) for one in _ORDINALS]
_PLACE = re.compile(
    r"(?:\b(?:number|no\.?|item|option|номер|вариант|пункт)\s*|#|№\s?|👍\s?|👎\s?)(\d{1,2})\b",
    re.IGNORECASE,
)
_LAST = re.compile(r"\b(?:the\s+last(?:\s+one)?|последн\w+)\b", re.IGNORECASE)
_LIST_OF_WORDS = (
    r"((?:[^\W\d_]+(?:-[^\W\d_]+)*)(?:(?:\s*,\s*|\s+(?:and|or|nor|и|или|ни)\s+)(?:[^\W\d_]+)){0,4})"
)
_AVOID = re.compile(
    r"\b(?:without(?:\s+any)?|no|free\s+of|free\s+from|allergic\s+to|allergy\s+to|allergies:?|intolerant\s+(?:to|of)"
    r"|(?:do\s+not|don'?t|can'?t|cannot|never)\s+(?:eat|drink|have|stand|tolerate)|без|аллергия\s+на|аллергик\s+на"
    rf"|непереносимость|не\s+(?:ем|пью|едим|переношу|могу\s+есть))\s+{_LIST_OF_WORDS}",
    re.IGNORECASE,
)
_FREE = re.compile(r"\b([^\W\d_]+)[\s-]free\b", re.IGNORECASE)
_JOINTS = re.compile(r"\s*,\s*|\s+(?:and|or|nor|и|или|ни)\s+", re.IGNORECASE)
_NO_FOOD = set(
    "the a an this that these those it them one ones thanks thank problem need more less idea matter worries way any "
    "all longer doubt sorry rush hurry wait please i we you price my me much so too very really yes no other others "
    "этого него проблем спасибо разницы меня вас нас этой них дороже больше меньше сомнений очереди".split()
)
_THE_ONE = re.compile(r"\b(?:the\s+(?:\w+\s+){1,3}ones?|why|почему)\b", re.IGNORECASE)
_PATTERNS = (
    *(
        _BETWEEN,
        _ANY_PRICE,
        _MOST,
        _LEAST,
        _CHEAPER,
        _DEARER,
        _OTHERS,
        _AVOID,
        _FREE,
        _LAST,
        _NOT,
        _LIKE,
    ),
    _THIS,
)
_LITTLE = set("the a an with and of in for to on or set one без с и на для из в".split())


@dataclasses.dataclass(frozen=True)
class Change:
    """What a message does to the wishes. Prices: None leaves them, `any_price` takes both away.

    without, liked, disliked: ids. avoid: words. others: all that was shown may not come again. notes: what was guessed.
    """

    most: float | None = None
    least: float | None = None
    any_price: bool = False
    without: tuple[str, ...] = ()
    liked: tuple[str, ...] = ()
    disliked: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    others: bool = False
    notes: tuple[str, ...] = ()
    unpriced: bool = False  # "cheaper", but there is no price to go by

    @property
    def is_any(self) -> bool:
        """Whether it changes anything."""
        return self != Change(notes=self.notes, unpriced=self.unpriced)

    def on(self, wishes: Wishes) -> Wishes:
        """The wishes after this change. A bound that would leave no price moves the other one away."""
        most = None if self.any_price else self.most if self.most is not None else wishes.most
        least = None if self.any_price else self.least if self.least is not None else wishes.least
        if most is not None and least is not None and least > most:
            most, least = (most, None) if self.least is None else (None, least)
        together = lambda old, new: tuple(dict.fromkeys([*old, *new]))
        disliked = set(self.disliked)
        liked = [one for one in together(wishes.liked, self.liked) if one not in disliked]
        back = set(self.liked)
        return Wishes(
            most,
            least,
            tuple(
                x
                for x in together(wishes.without, (*self.without, *self.disliked))
                if x not in back
            ),
            together(wishes.avoid, self.avoid),
            tuple(liked),
            tuple(x for x in together(wishes.disliked, self.disliked) if x not in back),
        )


def read_wishes(text: str, shown: Sequence[Shown] = (), focus: str = "") -> Change:
    """What a message asks of the next list.

    text: the message. shown: the list that it may point into. focus: the item (id) that "this" means, "" unknown.
    """
    notes: list[str] = []
    most, least = _bounds(text)
    avoid = _avoided(text)
    meant = pointed(text, shown, besides=avoid)
    not_liked, liked = _feelings(text, meant, shown, focus, notes)
    unpriced = False
    if most is None and least is None and (_CHEAPER.search(text) or _DEARER.search(text)):
        than = [one for one in meant or shown if one.price is not None]
        unpriced = not than
        if than:
            middle = statistics.median(one.price for one in than)
            if _CHEAPER.search(text):
                most = _below(middle)
                notes.append(f"cheaper: below {middle:g}")
            else:
                least = middle + 0.01
                notes.append(f"dearer: above {middle:g}")
        # "the second is too expensive" is no dislike of it, its price alone rules it out
        not_liked = []
    others = bool(_OTHERS.search(text)) and not meant and bool(shown)
    without = tuple(one.item for one in shown) if others else ()
    thumbs = _THUMB_DOWN.search(text) is not None
    return Change(
        most,
        least,
        bool(_ANY_PRICE.search(text)),
        (*without, *(() if thumbs else not_liked)),
        tuple(liked),
        tuple(not_liked) if thumbs else (),
        avoid,
        others,
        tuple(notes),
        unpriced,
    )


def pointed(text: str, shown: Sequence[Shown], besides: Sequence[str] = ()) -> list[Shown]:
    """The items of a list that a message names: by place ("the second"), or by words that only their titles have.

    besides: words that are said of something else ("without nuts" is not about the nut bar alone).
    """
    places = {i for i, one in enumerate(_PLACES) if one.search(text)}
    places |= {int(found[1]) - 1 for found in _PLACE.finditer(text)}
    if _LAST.search(text) and shown:
        places.add(len(shown) - 1)
    found = [shown[i] for i in sorted(places) if 0 <= i < len(shown)]
    if found or not shown:
        return found
    said = {word for word in words(text) if word not in _LITTLE} - set(besides)
    titles = [set(words(one.title)) - _LITTLE for one in shown]
    singles_out = bool(_THE_ONE.search(text))
    for one, title in zip(shown, titles, strict=True):
        own = {word for word in title if sum(word in other for other in titles) == 1}
        if said & own and (singles_out or len(said & title) * 2 >= len(title)):
            found.append(one)
    return found


def beside_wishes(text: str, shown: Sequence[Shown] = ()) -> list[str]:
    """The words of a message that are no wish about a list: what else it is about.

    shown: the list, whose titles are no topic of their own where the message points into it.
    """
    meant = pointed(text, shown, besides=_avoided(text))
    for pattern in (*_PATTERNS, *_PLACES, _PLACE):
        text = pattern.sub(" ", text)
    titles = {word for one in meant for word in words(one.title)}
    return [word for word in words(text) if word not in titles]


# ------------------------------------------------------------------------------------------ inside


def _number(digits: str, thousand: str | None) -> float:
    plain = re.sub(r"[ \u00a0]", "", digits).replace(",", ".")
    return float(plain) * (1000 if thousand else 1)


def _bounds(text: str) -> tuple[float | None, float | None]:
    """(most, least) as they are said in numbers; None where nothing is said."""
    if both := _BETWEEN.search(text):
        said = [part for part in both.groups()]
        numbers = [
            _number(said[i], said[i + 1]) for i in range(0, len(said), 2) if said[i] is not None
        ]
        return max(numbers), min(numbers)
    most, least = _MOST.search(text), _LEAST.search(text)
    if least and most and least.start() <= most.start() < least.end():
        least = None
    if most and least and most.start() <= least.start() < most.end():
        least = None  # "no more than 5" also has "more than 5" in it
    return (
        _number(most[1], most[2]) if most else None,
        _number(least[1], least[2]) if least else None,
    )


def _below(price: float) -> float:
    """The highest price that is below this one, in hundredths."""
    return round(price - 0.01, 2)


def _feelings(
    text: str, meant: Sequence[Shown], shown: Sequence[Shown], focus: str, notes: list[str]
) -> tuple[list[str], list[str]]:
    """(items that may not come, items liked), by id."""
    against, for_it = _NOT.search(text), _LIKE.search(text)
    if meant:
        ids = [one.item for one in meant]
        if against:
            return ids, []
        return ([], ids) if for_it else ([], [])
    if not shown:
        return [], []
    bare = _THUMB_UP.search(text) or _THUMB_DOWN.search(text)
    if not (bare or (_THIS.search(text) and (against or for_it))):
        return [], []
    if (
        against
        and not bare
        and not re.search(
            r"\b(?:not|no|without|remove|drop|skip|hide|hate|dislike|like|want|не|без|убери(?:те)?|ненавижу)\b[^.,!?]{0,20}"
            r"\b(?:this|that|it|это|этот|эта|эту|его|её|этого)\b",
            text,
            re.IGNORECASE,
        )
    ):
        return [], []
    one = focus if any(focus == item.item for item in shown) else shown[0].item
    if len(shown) > 1 and one != focus:
        notes.append(
            f"which of {len(shown)} items is meant was not said: read as the first, {shown[0].title}"
        )
    return ([one], []) if against else ([], [one])


def _avoided(text: str) -> tuple[str, ...]:
    """The words that no item may have."""
    found = [part for run in _AVOID.finditer(text) for part in _JOINTS.split(run[1])]
    found += [free[1] for free in _FREE.finditer(text)]
    first = [(words(part) or [""])[0] for part in found]
    is_place = lambda word: any(place.fullmatch(word) for place in _PLACES) or _LAST.fullmatch(word)
    kept = [word for word in first if len(word) > 2 and word not in _NO_FOOD and not is_place(word)]
    return tuple(dict.fromkeys(kept))
