"""Answers of a personal model: how likely a given one is, and new ones in a tenant's voice."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, PyTree

from jaxrec.data.chat import ChatFormat
from jaxrec.data.text import Example, Rows, pad
from jaxrec.losses.tokens import sequence_logprob
from jaxrec.models.personal.personal_lm import PersonalLM
from jaxrec.nn.generate import Generator
from jaxrec.nn.sampling import sampling
from jaxrec.structs import Tokens


class Answering:
    """Scores and writes answers, `rows` at a time, each row with a p of its own. Programs are compiled once.

    limit: tokens of an answer at most. `params` of every call is the whole tree, with "backbone", "lfe", "head" and
    "hypernet" in it.
    """

    def __init__(self, lm: PersonalLM, chat: ChatFormat, *, rows: int = 32, limit: int = 96):
        self.lm, self.chat, self.rows, self.limit = lm, chat, rows, limit
        self._score = jax.jit(self._scored)
        self._turn = jax.jit(lambda params, p, q: lm.turn(params, lm.encode(params, q), p))
        self._generate = Generator(
            lambda weights, reading: lm.step(*weights),
            lambda weights, batch, slots: lm.new_cache(batch, slots),
            limit=limit + len(chat.marks().start),
            eos=chat.eos_ids,
        )

    def logprob(
        self, params: PyTree, p_NE: Float[np.ndarray, "N E"], question: Rows, answer: Rows
    ) -> Float[np.ndarray, " N"]:
        """Log-probability of each whole answer, nats."""
        parts = []
        for cut, real in self._batches(len(p_NE)):
            q, a = ({k: v[cut] for k, v in rows.items()} for rows in (question, answer))
            parts.append(
                np.asarray(self._score(params, p_NE[cut], Tokens(**q), Tokens(**a)))[:real]
            )
        return np.concatenate(parts)

    def nll(
        self, params: PyTree, p_NE: Float[np.ndarray, "N E"], question: Rows, answer: Rows
    ) -> float:
        """Mean negative log-probability of an answer's token, nats."""
        total = self.logprob(params, p_NE, question, answer).sum()
        return float(-total / answer["loss_BL"][:, 1:].sum())

    def write(
        self,
        params: PyTree,
        p_NE: Float[np.ndarray, "N E"],
        questions: Sequence[Example],
        length: int,
        *,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """An answer to each question. `length`: tokens that questions are padded to. Greedy at temperature 0."""
        rows, texts = pad(questions, length, self.chat.pad_id), []
        for cut, real in self._batches(len(questions)):
            asked = Tokens(**{k: v[cut] for k, v in rows.items()})
            turn = self._turn(params, p_NE[cut], asked)
            how = sampling(
                len(cut),
                temperature=temperature,
                max_new=self.limit,
                seed=[seed + int(i) for i in cut],
            )
            start = [list(self.chat.marks().start)] * len(cut)
            out = self._generate((params, turn), start, how)
            texts += [self.chat.decode(ids) for ids in out.ids[:real]]
        return texts

    def _scored(self, params, p_BE, question: Tokens, answer: Tokens):
        z, delta = self.lm.encode(params, question), self.lm.personal(params, p_BE)
        logits = self.lm.answer(params, z, answer, delta).logits
        return sequence_logprob(logits, answer.ids_BL, answer.loss_BL)

    def _batches(self, count: int):
        """(indices of a full batch, how many of them are real): the last one repeats its first row."""
        for start in range(0, count, self.rows):
            index = np.arange(start, min(start + self.rows, count))
            yield np.pad(index, (0, self.rows - len(index)), mode="edge"), len(index)
