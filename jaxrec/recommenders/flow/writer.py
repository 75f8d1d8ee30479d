"""Floor 4: a tuned language model as a callable from prompts to texts, which is all that an explanation asks for."""

from collections.abc import Sequence

from jaxrec.dialogue.prompts import RATED_GENERATION, Generation
from jaxrec.models.language.completion import Completion
from jaxrec.models.language.tuned_folder import Tuned

LONGEST = 192  # tokens of a prompt that room is made for, so that all batches share their programs


class Writer:
    """Writes texts to prompts, `batch` at a time.

    tuned: from `tuned_folder.load_tuned`. generation: how it is sampled, drawn by `seed`. Prompts go in as the user's
    message, in the form in which the model was taught. One that is too long for the model loses its beginning.
    """

    def __init__(
        self,
        tuned: Tuned,
        generation: Generation = RATED_GENERATION,
        batch: int = 16,
        seed: int = 0,
    ):
        self.tuned, self.batch, self.seed, self.how = tuned, batch, seed, generation
        chat, cfg = tuned.chat, tuned.cfg
        self._complete = Completion(
            cfg,
            generation,
            eos=chat.eos_ids,
            text_of=chat.decode,
            longest=min(LONGEST, cfg.max_positions - generation.max_new),
        )

    def __call__(self, prompts: Sequence[str]) -> list[str]:
        """A text for each prompt. Rows are drawn by their place, so the same prompts give the same texts."""
        texts: list[str] = []
        for start in range(0, len(prompts), self.batch):
            texts += self._write(prompts[start : start + self.batch], self.seed + start)
        return texts

    def _write(self, prompts: Sequence[str], seed: int) -> list[str]:
        chat = self.tuned.chat
        room = self.tuned.cfg.max_positions - self.how.max_new
        openings = [chat.opening([("user", prompt)]) for prompt in prompts]
        openings = [ids if len(ids) <= room else [ids[0], *ids[1 - room :]] for ids in openings]
        openings += [openings[0]] * (self.batch - len(openings))  # one shape, one program
        made = self._complete(self.tuned.tree, openings, seed)
        texts = made.texts or [chat.decode(ids) for ids in made.ids]
        return [written.strip() for written in texts[: len(prompts)]]
