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
from jaxrec.losses.tokens import token_sums
from jaxrec.models.language.tuned_folder import load_tuned
from jaxrec.models.language.writing import PromptWriter
from jaxrec.structs import Tokens


@dataclasses.dataclass(frozen=True)
class ModelRow:
    """A row of the table. source: a model's folder or hub id, or an adapter's folder, whose base is then found."""

    name: str
    source: str
    adapter: str = ""
    quantise: Literal["", "nf4", "int8"] = ""
    dtype: Literal["float32", "bfloat16"] = "float32"
    generation: Generation = RATED_GENERATION


class MeasuredWriter(PromptWriter):
    """Writes texts to prompts, and measures how well it expected given ones."""

    def __init__(self, row: ModelRow, batch: int = 16, seed: int = 0):
        tuned = load_tuned(row.source, row.adapter, quantise=row.quantise, dtype=row.dtype)
        super().__init__(tuned, row.generation, batch, seed)
        self._sums = jax.jit(self._learned)

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
        found = token_sums(*self.tuned.lm.log_probs(tree, batch), batch.loss_BL)
        return jnp.stack([found["nll"], found["tokens"]])


def perplexity(nats: float) -> float:
    """exp of the mean nats a token."""
    return math.exp(min(nats, 50.0))
