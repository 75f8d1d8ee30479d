"""The one training loop: batches in, checkpoints and metrics out.

    OUT/checkpoints/STEP/   the newest `keep` full states (jaxrec.checkpoint)
    OUT/best/               the parameters with the best monitored value, and facts.json
    OUT/metrics.jsonl, config.json, environment.json, tensorboard/      (jaxrec.log)

The devices never wait for the log: while they work on step n, the host checks and writes the numbers of step n - 1.
Before anything is saved, the numbers of that very step have been seen to be finite, so every checkpoint is a good one.

How a run ends: all steps made, or the monitored value no longer gets better -> `fit` returns. SIGTERM -> the state is
saved and the process exits with status 143 (128 + 15). A loss, gradient or weight that is not finite -> NonFinite.
"""

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax

from jaxrec import checkpoint, log, peers
from jaxrec import mesh as meshes
from jaxrec.config import RunError
from jaxrec.data.source import data_hash
from jaxrec.run_record import record_of
from jaxrec.structs import TrainState
from jaxrec.training import watchdog
from jaxrec.training.step import Metrics
from jaxrec.training.watchdog import Watchdog

Tree = Any
Evaluate = Callable[[Tree, int], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long, how often, and when to stop. 0 switches a thing off."""

    steps: int = 1000
    seed: int = 0  # of dropout and everything else that is random in the step
    log_every: int = 10
    eval_every: int = 0
    save_every: int = 0  # besides the last step, which is always saved
    keep: int = 2  # checkpoints
    resume: bool = True  # go on from the newest good checkpoint in OUT, if there is one
    allow_changes: bool = (
        False  # resume even where settings or data that matter are no longer the same
    )
    monitor: str = "train/loss"  # a value of `evaluate`, or train/NAME: a step metric's mean since the last evaluation
    mode: Literal["min", "max"] = "min"
    patience: int = 0  # evaluations in a row that may fail to improve before the run stops
    min_delta: float = (
        0.0  # what counts as better: this part of the best value (a plateau is less than that)
    )
    stall: float = (
        10.0  # a phase of a step that takes so many times its median (and 5 s) is said in the log
    )
    hang: float = 0.0  # seconds in one phase (the longest compilation included) after which the run ends, status 76
    tensorboard: bool = False
    progress: bool = True


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What `fit` returns. `best` and `value` are None when nothing was monitored."""

    state: TrainState
    stopped: Literal["steps", "patience"]
    best: int | None
    value: float | None


class NonFinite(RunError, FloatingPointError):
    """The loss, a gradient or a weight is not a finite number."""


class UnknownMonitor(RunError, ValueError):
    """`monitor` names nothing that is measured."""


class Preempted(SystemExit):
    """SIGTERM came and the state was saved: exit status 143."""


def fit(
    step: Callable[..., tuple[TrainState, Metrics]],
    state: TrainState,
    source: Callable[..., tuple[Tree, Tree]],
    *,
    config: LoopConfig,
    mesh: jax.sharding.Mesh,
    rows: int,
    out: str | Path,
    frozen: Tree = None,
    evaluate: Evaluate | None = None,
    resolved: Any = None,
    facts: Mapping[str, Any] | None = None,
    title: str = "",
    programs: int = 1,
) -> FitResult:
    """Trains from `state` (or from the newest good checkpoint in OUT) to the end.

    Args:
      step: from `make_step`.
      state: from `init_state`, with the source's first state in it. It is used up (donated).
      source: gives batches, and its own next state.
      config: how long, how often, and what is watched.
      mesh: that batches are placed on.
      rows: B, of the whole job.
      out: the run's folder.
      frozen: weights that the loss reads and nobody trains.
      evaluate: (params, step) -> numbers, every `eval_every` steps and at the end; every process must return the
        same, and none may keep the params, as the next step reuses their memory.
      resolved: the script's whole config, written beside the results; a resume with other settings that matter, or
        another content of `source`, is refused.
      facts: written beside the best parameters.
      title: of the progress bar.
      programs: how many shapes a batch may have (length buckets); the step is compiled once for each.

    Raises CheckpointError, NonFinite, MeshError, Preempted.
    """
    out = Path(out)
    meshes.check_batch(mesh, rows)
    frozen = meshes.settle(mesh, frozen)  # or it would travel to the devices at each step
    saved = checkpoint.Checkpoints(
        out / "checkpoints",
        keep=config.keep,
        frozen=checkpoint.fingerprint(frozen),
        config=resolved,
        record=record_of(config if resolved is None else resolved, data_hash(source)),
        allow_changes=config.allow_changes,
    )
    if others := peers.current():
        others.folder = saved.folder
    dog = Watchdog(config.stall, config.hang, out, others=others, shapes=programs)
    with dog, saved, _Terminated() as terminated:
        dog.enter(0, watchdog.RESTORING)
        found = saved.restore(state) if config.resume else None
        # The next resume takes the highest number it finds, so two runs in one folder would be taken for one.
        if found is None and saved.steps():
            raise checkpoint.CheckpointError(
                f"{saved.folder} holds checkpoints {saved.steps()} of an earlier run: resume it or name another folder"
            )
        log.write_provenance(out, resolved)  # only now: a refused resume leaves the earlier run's
        state, told = found or (state, {})
        start = int(state.step)
        with log.RunLog(
            out,
            config.steps,
            start,
            tensorboard=config.tensorboard,
            progress=config.progress,
            title=title,
        ) as lines:
            if found:
                lines.say(f"resumed at step {start} of {config.steps} from {saved.folder}")
                for change in saved.changed:
                    lines.say(f"resumed with another {change}")
            watch = _Watch(config, **told)
            run = _Run(
                step, source, config, mesh, rows, out, frozen, evaluate, facts, saved, lines, watch,
                dog, programs,
            )  # fmt: skip
            state = run.to_the_end(state, terminated)
    return FitResult(state, watch.stopped, watch.best, watch.value)


@dataclasses.dataclass
class _Watch:
    """Best value, patience and the running means. Saved with each checkpoint, as JSON, so that a resumed run stops
    where the uninterrupted one would have."""

    config: LoopConfig
    best: int | None = None
    value: float | None = None
    failures: int = 0
    stopped: str = "steps"
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    count: int = 0

    def told(self) -> dict[str, Any]:
        return {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "config"
        }

    def add(self, numbers: Mapping[str, float]) -> None:
        self.count += 1
        for name, value in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        means = {f"train/{name}": total / self.count for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means

    def judge(self, step: int, numbers: Mapping[str, float]) -> bool:
        """Whether this evaluation is the best one yet. Raises UnknownMonitor if nothing has that name."""
        if self.config.monitor not in numbers:
            raise UnknownMonitor(
                f"loop.monitor: nothing is called {self.config.monitor!r}; there are {sorted(numbers)}"
            )
        value = numbers[self.config.monitor]
        sign = 1 if self.config.mode == "min" else -1
        margin = self.config.min_delta * abs(self.value or 0.0)
        # Without the test for a finite value a first NaN would be kept as the best, and nothing compares as better
        # than NaN.
        better = math.isfinite(value) and (
            self.value is None or sign * value < sign * self.value - margin
        )
        self.failures = 0 if better else self.failures + 1
        if better:
            self.best, self.value = step, value
        if self.config.patience and self.failures >= self.config.patience:
            self.stopped = "patience"
        return better


@dataclasses.dataclass
class _Run:
    """What the steps of one `fit` share."""

    step: Callable[..., tuple[TrainState, Metrics]]
    source: Callable[..., tuple[Tree, Tree]]
    config: LoopConfig
    mesh: jax.sharding.Mesh
    rows: int
    out: Path
    frozen: Tree
    evaluate: Evaluate | None
    facts: Mapping[str, Any] | None
    saved: checkpoint.Checkpoints
    lines: log.RunLog
    watch: _Watch
    dog: Watchdog
    programs: int = 1  # that the step may be compiled to
    last: tuple[int, Metrics] | None = None  # the step whose numbers nobody has looked at yet
    clock: float = 0.0
    made: int = 0  # steps since the clock was read
    tokens: float = 0.0

    def to_the_end(self, state: TrainState, terminated: "_Terminated") -> TrainState:
        config, everywhere = self.config, meshes.replicated(self.mesh)
        # The key lies on the whole mesh from the start: an array of one device cannot enter a program that spans
        # several processes.
        key = jax.jit(jax.random.key, out_shardings=everywhere)(config.seed)
        done, place, compiled = int(state.step), state.source, False
        # The source's state is the host's business. Inside the state it would travel to the devices and back at
        # each step, and be donated there.
        state, self.clock = state.replace(source=None), time.perf_counter()
        while done < config.steps and self.watch.stopped != "patience":
            self.dog.enter(done + 1, watchdog.DATA)
            with meshes.within(self.mesh):  # a source may ask the model: rollouts do
                batch, place = self.source(done, state.params, place)
            batch = meshes.place_batch(self.mesh, batch, self.rows)
            self.dog.enter(done + 1, watchdog.STEP if compiled else watchdog.COMPILING)
            compiled = True
            state, metrics = self.step(state, self.frozen, batch, key)
            # The step before is looked at only now that this one is on its way: fetching numbers waits for them,
            # and the devices have work meanwhile.
            done += 1
            self.look()
            self.last = done, metrics
            self.lines.tick()
            ends = done == config.steps
            if _due(done, config.eval_every) or (ends and (self.evaluate or config.eval_every)):
                self.look()
                self.assess(state, done)
                ends = ends or self.watch.stopped == "patience"
            stop = terminated.at(done)
            if ends or stop or _due(done, config.save_every):
                self.save(state.replace(source=place))
            if stop:
                # Saving is asynchronous and the process is about to end: the checkpoint has to be on the disk
                # first.
                self.saved.wait()
                self.lines.say(
                    f"SIGTERM: saved step {done} in {self.saved.folder}, exit status 143"
                )
                raise Preempted(143)
        self.check_programs()
        return state.replace(source=place)

    def look(self) -> None:
        """Fetches, checks and logs the numbers of the step that was dispatched last."""
        if self.last is None:
            return
        (step, metrics), self.last = self.last, None
        numbers = metrics.fetch()
        self.check_finite(step, numbers)
        self.watch.add(numbers)
        self.made += 1
        self.tokens += numbers.get("tokens", 0.0)
        if step % self.config.log_every == 0 or step == self.config.steps:
            seconds = max(time.perf_counter() - self.clock, 1e-9)
            rates = {"examples/s": self.made * self.rows / seconds}
            if self.tokens:
                rates["tokens/s"] = self.tokens / seconds
            self.lines.write(step, "train", {**numbers, **rates})
            self.clock, self.made, self.tokens = time.perf_counter(), 0, 0.0

    def check_finite(self, step: int, numbers: Mapping[str, float]) -> None:
        """Raises NonFinite that names the step, and the groups whose gradient or weights are to blame."""
        if math.isfinite(numbers["loss"]) and math.isfinite(numbers["grad_norm"]):
            # The weights' norms are those after the update: at the very step whose update breaks the weights, loss
            # and gradient may still be finite.
            bad = [
                k
                for k, v in numbers.items()
                if k.startswith("param_norm/") and not math.isfinite(v)
            ]
            if not bad:
                return
        groups = {
            name.split("/", 1)[1]
            for name, value in numbers.items()
            if name.startswith(("grad_norm/", "param_norm/")) and not math.isfinite(value)
        }
        kept = self.saved.steps()
        raise NonFinite(
            f"step {step}: the loss is {numbers['loss']:.4g} and not everything is finite in the parameter groups "
            f"{', '.join(sorted(groups)) or 'none'}; the last good checkpoint is "
            f"{f'step {kept[-1]} in {self.saved.folder}' if kept else 'none, nothing was saved yet'}"
        )

    def assess(self, state: TrainState, done: int) -> None:
        """Evaluates, keeps the best parameters, counts failures. Its time is not part of the training speed."""
        began = time.perf_counter()
        self.dog.enter(done, watchdog.EVALUATION)
        numbers = self.watch.means()
        if self.evaluate:
            with meshes.within(self.mesh):
                found = self.evaluate(state.params, done)
            numbers.update({name: float(value) for name, value in found.items()})
        self.lines.write(done, "eval", numbers)
        if self.watch.judge(done, numbers):
            facts = {**(self.facts or {}), "step": done, self.config.monitor: self.watch.value}
            checkpoint.save_params(self.out / "best", state.params, facts)
        self.clock += time.perf_counter() - began

    def save(self, state: TrainState) -> None:
        self.look()
        self.dog.enter(int(state.step), watchdog.CHECKPOINT)
        # The numbers of this very step have just been seen to be finite, so a state that has diverged is never
        # saved over a good one.
        self.saved.save(state, self.watch.told())

    def check_programs(self) -> None:
        """A second compilation is time lost silently: a changing shape, type or layout. It is an error here."""
        programs = self.step._cache_size()
        if programs > self.programs:
            raise RuntimeError(
                f"the step was compiled {programs} times in one stage, {self.programs} expected: a batch's shape or"
                " type varied"
            )


class _Terminated:
    """Whether SIGTERM came, the same answer at the same step in every process."""

    def __init__(self):
        self.came = False

    def __enter__(self) -> "_Terminated":
        self.before = None
        # Python lets only the main thread set a handler; elsewhere SIGTERM keeps the meaning it has.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)

    def _note(self, *_: object) -> None:
        self.came = True

    def at(self, step: int) -> bool:
        """In a job of several processes JAX's own notifier catches the signal and agrees on a step with the others."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            return multihost_utils.reached_preemption_sync_point(step)
        return self.came


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
