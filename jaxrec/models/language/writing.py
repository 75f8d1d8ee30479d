"""Floor 3: where texts are written: requests in, texts out, whole or as they come.

Writer          any model that decodes: its Generator, and how requests become weights and openings
decoder_writer  a decoder, tuned or not; a request is the ids of an opening
PromptWriter    a tuned model of a folder, as a callable from prompts to texts
Answering       a personal model (`models.personal.answering`); a request is a question, a p, retrieved pages
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jaxrec import delta as deltas
from jaxrec.data.chat import ChatFormat, Message
from jaxrec.dialogue.prompts import RATED_GENERATION, Generation
from jaxrec.models.language.tuned_folder import Tuned
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.nn.generate import Generated, Generator, backbone_generator
from jaxrec.nn.sampling import Sampling, sampling
from jaxrec.nn.stack import every_layer, recut, stack_sizes
from jaxrec.structs import Delta, Tokens

GREEDY = Generation(max_new=96, temperature=0.0, top_p=1.0, repetition=1.0, stop=())
LONGEST = 192  # tokens of a prompt that room is made for, so that all batches share their programs
Prepare = Callable[[PyTree, Sequence[Any]], tuple[PyTree, list[list[int]]]]


class Writer:
    """Writes a text to each request, its compiled programs kept from call to call.

    generator: what decodes. prepare: (tree, requests) -> (the generator's weights, the ids that each text goes on
    from). text_of: ids -> text (`ChatFormat.decode`). how: lengths and sampling, where a call names no other. rows:
    requests at a time, the last batch filled up, so that there is one program; 0: all of a call at once. longest:
    ids of an opening to make room for, so that calls with openings up to there share their programs.
    """

    def __init__(
        self,
        generator: Generator,
        prepare: Prepare,
        text_of: Callable[[Sequence[int]], str],
        how: Generation = GREEDY,
        *,
        rows: int = 0,
        longest: int = 1,
    ):
        self.generator, self.prepare, self.text_of = generator, prepare, text_of
        self.how, self.rows, self.longest = how, rows, longest

    def __call__(
        self, tree: PyTree, requests: Sequence[Any], seed: int = 0, how: Generation | None = None
    ) -> Generated:
        """A text to each request. `ids` are without the end token, `texts` are cut before a stop string.

        Args:
          tree: the model's parts.
          requests: what `prepare` understands.
          seed: request i draws by seed + i, whoever is asked beside it.
          how: lengths and sampling, in place of the writer's own.

        Raises ValueError for an opening that is empty or too long for the model.
        """
        parts, how = [], how or self.how
        for index, real in batches(len(requests), self.rows or len(requests)):
            weights, openings = self.prepare(tree, [requests[i] for i in index])
            # Seeds by the request's number and not its place in the batch, so the batch size changes no text.
            settings = _sampling(how, [seed + int(i) for i in index])
            out = self.generator(weights, openings, settings, **self._reading(how))
            parts.append(
                Generated(out.ids[:real], out.reason[:real], out.texts[:real], out.end[:real])
            )
        join = lambda name: [x for part in parts for x in getattr(part, name)]
        return Generated(join("ids"), join("reason"), join("texts"), join("end"))

    def stream(
        self,
        tree: PyTree,
        requests: Sequence[Any],
        seed: int = 0,
        how: Generation | None = None,
        every: int = 4,
    ) -> Iterator[list[str]]:
        """What each text goes on with, a few tokens at a time; joined, the pieces are the texts of a call.

        A character of several tokens comes when it is whole; what may be the beginning of a stop string comes when it
        is not one.

        Args:
          tree, requests, seed, how: as of a call.
          every: new tokens between two pieces.
        """
        how = how or self.how
        weights, openings = self.prepare(tree, requests)
        settings = _sampling(how, [seed + i for i in range(len(requests))])
        given = [""] * len(requests)
        for out in self.generator.stream(
            weights, openings, settings, every=every, **self._reading(how)
        ):
            pieces = []
            for i, (text, ended) in enumerate(zip(out.texts, out.reason, strict=True)):
                sure = text if ended else _sure(text, how.stop)
                # Decoding may change the end of a text when the next token comes, and what was given out cannot be
                # taken back: such a piece waits until the text goes on from what was given.
                pieces.append(sure[len(given[i]) :] if sure.startswith(given[i]) else "")
                given[i] += pieces[-1]
            yield pieces

    def _reading(self, how: Generation) -> dict[str, Any]:
        return {"stop": how.stop, "text_of": self.text_of, "at_least": self.longest}


def batches(count: int, rows: int) -> Iterator[tuple[np.ndarray, int]]:
    """(indices of a full batch, how many of them are real): the last one repeats its last row."""
    for start in range(0, count, max(rows, 1)):
        index = np.arange(start, min(start + rows, count))
        yield np.pad(index, (0, rows - len(index)), mode="edge"), len(index)


# ---------------------------------------------------------------------------------------------- decoders


def decoder_writer(
    cfg: DecoderConfig,
    how: Generation,
    *,
    eos: Sequence[int],
    text_of: Callable[[Sequence[int]], str],
    rows: int = 0,
    longest: int = 1,
    merged: bool = False,
    cut: bool = True,
) -> Writer:
    """A writer whose tree is {"backbone", "delta"?} and whose requests are the ids of openings.

    cfg: of the backbone, cut as its tree is. how, text_of, rows, longest: of `Writer`. eos: ids that end a text.
    merged: the Delta (LoRA, IA3) is folded into a copy of the weights for each call: every token costs less, and memory
    holds the backbone once more. cut: on a CPU the decoder is cut between all layers, as a scan would copy each
    layer's weights at every token; that copy of a backbone is kept from call to call.
    """
    weights = _DecoderWeights(cfg, merged, cut)

    # The tree may change from call to call (a model that trains): what is made of it is made anew, or kept by identity.
    def prepare(tree: PyTree, openings: Sequence[Any]) -> tuple[PyTree, list[list[int]]]:
        return weights(tree), [list(ids) for ids in openings]

    generator = backbone_generator(weights.serving, eos=eos)
    return Writer(generator, prepare, text_of, how, rows=rows, longest=longest)


def openings_of(chat: ChatFormat, talks: Sequence[Sequence[Message]], room: int) -> list[list[int]]:
    """Conversations opened for an answer; one of more than `room` tokens loses its oldest, but not its first one."""
    openings = [chat.opening(talk) for talk in talks]
    # The first id is the mark that texts begin with (<bos>): the model has learned from no text without it.
    return [ids if len(ids) <= room else [ids[0], *ids[1 - room :]] for ids in openings]


class PromptWriter:
    """Writes texts to prompts, `batch` at a time: all that an explanation asks of a language model.

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
        self.tuned, self.batch, self.seed = tuned, batch, seed
        self._room = tuned.cfg.max_positions - generation.max_new
        self._writer = decoder_writer(
            tuned.cfg,
            generation,
            eos=tuned.chat.eos_ids,
            text_of=tuned.chat.decode,
            rows=batch,
            longest=min(LONGEST, self._room),
        )

    def __call__(self, prompts: Sequence[str]) -> list[str]:
        """A text for each prompt. Rows are drawn by their place, so the same prompts give the same texts."""
        talks = [[("user", prompt)] for prompt in prompts]
        openings = openings_of(self.tuned.chat, talks, self._room)
        made = self._writer(self.tuned.tree, openings, self.seed)
        return [text.strip() for text in made.texts or []]


class _DecoderWeights:
    """A tuned decoder's tree made ready to decode with: (params, delta or None), cut for `serving`."""

    def __init__(self, cfg: DecoderConfig, merged: bool, cut: bool):
        self.trained, self.merged = cfg, merged
        # Only a CPU's scan copies weights at every token; elsewhere the layout stays as it was trained.
        on_cpu = jax.default_backend() == "cpu"
        self.serving = dataclasses.replace(cfg, cuts=every_layer(cfg)) if on_cpu and cut else cfg
        self._cut: tuple[PyTree, PyTree] | None = None  # a backbone, and the same cut for serving
        sizes = [list(stack_sizes(c.layers, c.cuts).values()) for c in (cfg, self.serving)]
        self._recut = jax.jit(lambda params: recut(params, cfg, self.serving))
        self._restack = jax.jit(lambda delta: deltas.restack(delta, *sizes))
        self._settle = jax.jit(lambda delta, params: deltas.settle(delta, params, Decoder.path_of))
        self._merge = jax.jit(
            lambda params, delta: deltas.merge_params(params, delta, Decoder.path_of)
        )

    def __call__(self, tree: PyTree) -> tuple[PyTree, Delta | None]:
        params, delta = self._backbone(tree["backbone"]), self._delta(tree)
        if self.merged and delta is not None:
            return self._merge(params, delta), None
        return params, delta

    def _backbone(self, params: PyTree) -> PyTree:
        if self.trained == self.serving:
            return params
        # The trained tree changes between calls, or is the same arrays: identity tells without comparing numbers.
        if self._cut is None or not _same(self._cut[0], params):
            self._cut = params, self._recut(params)
        return self._cut[1]

    def _delta(self, tree: PyTree) -> Delta | None:
        delta = tree.get("delta")
        if delta is None:
            return None
        # |W + s a b| of a DoRA changes with no token: computed once here instead of at each.
        if not self.merged:
            delta = self._settle(delta, tree["backbone"])
        return delta if self.trained == self.serving else self._restack(delta)


# ----------------------------------------------------------------------------------------------- rollouts


def written_ids(out: Generated) -> list[list[int]]:
    """What each row chose, its end token included: what a policy is trained on."""
    # Ending was a choice of the policy too, so the end token is trained on.
    ends = out.end or [None] * len(out.ids)
    return [ids if end is None else [*ids, end] for ids, end in zip(out.ids, ends, strict=True)]


def prompt_rows(
    prompts: Sequence[Sequence[int]],
    said: Sequence[Sequence[int]],
    longest: int,
    width: int,
    pad_id: int = 0,
) -> Tokens:
    """Prompts that end, and texts that begin, at one place of every row; the texts are what counts.

    So no token before that place is ever predicted by a policy, and no logits are needed there.

    Args:
      prompts: ids that were gone on from.
      said: ids that were written.
      longest: the place where prompts end; none is longer.
      width: of the rows.
      pad_id: what stands where there is nothing.
    """
    shape = len(prompts), width
    ids, mask = np.full(shape, pad_id, np.int32), np.zeros(shape, bool)
    loss = np.zeros(shape, np.float32)
    for i, (prompt, own) in enumerate(zip(prompts, said, strict=True)):
        start, end = longest - len(prompt), longest + len(own)
        ids[i, start:end], mask[i, start:end] = [*prompt, *own], True
        loss[i, longest:end] = 1.0
    return Tokens(ids, mask, loss)


# ------------------------------------------------------------------------------------------------- inside


def _sampling(how: Generation, seeds: Sequence[int]) -> Sampling:
    return sampling(
        len(seeds),
        temperature=how.temperature,
        top_p=how.top_p,
        repetition=how.repetition,
        max_new=how.max_new,
        seed=list(seeds),
        spare_prompt=how.spare_prompt,
    )


def _sure(text: str, stop: Sequence[str]) -> str:
    """What of an unfinished text stays as it is: no half of a character, no beginning of a stop string."""
    text = text.rstrip("\ufffd")  # bytes that are no character yet
    # What ends like the beginning of a stop string may become one with the next token.
    held = [n for s in stop for n in range(1, len(s)) if text.endswith(s[:n])]
    return text[: len(text) - max(held, default=0)]


def _same(a: PyTree, b: PyTree) -> bool:
    """Whether two trees are the same arrays (not: equal ones)."""
    first, second = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(first) == len(second) and all(x is y for x, y in zip(first, second, strict=True))
