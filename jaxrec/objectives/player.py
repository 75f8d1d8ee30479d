"""Floor 4: a policy that writes to prompts, and the reward of what it wrote: what a rollout is played by."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import PyTree

from jaxrec.dialogue.prompts import Generation
from jaxrec.models.language.tuned_folder import Tuned
from jaxrec.models.language.writing import decoder_writer, prompt_rows, written_ids
from jaxrec.rewards.reward import LENGTH, Reward, RewardError, numbers, score_samples
from jaxrec.rewards.rewarded_prompts import Prompt
from jaxrec.structs import Tokens
from jaxrec.training import partition
from jaxrec.training.rollout import Playout


class Player:
    """Lets a policy write, and has it rewarded.

    tuned: the model. reward: samples in, scores by part out; tried once at the start, so that its mistakes show before
    anything is trained. frozen: what of the model's tree does not train. prompts: all that will be played, for their
    longest. generation: how texts are drawn. merged: write with the Delta folded into a copy of the weights.
    Raises RewardError where the reward cannot be computed.
    """

    def __init__(
        self,
        tuned: Tuned,
        reward: Reward,
        frozen: PyTree,
        prompts: Sequence[Prompt],
        generation: Generation,
        merged: bool = False,
    ):
        self.reward, self.frozen, self.pad_id = reward, frozen, tuned.chat.pad_id
        self.longest = max(len(p.ids) for p in prompts)
        self.width = self.longest + generation.max_new
        self.writer = decoder_writer(
            tuned.cfg, generation, eos=tuned.chat.eos_ids, text_of=tuned.chat.decode,
            longest=self.longest, merged=merged,
        )  # fmt: skip
        # the names of its parts, which every rollout must give
        self.names = tuple(numbers(score_samples(reward, [prompts[0].sample("")])[0]))

    def play(
        self, params: PyTree, prompts: Sequence[Prompt], seed: int
    ) -> tuple[Playout, list[dict[str, Any]]]:
        """What was played to these prompts, and the texts with their scores.

        Raises RewardError where the reward's parts are not those of its trial.
        """
        out = self.writer(partition.merge(params, self.frozen), [p.ids for p in prompts], seed)
        samples = [p.sample(text) for p, text in zip(prompts, out.texts, strict=True)]
        scores = [numbers(score) for score in score_samples(self.reward, samples)]
        for i, row in enumerate(scores):
            if tuple(row) != self.names:
                raise RewardError(
                    f"the reward names {sorted(row)} for sample {i} and {sorted(self.names)} for an empty text"
                )
        words = np.array([len(sample.text.split()) for sample in samples], np.float32)
        stopped = np.array([why == "stop" for why in out.reason])
        ids = written_ids(out)
        columns: Mapping[str, np.ndarray] = {
            **{name: np.array([row[name] for row in scores], np.float32) for name in self.names},
            "tokens": np.array([len(row) for row in ids], np.float32),
            "words": words,
            "ended": np.array([why != "length" for why in out.reason], np.float32),
            # the stop strings end a text early, and the length reward is lost
            "stopped_short": (stopped & (words < LENGTH[0])).astype(np.float32),
        }
        lines = [
            {"prompt": s.prompt, "text": s.text, "ended": why, **row}
            for s, why, row in zip(samples, out.reason, scores, strict=True)
        ]
        rows = self.rows([p.ids for p in prompts], ids)
        return Playout(rows, columns["reward"], columns), lines

    def rows(self, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]) -> Tokens:
        """Prompt and text as token rows of one width; the text is what counts."""
        return prompt_rows(prompts, texts, self.longest, self.width, self.pad_id)

    def like(self, count: int) -> Playout:
        """A Playout of the right shapes."""
        zeros = np.zeros(count, np.float32)
        names = (*self.names, "tokens", "words", "ended", "stopped_short")
        return Playout(self.rows([[0]] * count, [[0]] * count), zeros, dict.fromkeys(names, zeros))
