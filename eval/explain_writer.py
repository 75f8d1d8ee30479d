"""The language models whose explanations are compared, each loaded as it was tuned: prompts in, texts out."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.data import text
from jaxrec.data.instructions import shorten
from jaxrec.dialogue.prompts import RATED_GENERATION, Generation
from jaxrec.losses.tokens import weighted
from jaxrec.models.language.completion import Completion
from jaxrec.models.language.tuned_folder import load_tuned
from jaxrec.structs import Tokens

LONGEST = 192  # tokens of a prompt that room is made for, so that all batches share their programs


@dataclasses.dataclass(frozen=True)
class ModelRow:
    """A row of the table. source: a model's folder or hub id, or an adapter's folder, whose base is then found."""

    name: str
    source: str
    adapter: str = ""
    quantise: Literal["", "nf4", "int8"] = ""
    dtype: Literal["float32", "bfloat16"] = "float32"
    generation: Generation = RATED_GENERATION


class Writer:
    """Writes texts to prompts, `batch` at a time, and measures how well it expected given ones.

    Prompts go in as the user's message, in the form in which the model was taught. One that is too long for the model
    loses its beginning.
    """

    def __init__(self, row: ModelRow, batch: int = 16, seed: int = 0):
        self.tuned = load_tuned(row.source, row.adapter, quantise=row.quantise, dtype=row.dtype)
        self.row, self.batch, self.seed, self.how = row, batch, seed, row.generation
        chat, cfg = self.tuned.chat, self.tuned.cfg
        self._complete = Completion(
            cfg,
            row.generation,
            eos=chat.eos_ids,
            text_of=chat.decode,
            longest=min(LONGEST, cfg.max_positions - row.generation.max_new),
        )
        self._sums = jax.jit(self._learned)

    def __call__(self, prompts: Sequence[str]) -> list[str]:
        """A text for each prompt. Rows are drawn by their place, so the same prompts give the same texts."""
        texts: list[str] = []
        for start in range(0, len(prompts), self.batch):
            texts += self._write(prompts[start : start + self.batch], self.seed + start)
        return texts

    def nats(self, pairs: Sequence[tuple[str, str]], length: int = 256) -> tuple[float, int]:
        """(mean nats a token of the completions, their tokens), each read behind its prompt."""
        chat = self.tuned.chat
        examples = [chat.example([("user", p), ("assistant", c)]) for p, c in pairs]
        examples = [e if len(e.ids) <= length else shorten(e, length) for e in examples]
        rows = text.pad(examples, length, chat.pad_id)
        total = np.zeros(2)
        for start in range(0, len(pairs), self.batch):
            part = {k: v[start : start + self.batch] for k, v in rows.items()}
            short = self.batch - len(part["ids_BL"])
            part = {k: np.pad(v, ((0, short), (0, 0))) for k, v in part.items()}
            total += np.array(self._sums(self.tuned.tree, Tokens(**part)))
        return float(total[0] / total[1]), int(total[1])

    def _learned(self, tree: Any, batch: Tokens) -> jax.Array:
        found = weighted(*self.tuned.lm.log_probs(tree, batch), batch.loss_BL)
        return jnp.stack([found["nll"], found["tokens"]])

    def _write(self, prompts: Sequence[str], seed: int) -> list[str]:
        chat = self.tuned.chat
        room = self.tuned.cfg.max_positions - self.how.max_new
        openings = [chat.opening([("user", prompt)]) for prompt in prompts]
        openings = [ids if len(ids) <= room else [ids[0], *ids[1 - room :]] for ids in openings]
        openings += [openings[0]] * (self.batch - len(openings))  # one shape, one program
        made = self._complete(self.tuned.tree, openings, seed)
        texts = made.texts or [chat.decode(ids) for ids in made.ids]
        return [written.strip() for written in texts[: len(prompts)]]


def perplexity(nats: float) -> float:
    """exp of the mean nats a token."""
    return math.exp(min(nats, 50.0))
