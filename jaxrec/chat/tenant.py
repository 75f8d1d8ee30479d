"""A conversation with a tenant's assistant: `assistant.pipeline`, and what can be asked about its answers."""

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from jaxrec.assistant.pipeline import Pipeline, Reply
from jaxrec.chat.keeping import Kept
from jaxrec.chat.orders import OrderError, Said
from jaxrec.data.tenant import Tenant

_SHOWN = 600  # characters of a source


class TenantSession:
    """Talks in the name of a tenant.

    pipeline: what answers. tenant: in whose name; its pages and dialogues are in the pipeline already. kept: where the
    conversation lies. notes: what was chosen or guessed when it was opened. user: who talks, "" unknown.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        tenant: Tenant,
        kept: Kept,
        notes: Sequence[str] = (),
        user: str = "",
    ):
        self.pipeline, self.tenant, self.kept, self.user = pipeline, tenant, kept, user
        self.title, self.notes = f"{tenant.name}, by {pipeline.completion.name}", list(notes)
        self.state = kept.state()
        self.last: Reply | None = None
        self.thumbs: list[dict[str, Any]] = []
        if self.state.count:
            self.notes.append(f"goes on after {self.state.count} turns")

    def say(self, message: str | bytes, tell: Callable[[str], None] | None = None) -> Said:
        """As `Session.say`. Raises RunError where no answer can be made; the conversation is then as it was."""
        self.state, self.last = self.pipeline.reply(self.state, message, tell)
        self.kept.put(self.state)
        return Said(self.last.text, {"reply": self.last.text, **self.last.to_json()})

    def why(self) -> str:
        """How the last answer came about."""
        reply = self._answered()
        lines = [f"{reply.action}: {reply.reason}"]
        if reply.written.strip() != reply.text:
            lines.append(f"the model wrote: {_short(reply.written)}")
        if reply.steps:
            lines.append(f"it thought: {_short(reply.steps)}")
        times = ", ".join(f"{name} {value * 1000:.0f} ms" for name, value in reply.seconds.items())
        lines.append(times)
        if reply.prompt is not None:
            guessed = "" if reply.prompt.ids else " (guessed)"
            lines.append(
                f"the prompt: {reply.prompt.tokens} tokens{guessed}; {', '.join(reply.prompt.templates)}"
            )
            lines += [f"example: {_short(one.question)}" for one in reply.prompt.examples]
        return "\n".join([*lines, *(f"note: {note}" for note in reply.notes)])

    def sources(self) -> str:
        """What the last answer stands on."""
        reply = self._answered()
        if not reply.sources:
            return "no passage stood in the prompt"
        lines = []
        for i, one in enumerate(reply.sources):
            used = "  <- cited" if i in reply.cited else ""
            lines += [
                f"[{i + 1}] {one.citation}  {one.score:.2f}{used}",
                f"    {_short(one.text, _SHOWN)}",
            ]
        return "\n".join(lines)

    def judge(self, liked: bool, place: int | None) -> str:
        """A thumb for the last answer."""
        if place is not None:
            raise OrderError("an answer has no places: /like or /dislike alone")
        reply = self._answered()
        row = {"question": reply.question, "answer": reply.text, "liked": liked}
        self.thumbs.append(row)
        return f"noted, {self.kept.thumb(row)}"

    def profile(self) -> str:
        """What is known of the tenant and of this conversation."""
        tenant, state = self.tenant, self.state
        lines = [
            f"{tenant.name}: {len(tenant.pages)} pages, {len(tenant.onboarding)} dialogues,"
            f" {len(tenant.never)} words that are never said",
            f"guide: {_short(tenant.guide)}" if tenant.guide else "no guide",
            f"you: {self.user or 'nobody by name'}; {state.count} turns, language {state.language or 'not told yet'}",
        ]
        lines += [f"{name}: {value}" for name, value in self.pipeline.context.items()]
        lines += [f"remembered: {state.summary}"] if state.summary else []
        ups = sum(row["liked"] for row in self.thumbs)
        lines.append(f"thumbs: {ups} up, {len(self.thumbs) - ups} down")
        return "\n".join(lines)

    def forget(self) -> str:
        """Lets go of the conversation."""
        count, gone = self.state.count, self.kept.forget()
        self.state, self.last, self.thumbs = self.kept.fresh, None, []
        if self.pipeline.grounding is not None:
            self.pipeline.grounding.forget()
        return f"{count} turns are forgotten" + (f"; removed {', '.join(gone)}" if gone else "")

    def _answered(self) -> Reply:
        if self.last is None:
            raise OrderError("nothing was answered yet: ask something first")
        return self.last


def _short(text: str, length: int = 200) -> str:
    return textwrap.shorten(text, length, placeholder=" ...")
