"""How texts are sampled from a language model, and the error of whoever asks one."""

import dataclasses

from jaxrec.config import RunError


class PromptError(RunError, ValueError):
    """What no prompt can be made of."""


@dataclasses.dataclass(frozen=True)
class Generation:
    """How a text is sampled. The defaults are GenRec's for explanations, phase 4."""

    max_new: int = 60
    temperature: float = 0.7
    top_p: float = 0.9
    repetition: float = 1.2
    stop: tuple[str, ...] = ("\n", ".", "!")
    spare_prompt: bool = False  # words of the prompt may be written once without a penalty


# The best answer of phase 6 has a "!" as its fifth word: under phase 4's stops nobody would ever read further.
RATED_GENERATION = Generation(stop=("\n",))
