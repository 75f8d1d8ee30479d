"""Floor 4: what writes the text to a prompt, whatever it is: a model's folder, a tenant's voice, an endpoint by URL.

    ModelCompletion     SmolLM2 by name, a folder, an adapter on one; ours are tuned by `jaxrec.tune`
    TenantCompletion    a personal model in the voice of one of its tenants
    endpoint.Endpoint   whoever speaks OpenAI's protocol

All three are a `Completion`: prompts in, texts out, whole or as they come.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from jaxrec.assistant.assistant import Assistant
from jaxrec.config import RunError
from jaxrec.data.chat_format import ChatFormat
from jaxrec.dialogue.prompts import Generation, Prompt
from jaxrec.models.language.tuned_folder import Tuned
from jaxrec.models.language.writing import GREEDY, Writer, decoder_writer

_PIECE = 4  # new tokens between two pieces of a stream
_STEP = 256  # tokens of a prompt that room is made for, or a multiple: so few programs are compiled


@runtime_checkable
class Completion(Protocol):
    """What answers prompts. chat: how it reads them, None where that is not known here; room: tokens of a prompt."""

    name: str
    chat: ChatFormat | None
    room: int

    def __call__(self, prompts: Sequence[Prompt], seed: int = 0) -> list[str]:
        """A text to each prompt."""

    def stream(self, prompt: Prompt, seed: int = 0) -> Iterator[str]:
        """The text to a prompt in pieces."""


class ModelCompletion:
    """A language model of a folder, tuned or not, as a `Completion`.

    tuned: from `load_tuned`. how: lengths and sampling. rows: prompts at a time, where there are several.
    """

    def __init__(self, tuned: Tuned, how: Generation = GREEDY, rows: int = 8):
        self.tuned, self.how, self.rows = tuned, how, rows
        self.name, self.chat = tuned.base, tuned.chat
        self.room = tuned.cfg.max_positions - how.max_new
        if self.room < 16:
            raise RunError(
                f"{tuned.base} reads {tuned.cfg.max_positions} tokens: {how.max_new} new ones leave no room"
            )
        self._writer = decoder_writer(
            tuned.cfg, how, eos=tuned.chat.eos_ids, text_of=tuned.chat.decode
        )

    def __call__(self, prompts: Sequence[Prompt], seed: int = 0) -> list[str]:
        """As `Completion`. Prompt i draws by seed + i, whoever is asked beside it."""
        openings = [list(prompt.ids) for prompt in prompts]
        if not openings:
            return []
        # One prompt is answered by a program of one row: eight would cost eight times as much.
        writer = self._for(max(map(len, openings)), 1 if len(openings) == 1 else self.rows)
        return [text.strip() for text in writer(self.tuned.tree, openings, seed).texts or []]

    def stream(self, prompt: Prompt, seed: int = 0) -> Iterator[str]:
        """As `Completion`; no character comes in halves."""
        writer = self._for(len(prompt.ids), 1)
        pieces = writer.stream(self.tuned.tree, [list(prompt.ids)], seed, every=_PIECE)
        return (piece for (piece,) in pieces if piece)

    def _for(self, longest: int, rows: int) -> Writer:
        """The writer for prompts of so many tokens."""
        one, room = self._writer, min(-(-longest // _STEP) * _STEP, self.room)
        return Writer(one.generator, one.prepare, one.text_of, one.how, rows=rows, longest=room)


class TenantCompletion:
    """A personal model in the voice of a tenant, as a `Completion`.

    assistant: the model and those whom it knows. tenant: whose voice it is. temperature: 0 takes the likeliest words.
    Raises TenantError, with the nearest names, for a stranger.
    """

    def __init__(self, assistant: Assistant, tenant: str, temperature: float = 0.0):
        assistant.voice(tenant)
        self.assistant, self.tenant, self.temperature = assistant, tenant, temperature
        self.name, self.chat = f"{assistant.folder} as {tenant}", assistant.model.chat
        self.room = assistant.room

    def __call__(self, prompts: Sequence[Prompt], seed: int = 0) -> list[str]:
        """As `Completion`."""
        return self.assistant.answers(
            [list(prompt.messages) for prompt in prompts],
            self.tenant,
            temperature=self.temperature,
            seed=seed,
        )

    def stream(self, prompt: Prompt, seed: int = 0) -> Iterator[str]:
        """As `Completion`."""
        return self.assistant.stream(
            list(prompt.messages), self.tenant, temperature=self.temperature, seed=seed
        )


def greedy(max_new: int) -> Generation:
    """The likeliest words, so many at most."""
    return dataclasses.replace(GREEDY, max_new=max_new)
