"""Answers written while a model is trained, so that one reads what the loss only hints at. OUT/samples.jsonl."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
from jaxtyping import PyTree

from jaxrec import delta as deltas
from jaxrec.data.chat import ChatError, ChatFormat, Message
from jaxrec.files import continue_json_lines
from jaxrec.nn.decoder import Decoder
from jaxrec.nn.generate import backbone_generator
from jaxrec.nn.sampling import sampling


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
    """Decodes the same prompts again and again. One process only: a job of several hosts writes none."""

    def __init__(
        self,
        model: Decoder,
        chat: ChatFormat,
        held: Sequence[Sequence[Message]],
        cfg: SampleConfig,
    ):
        self.chat, self.cfg = chat, cfg
        talks = [[("user", said)] for said in cfg.prompts] or [list(t) for t in held[: cfg.count]]
        room = model.cfg.max_positions - cfg.new
        talks = [talk for talk in talks if _opens(chat, talk)] if cfg.every else []
        openings = [chat.opening(talk) for talk in talks]
        self.openings = [
            ids if len(ids) <= room else [ids[0], *ids[1 - room :]] for ids in openings
        ]
        self.said = [talk[-1][1] for talk in talks]
        self.generator = backbone_generator(model.cfg, eos=chat.eos_ids)
        self._settle = jax.jit(lambda delta, params: deltas.settle(delta, params, Decoder.path_of))

    def due(self, step: int, last: int) -> bool:
        """Whether samples are written at this evaluation."""
        every = self.cfg.every
        alone = jax.process_count() == 1
        return bool(every and alone and self.openings and (step % every == 0 or step == last))

    def answers(self, tree: PyTree) -> list[str]:
        """An answer to each prompt."""
        cfg = self.cfg
        how = sampling(
            len(self.openings), temperature=cfg.temperature, top_p=cfg.top_p, max_new=cfg.new
        )
        delta = tree.get("delta")
        if delta is not None:
            delta = self._settle(delta, tree["backbone"])
        made = self.generator((tree["backbone"], delta), self.openings, how)
        return [self.chat.decode(ids) for ids in made.ids]

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
