"""One method on one task: built and compiled once, then trained by any learning rate and seed.

The learning rate lies in the optimiser's state, so that a grid of rates and three seeds share one program. All
methods see the same rows in the same order: the order depends on the seed alone. Where only the top layers are changed
(`Sizes.top`), the state below them is computed once for all methods, rates and seeds, and kept on disk.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec import delta as deltas
from jaxrec import mesh, objectives, quant
from jaxrec.data.feature_store import FeatureConfig
from jaxrec.data.instructions import Instruction, encode_instructions
from jaxrec.data.source import ArraySource
from jaxrec.delta import DeltaConfig
from jaxrec.eval.peft_rows import by_length, packed_rows, padded_rows, spread, told
from jaxrec.eval.peft_tasks import Task, template
from jaxrec.losses.tokens import following
from jaxrec.metrics import Interval, ratio
from jaxrec.models.language.top_layers import on_top, top_rule
from jaxrec.models.language.tuned_folder import Tuned
from jaxrec.models.language.tuned_lm import TunedLM
from jaxrec.models.language.writing import GREEDY, Writer, decoder_writer, openings_of
from jaxrec.models.personal.frozen_states import lower_states
from jaxrec.nn.decoder import Decoder
from jaxrec.structs import Tokens
from jaxrec.text_metrics import rouge_l
from jaxrec.training import optimizer, partition, tuning
from jaxrec.training.step import init_state, make_step

UNTUNED = "none"  # the base as it is
QUANTISED = "lora_nf4"  # LoRA through NF4 weights
_CHUNK = 128  # positions whose scores are made at a time: a batch learns a few words of each answer


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What every method gets of a task."""

    steps: int = 120  # at most
    warmup: int = 10
    tokens: int = 512  # a batch, in packed rows of the task's length
    train: int = 0  # examples that are learned from; 0: all
    valid: int = 200  # examples that choose the learning rate, and the step where training ends
    test: int = 400
    written: int = 100  # answers that are written out, for ROUGE-L
    new: int = 60  # tokens of each
    every: int = 0  # steps between two looks at the validation part; 0: all steps are made
    patience: int = 2  # looks without a better one end the training; the best weights are kept
    trial: int = 0  # steps that each rate is tried for; 0: all of them
    rounds: int = 5  # of decoding with the adapter live and merged against the base; 0: not timed
    top: int = 0  # highest layers, which alone are changed; 0: all
    system: str = ""  # said before each question, as a system turn
    features: FeatureConfig = (
        FeatureConfig()
    )  # keeps the state below the `top` layers; else computed at each step


def spec_of(method: str) -> DeltaConfig:
    """The DeltaConfig of a row of the table."""
    return DeltaConfig() if method == UNTUNED else deltas.method(method.removesuffix("_nf4"))


@dataclasses.dataclass
class Outcome:
    """A trained tree, and what it took: seconds of each step, the first (a compilation, perhaps) left out.

    `curve`: (step, nats of the validation part) of each look; `step`: of the weights that are given.
    """

    tree: Any
    train_nll: float
    step_s: list[float]
    step: int = 0
    curve: list[tuple[int, float]] = dataclasses.field(default_factory=list)


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
        self.spec, self.below = on_top(spec_of(name), sizes.top, base.cfg)
        tree = dict(base.tree)
        if name == QUANTISED:
            tree["backbone"] = quant.quantise_params(tree["backbone"], "nf4")
        self.base = dataclasses.replace(base, tree=tree, spec=self.spec)
        self.lm = TunedLM(base.model, below=self.below, chunk=_CHUNK)
        self.batch = max(sizes.tokens // task.length, 1)
        self._parts_of_task: dict[str, Tokens] = {}
        self._score = jax.jit(self._score_rows)
        self._writer = writer or writer_of(base)
        if name != UNTUNED:
            self._build()

    def _rows_of(self, part: str) -> list[Instruction]:
        whole = getattr(self.task, part)
        chosen = spread(whole, getattr(self.sizes, part) or len(whole))
        return told(chosen, self.sizes.system)

    def _encode(self, part: str) -> list:
        rows = self._rows_of(part)
        examples, skipped = encode_instructions(self.base.chat, rows, self.task.length)
        tuning.say(f"{self.task.name}, {part}", skipped)
        return examples

    def _keep(self, tokens: Tokens, what: str) -> Any:
        # Of the base's own weights, which no method changes below the cut; NF4's are others, and have others.
        own = self.base.tree["backbone"]
        return lower_states(self.lm.backbone, own, tokens, self.below, self.sizes.features, what)

    @property
    def _keeps(self) -> bool:
        return bool(self.below and self.sizes.features.folder)

    def _build(self) -> None:
        sizes = self.sizes
        self.rows = packed_rows(
            self._encode("train"), self.task.length, self.base.chat.pad_id,
            self._keep if self._keeps else None, f"{self.task.name}, train",
        )  # fmt: skip
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
        if self.whole and self.below:
            return partition.split(self.base.tree, top_rule(self.sizes.top, self.base.cfg))
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

    def train(
        self, rate: float, seed: int, steps: int | None = None, say: str | None = None
    ) -> Outcome:
        """All steps (or the first few) from the start, by this learning rate and seed.

        With `sizes.every` the validation part is looked at along the way: the best weights are given, and training ends
        after `sizes.patience` looks without better ones.

        rate, seed: see above. steps: only so many, without a look. say: opens a line for each look; None: none.
        """
        copied = jax.tree.map(jnp.copy, self._start.replace(source=None))
        params = jax.tree.map(
            lambda new, like: jax.device_put(jnp.copy(new), like.sharding),
            self._parts(seed)[0], copied.params,
        )  # fmt: skip
        state = copied.replace(params=params, opt=with_rate(copied.opt, rate))
        source, key = self._source(seed), jax.random.key(seed)
        place, losses, clock, curve = source.init(), [], [], []
        best, every = None, 0 if steps else self.sizes.every
        for at in range(steps or self.sizes.steps):
            batch, place = source(at, None, place)
            batch = mesh.place_batch(self.devices, batch, self.batch)
            began = time.perf_counter()
            state, metrics = self.step(state, self.frozen, batch, key)
            losses.append(metrics.fetch()["nll"])
            clock.append(time.perf_counter() - began)
            if not every or ((at + 1) % every and at + 1 < self.sizes.steps):
                continue
            tree = partition.merge(state.params, self.frozen)
            nll = self.score(tree, "valid")["nll"]
            curve.append((at + 1, nll if np.isfinite(nll) else float("inf")))
            if say is not None:
                print(f"{say} step {at + 1}: valid {nll:.4f} nats", flush=True)
            if curve[-1][1] <= min(one for _, one in curve):
                # The step donates its state, so weights that are to be given back are copied.
                best = (at + 1, jax.tree.map(jnp.copy, state.params))
            if _waited(curve) >= self.sizes.patience:
                break
        last = float(np.mean(losses[-max(len(losses) // 10, 1) :]))
        at, params = best or (len(losses), state.params)
        return Outcome(partition.merge(params, self.frozen), last, clock[1:], at, curve)

    # ----------------------------------------------------------------------------------------- measuring

    def _score_rows(self, tree: Any, batch: Tokens) -> tuple[Any, Any]:
        said, weight_BL = self.lm.log_probs(tree, batch), following(batch.loss_BL)
        nll_B = -(said.log_p_BL * weight_BL).sum(1)
        return nll_B, (said.best_BL | (weight_BL == 0)).all(1)

    def _measured(self, part: str) -> Tokens:
        if part not in self._parts_of_task:
            pad_id = self.base.chat.pad_id
            tokens = padded_rows(self._encode(part), self.task.length, pad_id)
            if self._keeps:
                states = self._keep(tokens, f"{self.task.name}, {part}")
                tokens = tokens.replace(states_BLD=states)
            self._parts_of_task[part] = tokens
        return self._parts_of_task[part]

    def known(self, tree: Any, part: str, rows: int = 32) -> tuple[np.ndarray, np.ndarray]:
        """Of each example of a part (nats of its answer, whether greedy decoding gives it word for word).

        Greedy decoding writes the whole answer, its end included, exactly if each of its tokens is the most probable
        one after those before it: one pass over the right answers tells.
        """
        tokens = self._measured(part)
        nll_N, right_N = np.zeros(len(tokens.ids_BL)), np.zeros(len(tokens.ids_BL), bool)
        for chosen, batch in by_length(tokens, rows):
            nll_B, right_B = (np.asarray(x) for x in self._score(tree, batch))
            nll_N[chosen], right_N[chosen] = nll_B[: len(chosen)], right_B[: len(chosen)]
        return nll_N, right_N

    def score(self, tree: Any, part: str) -> dict[str, float]:
        """`nll` (nats a learned token) and `exact`, the part of answers that are right word for word."""
        nll_N, right_N = self.known(tree, part)
        learned = self._measured(part).loss_BL[:, 1:].sum()
        return {"nll": float(nll_N.sum() / learned), "exact": float(right_N.mean())}

    def test(self, tree: Any) -> tuple[dict[str, float], Interval]:
        """The task's measure and nats a token on the test part, and the measure's 95% interval over templates."""
        nll_N, right_N = self.known(tree, "test")
        nll = float(nll_N.sum() / self._measured("test").loss_BL[:, 1:].sum())
        asked, values_N = self._rows_of("test"), right_N.astype(float)
        if self.task.measure == "rouge_l":
            asked, values_N = self.rouge(tree)
        templates, at = np.unique(
            [template(one.prompt[-1][1]) for one in asked], return_inverse=True
        )
        # Rows of one template are nearly one row, so templates are drawn and not rows.
        add = lambda x_N: np.bincount(at, x_N, len(templates))
        seen = ratio(add(values_N), add(np.ones(len(values_N))))
        return {self.task.measure: seen.value, "nll": nll}, seen

    def rouge(self, tree: Any) -> tuple[list[Instruction], np.ndarray]:
        """(test questions, ROUGE-L F1 of the answer that is written greedily to each)."""
        asked = told(spread(self.task.test, self.sizes.written), self.sizes.system)
        texts = self._written(tree, asked, self.sizes.new)
        return asked, np.array([rouge_l(t, o.answer).f1 for t, o in zip(texts, asked, strict=True)])

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

    def overhead(self, tree: Any, rows: int = 16) -> dict[str, float | None]:
        """Time of decoding with the Delta (`live`) and folded in (`merged`), over that of the untuned base.

        Every round decodes with all of them, and the ratio is taken inside a round; the median is given.
        """
        asked = told(spread(self.task.test, rows), self.sizes.system)
        trees = {
            "base": {"backbone": self.base.tree["backbone"]},
            "live": tree,
            "merged": self.merged(tree),
        }
        seconds: dict[str, list[float]] = {
            name: [] for name, one in trees.items() if one is not None
        }
        for _ in range(self.sizes.rounds + 1):  # the first round compiles
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


def _waited(curve: Sequence[tuple[int, float]]) -> int:
    """How many of the last looks were no better than the best one."""
    nats = [one for _, one in curve]
    return len(nats) - 1 - int(np.argmin(nats))
