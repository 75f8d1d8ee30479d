"""Floor 3: a question, and all that helps to answer it, as the messages of one prompt: five strategies, one budget.

    zero_shot      the question alone
    few_shot       examples like it stand before it, as turns (`examples`)
    cot            it is thought about step by step, and part by part where it asks several things
    role_context   in a role, knowing who asks (`roles`)
    combined       all of these

    page           "You write for NAME. Answer from this page: ...", as personal models are trained (`dialogue.pages`)
    bare           the conversation alone, for those that are trained without pages

    system      role, tenant, what is known of the customer, passages, how to think
    user, assistant, ...    examples, then the conversation so far
    user        the question

Each may have passages and a conversation before it. Prompts are messages: the model's own chat template writes them,
and strangers' texts among them are made harmless (`dialogue.hostile`).
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from jaxrec.data.chat_format import ChatError, ChatFormat
from jaxrec.data.message import Message
from jaxrec.dialogue.hostile import Kind, neutralise
from jaxrec.dialogue.prompts.budget import (
    BudgetConfig,
    Dropped,
    Fitted,
    Kept,
    Part,
    fit,
    guessed_tokens,
)
from jaxrec.dialogue.prompts.examples import Example, ExamplePool, numbered
from jaxrec.dialogue.prompts.generation import PromptError
from jaxrec.dialogue.prompts.roles import SUPPORT, Role
from jaxrec.dialogue.prompts.templates import fill

Strategy = Literal["zero_shot", "few_shot", "cot", "role_context", "combined", "page", "bare"]
# What each strategy adds to the question.
BLOCKS: Mapping[Strategy, frozenset[str]] = {
    "zero_shot": frozenset(),
    "few_shot": frozenset({"examples"}),
    "cot": frozenset({"steps"}),
    "role_context": frozenset({"role", "context"}),
    "combined": frozenset({"examples", "steps", "role", "context"}),
    # For personal models, who know from their training how to answer: in the very words that stood there.
    "page": frozenset({"page"}),
    "bare": frozenset({"bare"}),
}
SPEAKERS = {"user": "user", "customer": "user", "human": "user", "assistant": "assistant"}
STRATEGIES: tuple[Strategy, ...] = tuple(BLOCKS)[:5]  # of models that follow instructions
_ANSWER = re.compile(r"^[\s*#>]*answer\s*[*]*\s*:[\s*]*", re.IGNORECASE | re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What a model is asked.

    ids: as the model reads the messages; empty where its tokenizer is not here, and `tokens` is then a guess. passages:
    how many of those given are in it, the first ones. dropped: what had no room. templates: the wordings, by name.
    examples: those that stand in it.
    """

    messages: tuple[Message, ...]
    ids: tuple[int, ...]
    tokens: int
    passages: int
    dropped: tuple[Dropped, ...]
    templates: tuple[str, ...]
    examples: tuple[Example, ...] = ()

    def notes(self) -> list[str]:
        """What went for want of room, a line a part."""
        counts: dict[str, list[str]] = {}
        for one in self.dropped:
            counts.setdefault(one.part, []).append(one.begins)
        return [
            f"no room for {len(begins)} of the {part} (first {begins[0]!r})"
            for part, begins in counts.items()
        ]


@dataclasses.dataclass(frozen=True)
class Prompting:
    """How questions become prompts, for one model and whoever it speaks for.

    chat: the model's format; None where the model is behind an endpoint, and then tokens are guessed. tenant: whose
    assistant it is, "" nobody's. role: the part of the strategies that have one. pool: examples to choose from. count:
    how many are shown. lam: of `ExamplePool.choose`. budget: of the whole prompt. guide: how the tenant wants to
    sound, in its own words.
    """

    chat: ChatFormat | None = None
    tenant: str = ""
    role: Role = SUPPORT
    pool: ExamplePool | None = None
    count: int = 3
    lam: float = 0.7
    budget: BudgetConfig = BudgetConfig()
    guide: str = ""

    def prompt(
        self,
        question: str,
        strategy: str = "zero_shot",
        *,
        passages: Sequence[str] = (),
        history: Sequence[Message] = (),
        context: Mapping[str, object] | None = None,
        memory: Sequence[str] = (),
        neutral: bool = False,
    ) -> Prompt:
        """The prompt of a question.

        Args:
          question: what is asked now.
          strategy: of `STRATEGIES`.
          passages: what was retrieved for it, the best first, a title in front where there is one.
          history: the conversation so far, oldest first, between user and assistant; who speaks twice in a row says it
            in one message, and where the assistant begins, the user is silent ("...") before.
          context: what is known of whoever asks, by name ("account_type": "premium").
          memory: lines of what was said before the history (`dialogue.memory`), the most telling first.
          neutral: question, history and memory went through `neutralise` before, as a dialogue state's did.
            (Placeholders that a privacy filter put into them would be broken by a second time.)

        Raises PromptError for an empty question, for a strategy that there is not or that has no place for a context,
        for few-shot examples where there are none, for another speaker in the history, and for a question that is
        longer than the budget.
        """
        blocks = self._blocks(strategy, context)
        asked = question.strip() if neutral else self._clean(question)
        if not asked:
            raise PromptError("the question is empty")
        chosen: Sequence[Example] = ()
        if "examples" in blocks:
            if not self.pool:
                raise PromptError(
                    f"strategy {strategy!r} shows examples, and there are none: add some, or ask by zero_shot"
                )
            chosen = self.pool.choose(asked, self.count, self.lam)
        shown = [(self._clean(one.question), self._clean(one.answer, "answer")) for one in chosen]
        told = [f"{self._line(str(k))}: {self._line(str(v))}" for k, v in (context or {}).items()]
        # What a strategy has no place for is not counted as shown.
        found = [] if "bare" in blocks else [self._line(passage) for passage in passages]
        kind_of = lambda role: "answer" if role == "assistant" else "turn"
        before = [
            (_speaker(role), said if neutral else self._clean(said, kind_of(role)))
            for role, said in history
        ]
        groups = _exchanges(before)
        told_of = () if blocks & {"page", "bare"} else memory
        lines = [one if neutral else self._line(one, "turn") for one in told_of]
        system = functools.partial(self._system, blocks, asked, told, lines, found)

        def write(kept: Kept) -> tuple[tuple[list[Message], Sequence[int], list[str]], int]:
            text, names = system(kept)
            # The most similar example stands nearest to the question.
            pairs = shown[: kept.examples][::-1]
            turns = [turn for q, a in pairs for turn in (("user", q), ("assistant", a))]
            turns += [turn for group in groups[len(groups) - kept.history :] for turn in group]
            messages = self._messages(text, _alternating([*turns, ("user", asked)]))
            ids = self.chat.opening(messages) if self.chat is not None else ()
            return (messages, ids, names), len(ids) or guessed_tokens(messages)

        pieces: dict[Part, Sequence[str]] = {
            "examples": ["\n".join(pair) for pair in shown],
            "history": ["\n".join(said for _, said in group) for group in groups],
            "passages": found,
            "memory": lines,
            "context": told,
        }
        fitted: Fitted = fit(write, pieces, self._size, self.budget)
        messages, ids, names = fitted.written
        return Prompt(
            tuple(messages),
            tuple(ids),
            fitted.tokens,
            fitted.kept.passages,
            fitted.dropped,
            tuple(names),
            tuple(chosen[: fitted.kept.examples]),
        )

    # -------------------------------------------------------------------------------------- inside

    def _blocks(self, strategy: str, context: Mapping[str, object] | None) -> frozenset[str]:
        if strategy not in BLOCKS:
            raise PromptError(
                f"there is no strategy {strategy!r}; there are {', '.join(STRATEGIES)}"
            )
        blocks = BLOCKS[strategy]
        if context and "context" not in blocks:
            raise PromptError(
                f"strategy {strategy!r} has no place for a user's context: role_context and combined have one"
            )
        return blocks

    def _system(
        self,
        blocks: frozenset[str],
        question: str,
        told: Sequence[str],
        lines: Sequence[str],
        found: Sequence[str],
        kept: Kept,
    ) -> tuple[str, list[str]]:
        """The system message, and the names of its templates."""
        if "bare" in blocks:
            return "", []
        if "page" in blocks:
            pages = " ".join(found[: kept.passages])
            fields = {"name": self.tenant, **({"pages": pages} if pages else {})}
            name = "page/1" if pages else "tenant/1"
            return fill(name, **fields), [name]
        role = self.role if "role" in blocks else SUPPORT
        parts, names = [role.text], [f"role {role.name}"]

        def add(template: str, /, **fields: object) -> None:
            parts.append(fill(template, **fields))
            names.append(template)

        if self.tenant:
            add("tenant/1", name=self._line(self.tenant, "turn"))
        if self.guide:
            add("guide/1", guide=self._line(self.guide, "turn"))
        if kept.context:
            add("context/1", facts="\n".join(f"- {fact}" for fact in told[: kept.context]))
        if kept.memory:
            add("memory/1", lines="\n".join(f"- {one}" for one in lines[: kept.memory]))
        if kept.passages:
            rows = [f"[{i}] {text}" for i, text in enumerate(found[: kept.passages], 1)]
            add("passages/1", passages="\n".join(rows))
        if kept.examples:
            add("examples/1", count=kept.examples)
        if "steps" in blocks:
            add("steps/1")
            if len(several := parts_of(question)) > 1:
                rows = [f"{i}. {one}" for i, one in enumerate(several, 1)]
                add("parts/1", count=len(several), parts="\n".join(rows))
        return "\n\n".join(parts), names

    def _messages(self, system: str, turns: list[Message]) -> list[Message]:
        if not system:
            return turns
        if self._has_system:
            return [("system", system), *turns]
        (role, first), *rest = turns
        return [(role, f"{system}\n\n{first}"), *rest]

    @functools.cached_property
    def _has_system(self) -> bool:
        """Whether the template takes a system message; where it refuses one, the first turn begins with its text."""
        if self.chat is None:
            return True
        try:
            self.chat.opening([("system", "x"), ("user", "x")])
        except ChatError:
            return False
        return True

    def _clean(self, text: str, kind: Kind = "turn") -> str:
        return _neutral(text, kind, self._marks)

    def _line(self, text: str, kind: Kind = "passage") -> str:
        """In one line: what stands in a list of the system message cannot begin another entry of it."""
        return " ".join(_neutral(text, kind, self._marks).split())

    @functools.cached_property
    def _marks(self) -> tuple[str, ...]:
        return () if self.chat is None else self.chat.role_marks()

    def _size(self, part: Part, text: str) -> int:
        """About how many tokens a piece adds: its own, and those that stand around it."""
        if self.chat is None:
            return len(text.encode()) // 3 + (16 if part in ("examples", "history") else 4)
        around = self._around if part in ("examples", "history") else 4
        return _tokens(self.chat, text) + around

    @functools.cached_property
    def _around(self) -> int:
        """The tokens that the template puts around an exchange."""
        try:
            one, two = (self.chat.opening([*turns, ("user", "x")]) for turns in ([], _SHORT))
        except ChatError:
            return 0
        return max(len(two) - len(one) - 2, 0)


_SHORT: list[Message] = [("user", "x"), ("assistant", "x")]


@functools.lru_cache(maxsize=8192)
def _neutral(text: str, kind: Kind, marks: tuple[str, ...]) -> str:
    return neutralise(text, kind, tokens=marks).text


@functools.lru_cache(maxsize=8192)
def _tokens(chat: ChatFormat, text: str) -> int:
    # Earlier turns and examples come again with every question.
    return len(chat.encode(text))


def parts_of(question: str) -> list[str]:
    """The questions of a message that asks several things, and what it says beside them; one: itself."""
    # A full stop is given to a sentence that has no end; of a question only its own mark is wanted.
    pieces = [one for line in question.splitlines() for one in re.split(r"(?<=[?!.;])\s+", line)]
    asked = [one.strip() for one in pieces if one.strip().endswith("?")]
    return asked if len(asked) > 1 else [question]


def answer_of(text: str) -> tuple[str, str]:
    """(what the customer reads, the steps before it) of a text that was thought step by step.

    Without a line that begins with "Answer:" the whole text is the answer: small models often forget it.
    """
    marks = list(_ANSWER.finditer(text))
    if not marks or not (said := text[marks[-1].end() :].strip()):
        return text.strip(), ""
    return said, text[: marks[-1].start()].strip()


def in_steps(
    complete: Callable[[Prompt], str], prompting: Prompting, question: str, most: int = 4
) -> tuple[str, list[tuple[str, str]]]:
    """Least-to-most prompting (Zhou et al. 2023): a hard question by way of the smaller ones in it.

    complete: a prompt to a text. prompting: as for every question. question: the hard one. most: smaller questions that
    are asked.

    Returns (the answer, the smaller questions with theirs). A model that splits nothing answers the question at once.
    """
    asked = dataclasses.replace(prompting, role=Role("decompose", fill("decompose/1", most=most)))
    smaller = numbered(complete(asked.prompt(question, "role_context")), most)
    solved: list[tuple[str, str]] = []

    def told() -> Prompting:
        if not solved:
            return prompting
        own = [neutralise(f"{q} {a}", "answer").text for q, a in solved]  # the model's own words
        lines = "\n".join(f"- {' '.join(text.split())}" for text in own)
        text = f"{prompting.role.text}\n\n{fill('solved/1', solved=lines)}"
        return dataclasses.replace(prompting, role=Role(prompting.role.name, text))

    for one in smaller:
        solved.append((one, complete(told().prompt(one, "role_context")).strip()))
    return complete(told().prompt(question, "role_context")).strip(), solved


def _exchanges(history: Sequence[Message]) -> list[list[Message]]:
    """A conversation cut before each turn of the user's, so that no answer is left without its question."""
    groups: list[list[Message]] = []
    for turn in history:
        if turn[0] == "user" or not groups:
            groups.append([])
        groups[-1].append(turn)
    return groups


def _speaker(role: str) -> str:
    """Who may have spoken before. What a stranger's rows call system would otherwise be read as the operator's word."""
    if role not in SPEAKERS:
        raise PromptError(f"a conversation is between user and assistant, and {role!r} is neither")
    return SPEAKERS[role]


def _alternating(turns: Sequence[Message]) -> list[Message]:
    """User and assistant in turn, the user first, as many templates demand it: who speaks twice says it at once."""
    out: list[Message] = [("user", "...")] if turns[0][0] == "assistant" else []
    for role, said in turns:
        if out and out[-1][0] == role:
            out[-1] = (role, f"{out[-1][1]}\n\n{said}")
        else:
            out.append((role, said))
    return out
