"""Floor 2: the question that is searched for: what a follow-up leaves unsaid is carried over from the turns before.

    history = [("user", "Do you ship grinders to Norway?"), ("assistant", "Yes, by sea.")]
    rewritten("How long does it take?", history).question   # "How long does it take? ship grinders Norway"

A question depends on what was said where it holds a word that points back ("it", "there", «их»), begins like a
continuation ("and ...", "what about", «а если»), or names next to nothing itself. It then gets the topic's words: those
of the last question that stood by itself, and of the follow-ups since. Every other question stays as it is.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxrec.retrieval.top_k import SearchError
from jaxrec.words import words

Turn = tuple[str, str]  # role ("user", "assistant", ...), text
Complete = Callable[[str], str]

_BACK = frozenset(
    "it its they them their theirs that this those these one ones there he him his she her hers same such"
    " former latter он она оно они его её ее ему ей их им ним ней неё нее них этот эта это эти этого этой этих"
    " этому этим тот та те того той тех там туда такой такая такое такие".split()
)
_ON = (
    "and", "or", "but", "also", "what about", "how about", "what if", "then", "why", "why not", "else", "anything else",
    "а", "и", "но", "или", "ещё", "еще", "тогда", "почему", "а если", "как насчёт", "как насчет",
)  # fmt: skip
# Words that name no topic. Those of questions and manners are not in every list of stop words, so they stand here.
_EMPTY = _BACK | frozenset(
    "a an the and or but if then so as of at by for with about to from in on off out over under again is are"
    " was were be been being have has had do does did doing can could may might must shall should will would i"
    " me my mine you your yours we us our ours who whom whose which what when where why how all any both each"
    " few more most other some no not only own than too very just please thanks thank hello hi hey ok okay yes"
    " yeah sure tell know need want like get got also else much many long d ll re ve s t m d let lets а и но"
    " или если то же бы ли не ни да нет в во на с со к ко у о об от до из за по под при про для без над через"
    " я мы ты вы мне мной меня нам нас вам вас тебе тебя мой моя моё мое мои ваш ваша ваше ваши наш наша наше"
    " наши свой что кто как где когда куда откуда почему зачем какой какая какое какие сколько чем чего есть"
    " был была было были быть будет буду можно нужно надо хочу могу может можете скажите подскажите пожалуйста"
    " спасибо привет здравствуйте очень ещё еще уже только тоже также так вот ну всё все".split()
)
_FEW = 1  # words of its own with which a question still names no topic
_PROMPT = """Rewrite the last question so that it can be understood without the conversation. Change nothing else.
Answer with the question alone.

{turns}

Last question: {question}
Rewritten question:"""


class Rewritten(NamedTuple):
    """The question to search for; carried: the words that were added to it; by_model: whether `complete` wrote it."""

    question: str
    carried: tuple[str, ...] = ()
    by_model: bool = False


def rewritten(
    question: str,
    history: Sequence[Turn],
    *,
    most: int = 12,
    complete: Complete | None = None,
) -> Rewritten:
    """What to search for when `question` is asked after `history`.

    question: as it was asked. history: the turns before it, oldest first; those of "user" are read. most: words that
    are carried over. complete: a model that writes the question out (prompt to text); what it gives is taken where it
    is one line that keeps the question's own words of substance, and the carried words otherwise.

    Raises SearchError where `most` is below 0.
    """
    if most < 0:
        raise SearchError(f"{most} words cannot be carried over; 0 or more")
    said = [text for role, text in history if role == "user"]
    if not said or not depends(question):
        return Rewritten(question)
    carried = _topic(question, said)[:most]
    if not carried:
        return Rewritten(question)
    if complete is not None:
        turns = "\n".join(f"{role}: {' '.join(text.split())}" for role, text in history[-6:])
        written = complete(_PROMPT.format(turns=turns, question=question)).strip()
        if _faithful(written, question, history):
            return Rewritten(written, by_model=True)
    return Rewritten(f"{question.rstrip()} {' '.join(carried)}", tuple(carried))


def depends(question: str) -> bool:
    """Whether a question can't be understood without what was said before it."""
    own = words(question)
    if not own:
        return False
    start = " ".join(own[:3])
    if any(start == on or start.startswith(f"{on} ") for on in _ON):
        return True
    return bool(_BACK & set(own)) or len(_substance(question)) <= _FEW


def _substance(text: str) -> list[str]:
    """The words that name something, each once, in order, as they are written."""
    found = dict.fromkeys(word for word in words(text) if word not in _EMPTY)
    return list(found)


def _topic(question: str, said: Sequence[str]) -> list[str]:
    """Words of the last question that stood by itself, then of the follow-ups since, without the question's own."""
    alone = next((i for i in range(len(said) - 1, -1, -1) if not depends(said[i])), 0)
    own = set(_substance(question))
    found = dict.fromkeys(word for text in said[alone:] for word in _substance(text))
    return [word for word in found if word not in own]


def _faithful(written: str, question: str, history: Sequence[Turn]) -> bool:
    """One line of reasonable length that keeps the question's substance and brings in no word that nobody said."""
    if not written or "\n" in written or len(written) > 4 * len(question) + 200:
        return False
    new = set(_substance(written))
    known = {word for _, text in history for word in _substance(text)} | set(_substance(question))
    return set(_substance(question)) <= new and new <= known
