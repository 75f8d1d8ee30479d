"""Floor 3: prompts to learn from by reward: a .jsonl[.gz] in, token ids and what the reward must know of each out."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from jaxrec.config import RunError
from jaxrec.data.chat import ChatError, ChatFormat
from jaxrec.data.instructions import Skipped, json_lines
from jaxrec.data.row_layouts import check_row
from jaxrec.rewards.reward import Sample

_KNOWN = ("prompt", "rating", "persona", "title", "completion")


class PromptsError(RunError, ValueError):
    """A file without one usable prompt."""


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt as token ids, and the sample that an answer to it will be."""

    ids: list[int]
    unanswered: Sample

    def sample(self, text: str) -> Sample:
        """The sample with this text as its answer."""
        return dataclasses.replace(self.unanswered, text=text)


def read_prompts(path: str | Path, chat: ChatFormat, longest: int) -> tuple[list[Prompt], Skipped]:
    """(each distinct usable prompt of the file, in order; what was left out, counted and named).

    A row: "prompt" (a text), and where known "rating" (a number), "persona", "title"; other fields but "completion"
    are handed to the reward as `Sample.more`. Left out: a prompt that is empty, of more than `longest` tokens, or
    known already, a rating that is no number, a line that is no JSON. Raises PromptsError when nothing remains.
    """
    found: dict[Any, Prompt] = {}
    skipped = Skipped()
    for where, row in json_lines(Path(path)):
        try:
            sample = _sample(row)
        except (TypeError, ValueError) as error:
            skipped.add(str(error), where)
            continue
        key = sample.prompt, sample.rating, sample.persona, sample.title
        if key in found:
            skipped.add("a prompt that was there before", where)
            continue
        try:
            ids = chat.opening((("user", sample.prompt),))
        except ChatError as error:
            skipped.add(f"unwritable: {error}", where)
            continue
        if len(ids) > longest:
            skipped.add(f"too long: more than {longest} tokens", where)
            continue
        found[key] = Prompt(ids, sample)
    if not found:
        raise PromptsError(
            f"{path}: no usable prompt; {'; '.join(skipped.lines()) or 'it is empty'}"
        )
    return list(found.values()), skipped


def _sample(row: Any) -> Sample:
    check_row(row)
    prompt, rating = row.get("prompt"), row.get("rating")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("no prompt, or an empty one")
    if rating is not None:
        if not isinstance(rating, int | float) or isinstance(rating, bool):
            raise ValueError("a rating that is no number")
        rating = float(rating)
        if not math.isfinite(rating):
            raise ValueError("a rating that is no number")
    text = lambda name: row[name] if isinstance(row.get(name), str) else ""
    more = {name: value for name, value in row.items() if name not in _KNOWN}
    return Sample(prompt, "", rating, text("persona"), text("title"), more)
