"""What both sides of the GRPO race share: the prompts' texts, the reward, and a fixed rollout for the answers."""

from collections.abc import Sequence

import numpy as np

from bench.race import shape

PROMPTS, GROUP, RANK = 4, 4, 16
ROWS = PROMPTS * GROUP
KL, LR = 0.04, 1e-5


def text_of(ids: Sequence[int]) -> str:
    """Token 7 as "t7", with spaces between: a random model has no better words."""
    return " ".join(f"t{i}" for i in ids)


def reward(texts: Sequence[str]) -> list[float]:
    """The part of each text's tokens whose number is even."""
    return [
        sum(int(word[1:]) % 2 == 0 for word in text.split()) / max(len(text.split()), 1)
        for text in texts
    ]


def prompts(size: str) -> list[list[int]]:
    """Token ids of the prompts, GROUP times each, neighbours."""
    return np.repeat(shape.prompts(size, PROMPTS), GROUP, axis=0).tolist()


def fixed(size: str, new: int) -> tuple[np.ndarray, np.ndarray]:
    """(completions [ROWS, new], rewards [ROWS]): what the losses are compared on."""
    rng = np.random.default_rng(5)
    said = rng.integers(4, shape.SHAPES[size]["vocab_size"], (ROWS, new))
    return said, np.array(reward([text_of(row) for row in said]), np.float32)
