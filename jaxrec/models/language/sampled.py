"""Answers written while a model is trained, so that one reads what the loss only hints at. OUT/samples.jsonl."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
from jaxtyping import PyTree

from jaxrec.data.chat import ChatError, ChatFormat, Message
from jaxrec.dialogue.prompts import Generation
from jaxrec.files import continue_json_lines
from jaxrec.models.language.writing import decoder_writer, openings_of
from jaxrec.nn.decoder import Decoder


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """Which answers are written, and when. `every` is in steps, a multiple of `loop.eval_every`; 0: never."""

    every: int = 0
    prompts: tuple[str, ...] = ()  # of the user; the first held-out conversations when empty
    count: int = 3  # of held-out conversations
    new: int = 60  # tokens
    temperature: float = 0.0
    top_p: float = 1.0


class Sampled:
    """Decodes the same prompts again and again. One process only: a job of several hosts writes none.

    Args:
      model: the decoder.
      chat: its format.
      held: conversations, each up to the answer that is written.
      cfg: how many, how long, and how they are sampled.
    """

    def __init__(
        self,
        model: Decoder,
        chat: ChatFormat,
        held: Sequence[Sequence[Message]],
        cfg: SampleConfig,
    ):
        self.cfg = cfg
        talks = [[("user", said)] for said in cfg.prompts] or [list(t) for t in held[: cfg.count]]
        # A prompt that is too long gives way to the answer: its oldest tokens go (`openings_of`).
        room = model.cfg.max_positions - cfg.new
        # Nothing is encoded where no samples are written.
        talks = [talk for talk in talks if _opens(chat, talk)] if cfg.every else []
        self.openings = openings_of(chat, talks, room)
        self.said = [talk[-1][1] for talk in talks]
        how = Generation(cfg.new, cfg.temperature, cfg.top_p, repetition=1.0, stop=())
        # a backbone that trains changes all the time: a second copy of it is not worth its memory
        self._write = decoder_writer(
            model.cfg, how, eos=chat.eos_ids, text_of=chat.decode, cut=False
        )

    def due(self, step: int, last: int) -> bool:
        """Whether samples are written at this evaluation."""
        every = self.cfg.every
        alone = jax.process_count() == 1
        return bool(every and alone and self.openings and (step % every == 0 or step == last))

    def answers(self, tree: PyTree) -> list[str]:
        """An answer to each prompt."""
        return list(self._write(tree, self.openings).texts or [])

    def write(self, path: Path, tree: PyTree, step: int) -> None:
        """Adds a line a prompt to `path`, prints them, and drops lines of later steps (of a killed run)."""
        rows = []
        for said, answer in zip(self.said, self.answers(tree), strict=True):
            rows.append({"step": step, "prompt": said, "answer": answer})
            print(f"step {step} | {said.strip()[-80:]!r} -> {answer.strip()!r}", flush=True)
        continue_json_lines(path, rows, "step", step)


def _opens(chat: ChatFormat, talk: Sequence[Message]) -> bool:
    """Whether the model's format can write it; one that it cannot was counted where the rows were encoded."""
    try:
        return bool(chat.opening(talk))
    except ChatError:
        return False
