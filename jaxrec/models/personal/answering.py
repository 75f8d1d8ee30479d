"""Answers of a personal model: how likely a given one is, and new ones in a tenant's voice."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from jaxrec import mesh as meshes
from jaxrec.data.chat import ChatFormat
from jaxrec.data.text import Example, Rows, pad
from jaxrec.delta import bank, take
from jaxrec.losses.tokens import following
from jaxrec.models.language.writing import GREEDY, Writer, batches
from jaxrec.models.personal.personal_lm import PersonalLM
from jaxrec.nn.generate import Generator
from jaxrec.structs import Delta, LFEOutput, Tokens


class Answering:
    """Scores and writes answers, `rows` at a time, each row with a p or a Delta of its own. Programs are compiled
    once.

    `params` of every call is the whole tree, with "backbone", "lfe", "head" and "hypernet" in it.

    Args:
      lm: the model; whether its head answers or its backbone is its own business.
      chat: the format of the backbone.
      rows: answers at a time.
      limit: tokens of an answer at most.
      repetition: penalty on tokens that an answer has already (1: none); those of its question are free.
    """

    def __init__(
        self,
        lm: PersonalLM,
        chat: ChatFormat,
        *,
        rows: int = 32,
        limit: int = 96,
        repetition: float = 1.0,
    ):
        self.lm, self.chat, self.rows, self.limit = lm, chat, rows, limit
        self._score = jax.jit(self._scored)
        self._turn = jax.jit(
            lambda params, p, q, more: lm.turn(params, lm.read(params, q), p, more)
        )
        # A head has read the question as Z, so its text begins with what opens an answer, and with nothing else.
        start = list(chat.marks().start)

        def prepare(params: PyTree, asked: Sequence[Any]) -> tuple[PyTree, list[list[int]]]:
            whose, *rest = zip(*asked, strict=True)
            # Requests come one by one, each with a p or a Delta of its own: stacked, they are one batch.
            who = bank(whose) if isinstance(whose[0], Delta) else np.stack(whose)
            question, retrieved = (jax.tree.map(lambda *x: np.stack(x), *part) for part in rest)
            with meshes.within(meshes.of(params)):
                turn = self._turn(params, who, Tokens(**question), retrieved)
            texts = zip(question["ids_BL"], question["mask_BL"], strict=True)
            return (params, turn), [lm.opening(ids[mask].tolist(), start) for ids, mask in texts]

        generator = Generator(
            lambda weights, reading: lm.step(*weights, reading),
            lambda weights, batch, slots: lm.new_cache(batch, slots),
            # Inside the backbone the question takes positions, before a head only the answer does.
            limit=lm.backbone.cfg.max_positions if lm.inside else limit + len(start),
            eos=chat.eos_ids,
        )
        # Greedy unless a call says otherwise, so that an answer is the same whenever it is asked for.
        how = dataclasses.replace(GREEDY, max_new=limit, repetition=repetition, spare_prompt=True)
        self._writer = Writer(generator, prepare, chat.decode, how, rows=rows)

    def logprob(
        self,
        params: PyTree,
        p_NE: Float[np.ndarray, "N E"] | Delta,
        question: Rows,
        answer: Rows,
        states: Any = None,
    ) -> Float[np.ndarray, " N"]:
        """Log-probability of each whole answer, nats.

        Args:
          params: the whole tree.
          p_NE: who answers, a row for each question: p, or a Delta of its own.
          question, answer: token rows, of `turns.turn_rows`.
          states: of `frozen_states.question_states`, an array or one on disk, where they are kept.
        """
        parts = []
        for cut, real in batches(len(question["ids_BL"]), self.rows):
            q, a = ({k: v[cut] for k, v in rows.items()} for rows in (question, answer))
            # A Delta's row axis is not the leading one, so numpy's indexing would cut its layers.
            who = take(p_NE, jnp.asarray(cut)) if isinstance(p_NE, Delta) else p_NE[cut]
            own = None if states is None else states[cut]
            with meshes.within(meshes.of(params)):
                scores = self._score(params, who, Tokens(**q), Tokens(**a), own)
            parts.append(np.asarray(scores)[:real])
        return np.concatenate(parts)

    def nll(
        self,
        params: PyTree,
        p_NE: Float[np.ndarray, "N E"],
        question: Rows,
        answer: Rows,
        states: Any = None,
    ) -> float:
        """Mean negative log-probability of an answer's token, nats.

        Args:
          params, p_NE, question, answer, states: as of `logprob`.
        """
        total = self.logprob(params, p_NE, question, answer, states).sum()
        # The first token of a row is told by nobody, so it is not counted either.
        return float(-total / answer["loss_BL"][:, 1:].sum())

    def write(
        self,
        params: PyTree,
        p_NE: Float[np.ndarray, "N E"] | Delta,
        questions: Sequence[Example],
        length: int,
        *,
        retrieved: LFEOutput | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """An answer to each question.

        Args:
          params: the whole tree.
          p_NE: who answers, a row for each question: p, or a Delta of its own.
          questions: of `turns.question_of`.
          length: tokens that questions are padded to.
          retrieved: Z of each row's passages, as `PersonalLM.turn` takes it.
          temperature: 0 takes the likeliest token.
          seed: row i draws by seed + i, whoever is beside it.
        """
        asked = self._asked(p_NE, questions, length, retrieved)
        how = dataclasses.replace(self._writer.how, temperature=temperature)
        return list(self._writer(params, asked, seed, how).texts or [])

    def stream(
        self,
        params: PyTree,
        p_NE: Float[np.ndarray, "N E"] | Delta,
        questions: Sequence[Example],
        length: int,
        *,
        retrieved: LFEOutput | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Iterator[list[str]]:
        """As `write`, a few tokens at a time: what each answer goes on with. No character comes in halves.

        Args:
          params, p_NE, questions, length, retrieved, temperature, seed: as of `write`.
        """
        asked = self._asked(p_NE, questions, length, retrieved)
        how = dataclasses.replace(self._writer.how, temperature=temperature)
        return self._writer.stream(params, asked, seed, how)

    def _asked(
        self,
        p_NE: Float[np.ndarray, "N E"] | Delta,
        questions: Sequence[Example],
        length: int,
        retrieved: LFEOutput | None,
    ) -> list[Any]:
        """The rows of a batch, one by one: p, question, what was retrieved."""
        rows = pad(questions, length, self.chat.pad_id)
        rest = (rows, jax.tree.map(np.asarray, retrieved))
        whose = p_NE if isinstance(p_NE, Delta) else np.asarray(p_NE)
        one = lambda i: take(whose, jnp.array([i])) if isinstance(whose, Delta) else whose[i]
        cut = lambda i: jax.tree.map(lambda x: x[i], rest)
        return [(one(i), *cut(i)) for i in range(len(questions))]

    def _scored(self, params, p_BE, question: Tokens, answer: Tokens, states_BLD=None):
        context = self.lm.read(params, question, states_BLD)
        delta = p_BE if isinstance(p_BE, Delta) else self.lm.personal(params, p_BE)
        log_p_BL, _ = self.lm.log_probs(params, context, answer, delta)
        # Places count by the weight of the token that they predict, which lies one further.
        return jnp.sum(log_p_BL * following(answer.loss_BL), axis=-1)
