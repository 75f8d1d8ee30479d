"""Floor 4: one message of a conversation answered, S0's section 5 in its order, every stage timed.

    tokenize    the message made harmless, and counted in tokens
    encode      what it asks (made whole from the conversation) as a vector: z
    retrieve    the tenant's passages that may answer: R
    head        the prompt, and the text that the model writes to it
    policy      what is wrong with it: pass, micro-edit, escalate, or a safe fallback

    pipeline = Pipeline(completion, Prompting(completion.chat, "Luna Coffee"), grounding)
    state, reply = pipeline.reply(DialogueState("c1"), "Do you ship to Norway?")
    reply.text, reply.sources, reply.seconds

The pipeline itself holds nothing of a conversation: all of it is in the state. A stage that there is nothing for (no
documents, no judge) is said in the reply's notes. What is streamed has been judged: a sentence is shown when it is
whole and passes, and what does not pass is never seen.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from jaxrec.assistant.completion import Completion
from jaxrec.assistant.grounding import Grounding, Source, excerpt
from jaxrec.assistant.judging import Judge, cited
from jaxrec.data.message import Message
from jaxrec.dialogue.decision import CAUTION, REMEDIES, Action, Decision, decide
from jaxrec.dialogue.hostile import neutralise
from jaxrec.dialogue.language import Detect, kept_language, script_of
from jaxrec.dialogue.memory import MemoryConfig, remember, said, split_sentences
from jaxrec.dialogue.moderation import Moderator
from jaxrec.dialogue.phrases import phrase
from jaxrec.dialogue.prompts import Prompt, Prompting, answer_of
from jaxrec.dialogue.state import DialogueState
from jaxrec.words import words

STAGES = ("tokenize", "encode", "retrieve", "head", "policy")
QUOTED = 300  # characters of a passage that is shown in place of an answer
Edit = Callable[[str, str, Decision], str]  # (question, answer, decision) -> the answer, mended
Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Reply:
    """An answer and all that can be asked about it.

    text: what the user reads. action, reason: what the policy decided, and why, in one line. sources: the passages that
    the model was given; cited: the places in them that the text names, from 0. seconds: by stage, in their order, with
    "first" for the time to the first piece that was shown. tokens: of the message, and of the prompt. written: the
    model's own text; steps: what it thought before its answer. notes: what was left out, guessed or not done.
    """

    text: str
    action: Action
    reason: str
    sources: tuple[Source, ...] = ()
    cited: tuple[int, ...] = ()
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    tokens: Mapping[str, int] = dataclasses.field(default_factory=dict)
    written: str = ""
    steps: str = ""
    question: str = ""
    prompt: Prompt | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values, the prompt left out."""
        told = dataclasses.asdict(dataclasses.replace(self, prompt=None))
        del told["prompt"]
        told["seconds"] = {name: round(value, 4) for name, value in self.seconds.items()}
        return told


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """What answers, and how.

    completion: writes the text. prompting: makes its prompts. grounding: the tenant's passages; None: there are none.
    judge: what is wrong with an answer; None: nobody looks. thresholds: by label, `threshold` for all others. remedies:
    what a label calls for. edit: mends an answer; without it, and where what it gives is no better, a micro-edit
    becomes a question to a person. strategy: of `prompts.STRATEGIES`. context: what is known of the user. memory: how
    much of a long conversation stands in a prompt. detect: tells languages apart. moderator: what is not talked
    about, by the user or by the model; None: nobody looks. mask, unmask: of a privacy filter:
    state, prompt and model see placeholders, the user reads what they stand for. seed: of sampling.
    """

    completion: Completion
    prompting: Prompting
    grounding: Grounding | None = None
    judge: Judge | None = None
    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    threshold: float = 0.5
    remedies: Mapping[str, Action] = dataclasses.field(default_factory=lambda: REMEDIES)
    edit: Edit | None = None
    strategy: str = "zero_shot"
    context: Mapping[str, object] = dataclasses.field(default_factory=dict)
    memory: MemoryConfig = MemoryConfig()
    detect: Detect = script_of
    moderator: Moderator | None = None
    mask: Callable[[str], str] | None = None
    unmask: Callable[[str], str] | None = None
    seed: int = 0

    def reply(
        self, state: DialogueState, message: str | bytes, tell: Tell | None = None
    ) -> tuple[DialogueState, Reply]:
        """The state after the message and its answer, and the answer.

        tell: is given the text in pieces while it is written; joined they are the text, or, where the policy decides
        against the rest of it, its beginning. Raises what prompt and model raise (a budget too small, an endpoint
        away): the state that was given in is then still the last one.
        """
        turn = _Turn(self, state, tell)
        return turn.answered(message)


@dataclasses.dataclass
class _Turn:
    """One message on its way."""

    pipeline: Pipeline
    state: DialogueState
    tell: Tell | None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    shown: str = ""  # what was told already

    def answered(self, message: str | bytes) -> tuple[DialogueState, Reply]:
        p, began = self.pipeline, time.perf_counter()
        with self._timed("tokenize"):
            clean = neutralise(message, "turn")
            if clean.note:
                self.notes.append(f"the message was cleaned: {clean.note}")
            before = self.state
            text = clean.text if p.mask is None else p.mask(clean.text)
            state = said(before, text, "user", config=p.memory)
            state = state.change(language=kept_language(state.language, clean.text, p.detect))
            question = state.turns[-1].text
            chat = p.completion.chat
            size = {"message": len(chat.encode(question))} if chat is not None else {}
        language = state.language or "en"
        if not words(question):
            reply = Reply(phrase("again", language), "pass", "the message says nothing")
            return self._done(state, reply, size, began)
        if p.moderator is not None and (why := p.moderator.refuses(question)):
            reply = Reply(phrase("refuse", language), "safe_fallback", why)
            return self._done(state, reply, size, began)
        sources = self._found(question, before)
        if p.grounding is not None and not sources:
            text = phrase("nothing found", language, business=p.prompting.tenant or "...")
            reply = Reply(text, "safe_fallback", "no passage has to do with the question")
            return self._done(state, reply, size, began)
        with self._timed("head"):
            prompt = self._prompt(state, question, sources)
            sources = sources[: prompt.passages]
            told = "\n".join(text for _, text in prompt.messages)
            judged = lambda text: self._decision(question, text, sources, told)
            written = self._written(prompt, judged, began)
        thought = p.strategy in ("cot", "combined")
        text, steps = answer_of(written) if thought else (written.strip(), "")
        with self._timed("policy"):
            clean_text = neutralise(text, "answer").text
            decision = judged(clean_text)
            final, action, reason = self._remedied(
                question, clean_text, decision, sources, judged, language
            )
        reply = Reply(
            final,
            action,
            reason,
            sources,
            cited(final, len(sources)),
            written=written,
            steps=steps,
            question=question,
            prompt=prompt,
        )
        return self._done(state, reply, {**size, "prompt": prompt.tokens}, began)

    # ------------------------------------------------------------------------------ the stages

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

    def _found(self, question: str, before: DialogueState) -> tuple[Source, ...]:
        grounding = self.pipeline.grounding
        if grounding is None:
            self.notes.append("no documents: nothing was retrieved")
            return ()
        with self._timed("encode"):
            history = [(turn.role, turn.text) for turn in before.turns]
            asked = grounding.asked(question, history)
            grounding.encode(asked)
        if asked != question:
            self.notes.append(f"searched for {asked!r}")
        with self._timed("retrieve"):
            return grounding.retrieve(asked)

    def _prompt(self, state: DialogueState, question: str, sources: Sequence[Source]) -> Prompt:
        p = self.pipeline
        kept = remember(state, question, config=p.memory)
        history: list[Message] = [(turn.role, turn.text) for turn in kept.window[:-1]]
        lines = [f"{one.role} said: {one.text}" for one in kept.recalled]
        lines += [kept.summary] if kept.summary else []
        prompt = p.prompting.prompt(
            question,
            p.strategy,
            passages=[one.told for one in sources],
            history=history,
            context=p.context or None,
            memory=lines,
            neutral=True,
        )
        self.notes += prompt.notes()
        return prompt

    def _written(self, prompt: Prompt, judged: Callable[[str], Decision], began: float) -> str:
        """The model's text; whole sentences of it are told as they come, as long as they pass."""
        p = self.pipeline
        # Steps before an answer are no answer, and are not shown.
        if self.tell is None or p.strategy in ("cot", "combined"):
            return p.completion([prompt], p.seed)[0]
        text, open_ = "", True
        for piece in p.completion.stream(prompt, p.seed):
            text += piece
            whole = _whole_sentences(text)
            if open_ and len(whole) > len(self.shown):
                # Shown as it stands: what would be cleaned, or not pass, waits for the policy's word.
                clean = neutralise(whole, "answer").text
                open_ = whole.strip() == clean and judged(clean).action == "pass"
                if open_:
                    self._show(whole[len(self.shown) :], began)
        return text

    def _decision(
        self, question: str, answer: str, sources: Sequence[Source], told: str
    ) -> Decision:
        p = self.pipeline
        found = Decision("pass", ())
        if p.judge is not None:
            scores = p.judge(question, answer, [one.told for one in sources], told)
            limits = {label: p.thresholds.get(label, p.threshold) for label in scores}
            found = decide(scores, limits, p.remedies)
        return found if p.moderator is None else graver(p.moderator.judge(answer), found)

    def _remedied(
        self,
        question: str,
        answer: str,
        decision: Decision,
        sources: Sequence[Source],
        judged: Callable[[str], Decision],
        language: str,
    ) -> tuple[str, Action, str]:
        """(what is said, what was done, why)."""
        action, reason = decision.action, decision.reason
        if not words(answer):
            action, reason = "safe_fallback", "the model wrote nothing"
        elif self.pipeline.judge is None and self.pipeline.moderator is None:
            reason = "nobody judged it"
        if action == "pass":
            return answer, action, reason
        if action == "micro_edit":
            mended = self.pipeline.edit(question, answer, decision) if self.pipeline.edit else ""
            if words(mended) and judged(mended).action == "pass":
                return mended, action, reason
            action, reason = "escalate", f"{reason}; no micro-edit mends it"
        if action == "escalate":
            return phrase("escalate", language), action, reason
        if not sources:
            return phrase("not said", language), action, reason
        quote = excerpt(neutralise(sources[0].text, "passage").text, question, QUOTED)
        name = self.pipeline.prompting.tenant or "..."
        return phrase("quoted", language, business=name, text=f"«{quote}» [1]"), action, reason

    def _done(
        self, state: DialogueState, reply: Reply, tokens: Mapping[str, int], began: float
    ) -> tuple[DialogueState, Reply]:
        if self.tell is not None:
            own = reply.text.startswith(self.shown.strip())
            rest = reply.text[len(self.shown.strip()) :] if own else f"\n{reply.text}"
            self._show(rest, began)
        state = said(state, reply.text, config=self.pipeline.memory)
        reply = dataclasses.replace(reply, text=self._own(reply.text))
        ordered = {name: self.seconds[name] for name in (*STAGES, "first") if name in self.seconds}
        whole = {**ordered, "total": time.perf_counter() - began}
        return state, dataclasses.replace(
            reply, seconds=whole, tokens=dict(tokens), notes=(*self.notes, *reply.notes)
        )

    def _show(self, piece: str, began: float) -> None:
        if piece and self.tell is not None:
            self.seconds.setdefault("first", time.perf_counter() - began)
            self.tell(self._own(piece))
            self.shown += piece

    def _own(self, text: str) -> str:
        """What the user reads of it; sentences come whole, and so do the placeholders in them."""
        return text if self.pipeline.unmask is None else self.pipeline.unmask(text)


def graver(one: Decision, other: Decision) -> Decision:
    """What two who looked found together: the more cautious action, its findings first."""
    first, second = sorted([one, other], key=lambda found: -CAUTION.index(found.action))
    return Decision(first.action, (*first.findings, *second.findings))


def _whole_sentences(text: str) -> str:
    """The beginning of a text up to its last sentence that has ended for sure: another one has begun behind it."""
    parts = split_sentences(text)
    if len(parts) < 2:
        return ""
    return text[: text.rindex(parts[-1])].rstrip()
