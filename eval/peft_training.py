"""One method on one task: built and compiled once, then trained by any learning rate and seed.

The learning rate lies in the optimiser's state, so that a grid of rates and three seeds share one program. All
methods see the same rows in the same order: the order depends on the seed alone.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec import delta as deltas
from jaxrec import mesh, objectives, quant
from jaxrec.data.instructions import Instruction, encode_instructions
from jaxrec.data.source import ArraySource
from jaxrec.data.text import pack, packing_order, pad
from jaxrec.delta import DeltaConfig
from jaxrec.eval.peft_tasks import Task
from jaxrec.losses.tokens import following
from jaxrec.models.language.tuned_folder import Tuned
from jaxrec.models.language.tuned_lm import TunedLM
from jaxrec.models.language.writing import GREEDY, Writer, decoder_writer, openings_of
from jaxrec.nn.decoder import Decoder
from jaxrec.structs import Tokens
from jaxrec.text_metrics import rouge_l
from jaxrec.training import optimizer, partition
from jaxrec.training.step import init_state, make_step

UNTUNED = "none"  # the base as it is
QUANTISED = "lora_nf4"  # LoRA through NF4 weights


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What every method gets of a task."""

    steps: int = 120
    warmup: int = 10
    tokens: int = 512  # a batch, in packed rows of the task's length
    valid: int = 200  # examples that choose the learning rate
    test: int = 400
    written: int = 100  # answers that are written out, for ROUGE-L
    new: int = 60  # tokens of each


def spec_of(method: str) -> DeltaConfig:
    """The DeltaConfig of a row of the table."""
    return DeltaConfig() if method == UNTUNED else deltas.method(method.removesuffix("_nf4"))


@dataclasses.dataclass
class Outcome:
    """A trained tree, and what it took: seconds of each step, the first (a compilation, perhaps) left out."""

    tree: Any
    train_nll: float
    step_s: list[float]


def writer_of(base: Tuned) -> Writer:
    """Greedy decoding with trees of this base, its layers as they are trained."""
    chat = base.chat
    return decoder_writer(base.cfg, GREEDY, eos=chat.eos_ids, text_of=chat.decode, cut=False)


class Method:
    """A method on a task, ready to be trained."""

    def __init__(
        self,
        name: str,
        base: Tuned,
        task: Task,
        sizes: Sizes,
        devices: Any,
        writer: Writer | None = None,
    ):
        self.name, self.task, self.sizes, self.devices = name, task, sizes, devices
        self.spec = spec_of(name)
        tree = dict(base.tree)
        if name == QUANTISED:
            tree["backbone"] = quant.quantise_params(tree["backbone"], "nf4")
        self.base = dataclasses.replace(base, tree=tree, spec=self.spec)
        self.lm = TunedLM(base.model)
        self.batch = max(sizes.tokens // task.length, 1)
        self.examples = self._encode(task.train)
        self.rows = Tokens(**pack(packing_order(self.examples), task.length, base.chat.pad_id))
        self._score = jax.jit(self._score_rows)
        self._writer = writer or writer_of(base)
        if name != UNTUNED:
            self._build()

    def _encode(self, rows: Sequence[Instruction]) -> list:
        return encode_instructions(self.base.chat, rows, self.task.length)[0]

    def _build(self) -> None:
        sizes = self.sizes
        plan = optimizer.OptConfig(lr=1.0, warmup=sizes.warmup, schedule="linear", clip=1.0)
        shape = optimizer.rate(plan, sizes.steps)
        chain = optax.chain(
            optax.scale_by_adam(0.9, 0.95),
            optax.scale_by_schedule(shape),
            optax.inject_hyperparams(lambda rate: optax.scale(-rate))(rate=1.0),
        )
        optim = optimizer.Optimizer(chain, shape, clip=1.0)
        sites = Decoder.sites(self.base.cfg)
        self._init = (
            jax.jit(lambda key: deltas.init(key, sites, self.spec)) if not self.whole else None
        )
        trained, self.frozen = self._parts(0)
        self._start = init_state(self.devices, trained, optim, source=self._source(0).init())
        self.step = make_step(*objectives.sft(self.lm), optim, self._start)

    @property
    def whole(self) -> bool:
        """Whether all weights are trained."""
        return self.spec.empty

    def _parts(self, seed: int) -> tuple[Any, Any]:
        if self.whole:
            return {"backbone": self.base.tree["backbone"]}, {}
        return {"delta": self._init(jax.random.key(seed))}, {"backbone": self.base.tree["backbone"]}

    def _source(self, seed: int) -> ArraySource:
        return ArraySource(self.rows, self.batch, seed=seed)

    def parameters(self) -> int:
        """Numbers that are trained."""
        if self.name == UNTUNED:
            return 0
        trained, _ = self._parts(0)
        constant = sum(
            x.size
            for k, x in jax.tree_util.tree_leaves_with_path(trained)
            if "scale_NB" in str(k[-1])
        )
        return sum(x.size for x in jax.tree.leaves(trained)) - constant

    # ------------------------------------------------------------------------------------------ training

    def train(self, rate: float, seed: int, steps: int | None = None) -> Outcome:
        """All steps (or the first few) from the start, by this learning rate and seed."""
        copied = jax.tree.map(jnp.copy, self._start.replace(source=None))
        params = jax.tree.map(
            lambda new, like: jax.device_put(jnp.copy(new), like.sharding),
            self._parts(seed)[0], copied.params,
        )  # fmt: skip
        state = copied.replace(params=params, opt=with_rate(copied.opt, rate))
        source, key = self._source(seed), jax.random.key(seed)
        place, losses, clock = source.init(), [], []
        for at in range(steps or self.sizes.steps):
            batch, place = source(at, None, place)
            batch = mesh.place_batch(self.devices, batch, self.batch)
            began = time.perf_counter()
            state, metrics = self.step(state, self.frozen, batch, key)
            losses.append(metrics.fetch()["nll"])
            clock.append(time.perf_counter() - began)
        last = float(np.mean(losses[-max(len(losses) // 10, 1) :]))
        return Outcome(partition.merge(state.params, self.frozen), last, clock[1:])

    # ----------------------------------------------------------------------------------------- measuring

    def _score_rows(self, tree: Any, batch: Tokens) -> tuple[Any, Any]:
        said, weight_BL = self.lm.log_probs(tree, batch), following(batch.loss_BL)
        nll_B = -(said.log_p_BL * weight_BL).sum(1)
        return nll_B, (said.best_BL | (weight_BL == 0)).all(1)

    def score(self, tree: Any, part: str, rows: int = 50) -> dict[str, float]:
        """`nll` (nats a learned token) and `exact`, the part of answers that greedy decoding gives word for word.

        Greedy decoding writes the whole answer, its end included, exactly if each of its tokens is the most probable
        one after those before it: one pass over the right answers tells.
        """
        count = getattr(self.sizes, part)
        tokens = Tokens(
            **pad(self._encode(spread(getattr(self.task, part), count)), self.task.length)
        )
        nll, right, size = 0.0, 0.0, len(tokens.ids_BL)
        for start in range(0, size, rows):
            picked = np.minimum(np.arange(start, start + rows), size - 1)
            real = np.arange(start, start + rows) < size
            batch = jax.tree.map(lambda x, picked=picked: x[picked], tokens)
            nll_B, right_B = (np.asarray(x) for x in self._score(tree, batch))
            nll, right = nll + nll_B[real].sum(), right + right_B[real].sum()
        return {"nll": float(nll / tokens.loss_BL.sum()), "exact": float(right / size)}

    def rouge(self, tree: Any) -> float:
        """Mean ROUGE-L F1 of answers written greedily to test questions."""
        asked = spread(self.task.test, self.sizes.written)
        texts = self._written(tree, asked, self.sizes.new)
        return float(np.mean([rouge_l(t, o.answer).f1 for t, o in zip(texts, asked, strict=True)]))

    def _written(self, tree: Any, asked: Sequence[Instruction], new: int) -> list[str]:
        room = self.task.length
        openings = openings_of(self.base.chat, [one.prompt for one in asked], room)
        how = dataclasses.replace(GREEDY, max_new=new)
        return list(self._writer(tree, openings, how=how).texts or [])

    def merged(self, tree: Any) -> Any:
        """The tree with its Delta folded into the weights; None where this kind has no such form."""
        if "delta" not in tree or self.name == QUANTISED:
            return None
        try:
            whole = deltas.merge_params(tree["backbone"], tree["delta"], Decoder.path_of)
        except ValueError:
            return None
        return {"backbone": whole}

    def overhead(self, tree: Any, rounds: int = 5, rows: int = 16) -> dict[str, float | None]:
        """Time of decoding with the Delta (`live`) and folded in (`merged`), over that of the untuned base.

        Every round decodes with all of them, and the ratio is taken inside a round; the median is given.
        """
        asked = spread(self.task.test, rows)
        trees = {
            "base": {"backbone": self.base.tree["backbone"]},
            "live": tree,
            "merged": self.merged(tree),
        }
        seconds: dict[str, list[float]] = {
            name: [] for name, one in trees.items() if one is not None
        }
        for _ in range(rounds + 1):  # the first round compiles
            for name in seconds:
                began = time.perf_counter()
                self._written(trees[name], asked, self.sizes.new)
                seconds[name].append(time.perf_counter() - began)
        ratio = lambda name: float(
            np.median([a / b for a, b in zip(seconds[name][1:], seconds["base"][1:], strict=True)])
        )
        return {name: ratio(name) if name in seconds else None for name in ("live", "merged")}


def with_rate(opt: Any, rate: float) -> Any:
    """The optimiser's state with another learning rate."""

    def put(path: Any, leaf: Any) -> Any:
        named = any(getattr(k, "key", getattr(k, "name", None)) == "rate" for k in path)
        return jax.device_put(jnp.asarray(rate, leaf.dtype), leaf.sharding) if named else leaf

    return jax.tree_util.tree_map_with_path(put, opt)


def spread(rows: Sequence[Instruction], count: int) -> list[Instruction]:
    """At most `count` of them, evenly from all places: rows of one kind stand together."""
    count = min(count, len(rows))
    return [rows[math.floor(i * len(rows) / count)] for i in range(count)]
