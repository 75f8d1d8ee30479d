"""Floor 3: a tuned decoder writes: prompts in, sampled continuations out, by the cached decoder.

On a CPU the decoder is cut between all layers first (a scan would copy each layer's weights at every token); of a
backbone that stays the same from call to call that is done once.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import PyTree

from jaxrec import delta as deltas
from jaxrec.dialogue.prompts import Generation
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.nn.generate import Generated, backbone_generator
from jaxrec.nn.sampling import sampling
from jaxrec.nn.stack import every_layer, recut, stack_sizes
from jaxrec.structs import Delta, Tokens


class Completion:
    """Continues prompts with a decoder's tree {"backbone", "delta"?}; its compiled programs are kept.

    eos: ids that end a text. text_of: ids -> text, for the stop strings. longest: prompt tokens to make room for, so
    that all calls with as many prompts share their programs. merged: the Delta (LoRA, IA3) is folded into a copy of the
    weights for each call: every token costs less, and memory holds the backbone once more.
    """

    def __init__(
        self,
        cfg: DecoderConfig,
        how: Generation,
        *,
        eos: Sequence[int],
        text_of: Callable[[Sequence[int]], str],
        longest: int = 1,
        merged: bool = False,
    ):
        self.how, self.text_of, self.longest = how, text_of, longest
        on_cpu = jax.default_backend() == "cpu"
        self._trained = cfg
        self._serving = dataclasses.replace(cfg, cuts=every_layer(cfg)) if on_cpu else cfg
        self._generator = backbone_generator(self._serving, eos=eos)
        self._cut: tuple[PyTree, PyTree] | None = None  # a backbone, and the same cut for serving
        sizes = [list(stack_sizes(c.layers, c.cuts).values()) for c in (cfg, self._serving)]
        self._recut = jax.jit(lambda params: recut(params, cfg, self._serving))
        self._restack = jax.jit(lambda delta: deltas.restack(delta, *sizes))
        self._settle = jax.jit(lambda delta, params: deltas.settle(delta, params, Decoder.path_of))
        self.merged = merged
        self._merge = jax.jit(
            lambda params, delta: deltas.merge_params(params, delta, Decoder.path_of)
        )

    def __call__(self, tree: PyTree, prompts: Sequence[Sequence[int]], seed: int) -> Generated:
        """A continuation of each prompt; row i draws by seed + i. `ids` are without the end token, `texts` are cut
        before a stop string. Raises ValueError for a prompt that is empty or too long for the model."""
        weights = self._backbone(tree["backbone"]), self._delta(tree)
        if self.merged and weights[1] is not None:
            weights = self._merge(*weights), None
        return self._generator(
            weights,
            prompts,
            self._sampling(len(prompts), seed),
            stop=self.how.stop,
            text_of=self.text_of,
            at_least=self.longest,
        )

    def _sampling(self, rows: int, seed: int):
        h = self.how
        return sampling(
            rows,
            temperature=h.temperature,
            top_p=h.top_p,
            repetition=h.repetition,
            max_new=h.max_new,
            seed=seed,
        )

    def _backbone(self, params: PyTree) -> PyTree:
        if self._trained == self._serving:
            return params
        if self._cut is None or not _same(self._cut[0], params):
            self._cut = params, self._recut(params)
        return self._cut[1]

    def _delta(self, tree: PyTree) -> Delta | None:
        delta = tree.get("delta")
        if delta is None:
            return None
        if not self.merged:
            delta = self._settle(delta, tree["backbone"])
        return delta if self._trained == self._serving else self._restack(delta)


def written_ids(out: Generated) -> list[list[int]]:
    """What each row chose, its end token included: what a policy is trained on."""
    ends = out.end or [None] * len(out.ids)
    return [ids if end is None else [*ids, end] for ids, end in zip(out.ids, ends, strict=True)]


def prompt_rows(
    prompts: Sequence[Sequence[int]],
    said: Sequence[Sequence[int]],
    longest: int,
    width: int,
    pad_id: int = 0,
) -> Tokens:
    """Prompts that end, and texts that begin, at place `longest` of rows of `width` tokens; the texts are what counts.

    So no token before that place is ever predicted by a policy, and no logits are needed there.
    """
    shape = len(prompts), width
    ids, mask = np.full(shape, pad_id, np.int32), np.zeros(shape, bool)
    loss = np.zeros(shape, np.float32)
    for i, (prompt, own) in enumerate(zip(prompts, said, strict=True)):
        start, end = longest - len(prompt), longest + len(own)
        ids[i, start:end], mask[i, start:end] = [*prompt, *own], True
        loss[i, longest:end] = 1.0
    return Tokens(ids, mask, loss)


def _same(a: PyTree, b: PyTree) -> bool:
    """Whether two trees are the same arrays (not: equal ones)."""
    first, second = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(first) == len(second) and all(x is y for x, y in zip(first, second, strict=True))
