"""Where the answers stand in a conversation that a chat template has written, as characters of its text.

A template may trim what is said, merge messages, strip the thoughts of earlier turns, or write a mark at the end of
all: what it wrote of some messages need not be how it writes more of them. So an answer is found by its difference:
the whole is written again with another text in the answer's place, and what differs is what it says.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

from jaxrec.data.message import Message, spoken_of, with_text

Span = tuple[int, int]
Render = Callable[[Sequence[Message], bool], str]  # (messages, whether an answer is opened) -> text

# Two, that share neither their first nor their last letter: what both share with the text is not the answer's.
_OTHERS = ("Kq7xanswerJ4w", "zv3manswer9Td")


class Untold(ValueError):
    """What of the text is an answer cannot be told."""


@dataclasses.dataclass(frozen=True)
class _Place:
    span: Span
    exact: bool  # the other texts stood there, and nothing else differed


def answer_span(
    render: Render, messages: Sequence[Message], i: int, whole: str, opens: bool
) -> Span:
    """(start, stop) of what the assistant says in message i of `whole`, without what ends it.

    render: writes messages as text; `whole` is what it writes of all. opens: whether the template writes anything
    where an answer is opened. From there on all is the answer's, such as the marks of thoughts.
    Raises Untold where it cannot be told: nothing is learned that the assistant may not have said.
    """
    spoken = bool(spoken_of(messages[i]))
    if spoken:  # calls may stand anywhere about the text, and tools' answers close to them
        with contextlib.suppress(Untold):
            return _prefix(render, messages, i, whole, opens)
    place = _difference(render, messages, i, whole)
    if place is None:
        return _prefix(render, messages, i, whole, opens)
    start, stop = place.span
    if spoken or not place.exact:
        _check_neighbours(render, messages, i, whole, place.span)
    before = _text(render, messages[:i], True)
    if before is not None and len(before) <= start and whole.startswith(before):
        opened = opens and before != _text(render, messages[:i], False)
        if not whole[len(before) : start].strip() or opened:
            start = len(before)
    return start, stop


def opening_text(render: Render, messages: Sequence[Message], opens: bool) -> str:
    """The text up to where the assistant speaks, for templates that have no opening of their own, too."""
    before = render(messages, True)
    if opens:
        return before
    text = _text(render, [*messages, ("assistant", _OTHERS[0])], False)
    if text is None or text.count(_OTHERS[0]) != 1:
        return before
    head = text[: text.index(_OTHERS[0])]
    longer = head.startswith(before) and head[len(before) :].strip()
    return head if longer else before


# ------------------------------------------------------------------------------------------------- tokens


def meet(a: Span, b: Span) -> bool:
    """Whether two spans share a character."""
    return a[0] < b[1] and b[0] < a[1]


def overlapping(places: Sequence[Span], spans: Sequence[Span]) -> list[float]:
    """The loss of every token: it is learned where it has a character in a span, as transformers' masks have it."""
    return [float(any(meet(place, span) for span in spans)) for place in places]


def inside(places: Sequence[Span], spans: Sequence[Span]) -> list[float]:
    """The loss of every token: it is learned where it lies wholly in a span."""
    return [float(any(s <= a < b <= e for s, e in spans)) for a, b in places]


def up_to_ends(
    ids: list[int], places: Sequence[Span], spans: Sequence[Span], ends: set[int], whole: str
) -> tuple[list[float], bool]:
    """(the loss of every token, whether the last answer ends by one of `ends`).

    ids, places: of the tokens of `whole`; spans: the answers in it; ends: ids that end an answer.
    A token is learned that lies in a span, or whose characters outside of it are white space; behind a span the end
    token and the white space before it; in a span nothing behind its first end token.
    """
    loss, ended = [0.0] * len(ids), False
    for start, stop in spans:
        behind, ended = [], False
        for i, (a, b) in enumerate(places):
            if b <= start or a == b:
                continue
            outside = whole[a : max(a, start)] + whole[min(b, stop) : b]
            if a >= stop:
                behind.append(i)
                if ids[i] in ends:
                    ended = True
                elif not whole[a:b].strip():
                    continue
                break
            if not outside.strip():
                loss[i] = 1.0
                if ids[i] in ends:
                    behind, ended = [], True
                    break
        if ended:
            for i in behind:
                loss[i] = 1.0
    return loss, ended


# ------------------------------------------------------------------------------------------------- inside


def _difference(render: Render, messages: Sequence[Message], i: int, whole: str) -> _Place | None:
    """Where the text depends on message i; None where a template won't write another text there, or writes it twice.

    Its calls and thoughts are taken out along with its text. Raises Untold for a message that is left out, or cut.
    """
    texts = []
    for other in _OTHERS:
        changed = [*messages[:i], with_text(messages[i], other), *messages[i + 1 :]]
        if (text := _text(render, changed, False)) is None:
            return None
        if other not in text:
            raise Untold(_rewritten(i))
        if text.count(other) > 1:
            return None
        texts.append(text)
    start = min(_common_start(whole, text) for text in texts)
    tail = min(_common_start(whole[::-1], text[::-1]) for text in texts)
    stop = len(whole) - tail
    middles = [text[start : len(text) - tail] for text in texts]
    if stop < start or any(o not in middle for o, middle in zip(_OTHERS, middles, strict=True)):
        return None
    return _Place((start, stop), middles == list(_OTHERS))


def _check_neighbours(
    render: Render, messages: Sequence[Message], i: int, whole: str, span: Span
) -> None:
    """Raises Untold where the texts of the messages around this one lie in its span, or cannot be told from it."""
    following = i + 1
    while following < len(messages) and messages[following][0] == "tool":
        following += 1
    for j in (i - 1, *range(i + 1, following + 1)):
        if not 0 <= j < len(messages) or not messages[j][1].strip():
            continue
        try:
            place = _difference(render, messages, j, whole)
        except Untold:
            continue  # the template leaves it out, or most of it
        if place is None or (place.span[0] < span[1] and span[0] < place.span[1]):
            raise Untold(_rewritten(i))


def _prefix(render: Render, messages: Sequence[Message], i: int, whole: str, opens: bool) -> Span:
    """By the texts of the conversation before the answer, and with it."""
    before, until = _text(render, messages[:i], True), _text(render, messages[: i + 1], False)
    if not opens or before is None or until is None or before == _text(render, messages[:i], False):
        raise Untold(_rewritten(i))
    if not (until.startswith(before) and whole.startswith(until)):
        raise Untold(_rewritten(i))
    return len(before), len(until)


def _rewritten(i: int) -> str:
    return f"the chat template rewrites message {i} when more follows: what is an answer in it cannot be told"


def _text(render: Render, messages: Sequence[Message], answer_next: bool) -> str | None:
    try:
        return render(messages, answer_next)
    except ValueError:
        return None


def _common_start(a: str, b: str) -> int:
    """How many characters both begin with; by halving, as comparing slices is quick and comparing letters is not."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
