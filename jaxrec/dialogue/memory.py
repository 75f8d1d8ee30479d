"""Floor 3: what a model is told of a conversation that is longer than there is room for.

    window      the last turns, word for word: four at least, whatever they cost
    summary     what was said before them, shortened turn by turn as they leave the window
    recalled    sentences of earlier turns that have to do with the message at hand, as they were said, in their order

Sentences are sought by their words (BM25), and where there is an `embed`, by meaning too. A short answer ("size 42")
is kept with the question before it, without which nobody would find or understand it.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np

from jaxrec.dialogue.hostile import Kind, neutralise
from jaxrec.dialogue.state import DialogueState, Role, Shown, Spoken
from jaxrec.retrieval.lexical import LexicalIndex

Embed = Callable[[Sequence[str]], np.ndarray]  # texts to unit vectors [B, D]
Summarise = Callable[
    [str, Sequence[Spoken]], str
]  # the summary so far and older turns to the next one
LEAST = 4  # turns of any window
SHORT = 60  # characters of an answer that is kept with its question
_END = re.compile(r"(?<=[.!?…])\s+|\n+")
_TELLING = re.compile(
    r"\d|\b(?:i|i'm|i've|my|we|our|me|not|never|only|must|need|want|prefer|like|love|hate|allerg\w*|without)\b"
    r"|\b(?:я|мне|меня|мой|моя|моё|мои|мы|нам|не|только|нужно|нужен|хочу|люблю|аллерги\w*|без)\b",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
    """How much of a conversation stands in a prompt, and how much is kept."""

    window: int = 6  # turns word for word; never below four
    summary: int = 800  # characters
    recalled: int = 1_200  # characters of earlier sentences
    sentences: int = 8  # of them at most
    kept: int = 400_000  # characters of turns that a state keeps; of older ones the summary is left


@dataclasses.dataclass(frozen=True)
class Remembered:
    """What a prompt says of a conversation. recalled: sentences with the number of the turn they are from."""

    window: tuple[Spoken, ...]
    summary: str
    recalled: tuple[Spoken, ...]

    @property
    def text(self) -> str:
        """Summary and recalled sentences as plain lines; "" where all there is stands in the window."""
        lines = [f"Earlier: {self.summary}"] if self.summary else []
        lines += [f"{one.role} said: {one.text}" for one in self.recalled]
        return "\n".join(lines)


def said(
    state: DialogueState,
    text: str,
    role: Role = "assistant",
    *,
    shown: Sequence[Shown] | None = None,
    config: MemoryConfig = MemoryConfig(),
    summarise: Summarise | None = None,
) -> DialogueState:
    """The state once something was said.

    state: before. text: neutralised here. role: who said it. shown: the list that went with it; None leaves the last.
    config: when turns leave the window and the state. summarise: shortens what left the window, in place of
    `shortened`.
    """
    kind: Kind = "turn" if role == "user" else "answer"
    turn = Spoken(state.count, role, neutralise(text, kind).text)
    turns = (*state.turns, turn)
    window = max(config.window, LEAST)
    summary = state.summary
    if len(turns) > window:  # one turn leaves the window whenever one enters it
        summary = (summarise or shortened)(summary, turns[-window - 1 : -window])
        # A summary ends where its room does: the newest is what counts.
        summary = neutralise(_ending(summary, config.summary), "answer").text
    room, first = config.kept - sum(len(one.text) for one in turns[-window:]), len(turns) - window
    while first > 0 and room >= len(turns[first - 1].text):
        first -= 1
        room -= len(turns[first].text)
    first = max(first, 0)
    fields = {} if shown is None else {"shown": tuple(shown)}
    return state.change(
        turns=turns[first:],
        summary=summary,
        count=state.count + 1,
        dropped=state.dropped + first,
        **fields,
    )


def shortened(summary: str, turns: Sequence[Spoken]) -> str:
    """The summary with what these turns tell: what the user says of themselves, with numbers, or refuses."""
    told = []
    for turn in turns:
        if turn.role != "user":
            continue
        parts = [
            s for s in split_sentences(turn.text) if not s.endswith("?") and _TELLING.search(s)
        ]
        told += [part if len(part) <= 160 else f"{part[:157]}..." for part in parts[:3]]
    return " ".join([*([summary] if summary else []), *told])


def remember(
    state: DialogueState,
    query: str = "",
    *,
    config: MemoryConfig = MemoryConfig(),
    embed: Embed | None = None,
) -> Remembered:
    """What a prompt should say of the conversation, for this message.

    state: after the message was heard. query: what to seek; "" is the last user turn. config: how much. embed: adds
    meaning to words.
    """
    window = max(config.window, LEAST)
    last, earlier = state.turns[-window:], state.turns[:-window]
    query = query or next((one.text for one in reversed(state.turns) if one.role == "user"), "")
    return Remembered(last, state.summary, recall(earlier, query, config, embed))


def recall(
    turns: Sequence[Spoken], query: str, config: MemoryConfig, embed: Embed | None = None
) -> tuple[Spoken, ...]:
    """The sentences of these turns that have most to do with the query, in their order, within the room there is.

    turns: in order. query: a text. config: how many. embed: adds meaning to words.
    """
    pieces = _pieces(turns)
    if not pieces or not query.strip():
        return ()
    chosen, room = [], config.recalled
    for place in _ranked([text for _, text in pieces], query, embed):
        if len(pieces[place][1]) <= room:
            chosen.append(place)
            room -= len(pieces[place][1])
        if len(chosen) == config.sentences:
            break
    return tuple(
        Spoken(pieces[i][0].number, pieces[i][0].role, pieces[i][1]) for i in sorted(chosen)
    )


def split_sentences(text: str) -> list[str]:
    """The sentences of a turn, roughly: at . ! ? and line ends."""
    return [part.strip() for part in _END.split(text) if part and part.strip()]


# ------------------------------------------------------------------------------------------ inside


def _pieces(turns: Sequence[Spoken]) -> list[tuple[Spoken, str]]:
    """Each sentence of what was said, with its turn; a short answer behind the question that it answers."""
    pieces = []
    for before, turn in zip((None, *turns), turns, strict=False):
        if turn.role == "user" and before is not None and len(turn.text) <= SHORT:
            asked = [s for s in split_sentences(before.text) if s.endswith("?")]
            if asked and before.role == "assistant":
                pieces.append((turn, f"{asked[-1]} {turn.text}"))
                continue
        pieces += [(turn, sentence) for sentence in split_sentences(turn.text)]
    return pieces


def _ranked(texts: Sequence[str], query: str, embed: Embed | None) -> list[int]:
    """The places of the texts that have to do with the query, best first."""
    index = LexicalIndex.build(texts)
    found = index.search(query, len(texts))
    index.close()
    score_I = np.zeros(len(texts))
    hits = found.items_BJ[0] >= 0
    score_I[found.items_BJ[0][hits]] = found.scores_BJ[0][hits]
    if embed is None:
        return [int(i) for i in np.argsort(-score_I, kind="stable") if score_I[i] > 0]
    vectors = np.asarray(embed([query, *texts]), np.float64)
    near_I = vectors[1:] @ vectors[0]
    total_I = score_I / max(float(score_I.max()), 1e-9) + near_I
    return [int(i) for i in np.argsort(-total_I, kind="stable")]


def _ending(text: str, length: int) -> str:
    """The end of a text, from a word's beginning on."""
    return text if len(text) <= length else text[-length:].partition(" ")[2]
