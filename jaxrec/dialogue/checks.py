"""Floor 3: an answer held against the dialogue and the profile before anybody reads it, and a list against the wishes.

    faults = check_answer(text, state, known=items)      # what is wrong, each with its words; () nothing
    text = mended(text, faults, state.language)           # without the sentences that are wrong, or a fallback

What people said (a price, an item that may not come, an allergen, an order's number) is the measure; whether an answer
is true of the shop's documents is another matter (grounding). An allergen is a matter of words: a title that does not
name what is in it passes, so a shop that knows its ingredients gives them in `Shown.text`.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from jaxrec.dialogue.language import Detect, script_of, sentences
from jaxrec.dialogue.phrases import phrase
from jaxrec.dialogue.shops import Shops, read_shops
from jaxrec.dialogue.state import DialogueState, Shown, Wishes
from jaxrec.words import words

Kind = Literal["empty", "excluded", "price", "avoid", "order", "link", "language", "repeated"]
_PRICE = re.compile(
    r"[£$€₽]\s?(\d+(?:[.,]\d{1,2})?)|(\d+(?:[.,]\d{1,2})?)\s?(?:pounds|dollars|euros|руб\w*|₽|€|£|\$)",
    re.IGNORECASE,
)
_LINK = re.compile(
    r"(?:https?://|www\.)[^\s)>\]]+|!?\[[^\]]*\]\([^)\s]+\)|\b[\w.+-]+@[\w-]+\.[\w.]+\b",
    re.IGNORECASE,
)
_ORDER = re.compile(
    r"(?:order|заказ\w*)\s*(?:number|номер)?\s*[#№]?\s*([A-Za-z]{0,3}-?\d{3,12})\b", re.IGNORECASE
)
_DENIES = re.compile(
    r"\b(?:no|not|without|free|instead|avoid|never|contains?\s+no|без|не|нет|вместо|кроме)\b",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is wrong with an answer. where: the sentence that is, "" all of it. what: in words, for a log."""

    kind: Kind
    where: str
    what: str


def broken_wish(item: Shown, wishes: Wishes, shops: Shops | None = None) -> str:
    """Why an item may not come, "" where it may. An item without a price breaks no bound; it can't be judged.

    shops: what words to be avoided stand for; None: the house's own.
    """
    if item.item in wishes.without:
        return f"{item.title} may not come"
    if item.price is not None and wishes.most is not None and item.price > wishes.most:
        return f"{item.title} costs {item.price:g}, more than {wishes.most:g}"
    if item.price is not None and wishes.least is not None and item.price < wishes.least:
        return f"{item.title} costs {item.price:g}, less than {wishes.least:g}"
    if found := (shops or read_shops()).forbidden(wishes.avoid, f"{item.title} {item.text}"):
        return f"{item.title} has {', '.join(found)}"
    return ""


def obeying(
    items: Iterable[Shown], wishes: Wishes, shops: Shops | None = None
) -> tuple[list[Shown], list[str]]:
    """(the items that may come, why each of the others may not). shops: as `broken_wish`."""
    kept, why = [], []
    for item in items:
        wrong = broken_wish(item, wishes, shops)
        (why if wrong else kept).append(wrong or item)
    return kept, why


def check_answer(
    text: str,
    state: DialogueState,
    *,
    known: Mapping[str, Shown] | Sequence[Shown] = (),
    profile_avoid: Sequence[str] = (),
    sources: Sequence[str] = (),
    shops: Shops | None = None,
    detect: Detect = script_of,
) -> tuple[Fault, ...]:
    """What of an answer contradicts the dialogue or the profile; () nothing.

    Args:
      text: the answer.
      state: of the conversation, with its wishes.
      known: items that an answer may name, the last list is known in any case.
      profile_avoid: words that must be avoided by the person's profile (allergens), beside the dialogue's.
      sources: the texts that the answer is made from: links that stand there, or in the dialogue, are allowed.
      shops: what words to be avoided stand for; None: the house's own.
      detect: tells a language.
    """
    shops = shops or read_shops()
    if not words(text):
        return (Fault("empty", "", "there is no word in it"),)
    faults: list[Fault] = []
    last = next((t.text for t in reversed(state.turns) if t.role == "assistant"), "")
    if text.strip() == last.strip() and len(words(text)) > 3:
        faults.append(Fault("repeated", "", "it was the last answer, too"))
    language = detect(text)
    if state.language and language and language != state.language:
        faults.append(
            Fault("language", "", f"it is in {language}, the conversation in {state.language}")
        )
    wishes = dataclasses.replace(
        state.wishes, avoid=tuple(dict.fromkeys([*state.wishes.avoid, *profile_avoid]))
    )
    items = [*state.shown, *(known.values() if isinstance(known, Mapping) else known)]
    allowed = " ".join([*sources, *(turn.text for turn in state.turns)])
    for sentence in sentences(text, "ru" if language == "ru" else "en"):
        faults += _wrong(sentence, state, wishes, items, allowed, shops)
    return tuple(faults)


def mended(text: str, faults: Sequence[Fault], language: str = "en") -> str:
    """The answer without the sentences that are wrong; where all of it is, or nothing is left, a safe sentence."""
    if not faults:
        return text
    if any(not fault.where for fault in faults):
        return phrase("not said", language)
    for fault in faults:
        text = text.replace(fault.where, " ")
    text = re.sub(r"[ \t]+", " ", text).strip()
    return text if words(text) else phrase("not said", language)


# ------------------------------------------------------------------------------------------ inside


def _wrong(
    sentence: str,
    state: DialogueState,
    wishes: Wishes,
    items: Sequence[Shown],
    allowed: str,
    shops: Shops,
) -> list[Fault]:
    faults = []
    denies = _DENIES.search(sentence)
    said = " ".join(words(sentence))
    for item in {one.item: one for one in items}.values():
        if f" {' '.join(words(item.title))} " not in f" {said} " or denies:
            continue
        if wrong := broken_wish(item, wishes, shops):
            kind: Kind = (
                "excluded"
                if item.item in wishes.without
                else "price"
                if "costs" in wrong
                else "avoid"
            )
            faults.append(Fault(kind, sentence, wrong))
    if not denies and not faults and (found := shops.forbidden(wishes.avoid, sentence)):
        faults.append(Fault("avoid", sentence, f"it offers {', '.join(found)}"))
    for price in _PRICE.finditer(sentence):
        value = float((price[1] or price[2]).replace(",", "."))
        if wishes.most is not None and value > wishes.most and not denies and not faults:
            faults.append(Fault("price", sentence, f"{value:g} is more than {wishes.most:g}"))
    for order in _ORDER.finditer(sentence):
        own = state.slots.get("order", "")
        if own and order[1].casefold() != own.casefold() and order[1] not in allowed:
            faults.append(
                Fault("order", sentence, f"it speaks of order {order[1]}, asked was about {own}")
            )
    for link in _LINK.finditer(sentence):
        if link[0] not in allowed:
            faults.append(Fault("link", sentence, f"{link[0][:60]} stands in no source"))
    return faults
