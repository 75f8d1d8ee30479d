"""Every PEFT method on customer-support intents and answers: quality, parameters, bytes, memory, time.

    JAXREC_DATA=... python -m eval.peft configs/language/peft_small.py
    JAXREC_DATA=... python -m eval.peft configs/language/peft_small.py --tasks bitext --methods lora dora --seeds 1
    JAXREC_DATA=... python -m eval.peft configs/language/peft_smollm2.py       # real weights, trained to their ends

All methods see the same rows in the same order. Each one's learning rate is chosen on the validation part, by nats a
token with seed 0, from its own short grid (`rates`); where training ends is read from the validation part too
(`sizes.every`); the test part is read once. Accuracy: greedy decoding writes the intent's name word for word, its end
included. Resumable row by row: what lies in OUT/rows is not made again. Writes RESULTS/TASK.json, RESULTS/TASK.png and
RESULTS/counted.json: what the same methods train of a Llama-2-7B, and what the specifications claim.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrec import config, mesh, results
from jaxrec.checkpoint import fingerprint
from jaxrec.config import RunError
from jaxrec.eval.peft_counted import claims, counted
from jaxrec.eval.peft_plot import plot
from jaxrec.eval.peft_tasks import Task, task
from jaxrec.eval.peft_training import UNTUNED, Method, Outcome, Sizes, spec_of, writer_of
from jaxrec.files import write_json
from jaxrec.metrics import Interval
from jaxrec.models.language.top_layers import load_top, on_top
from jaxrec.models.language.tuned_folder import Tuned, save_model, save_tuned

METHODS = (
    "none", "full", "lora", "rslora", "dora", "lora_nf4", "adapter", "adapter_mlp", "prefix", "prompt",
    "ia3", "norm", "attn_bias",
)  # fmt: skip
RATES = {
    "full": (1e-3, 3e-3, 1e-2),
    "lora": (3e-3, 1e-2, 3e-2),
    "rslora": (1e-3, 3e-3, 1e-2),
    "dora": (3e-3, 1e-2, 3e-2),
    "lora_nf4": (3e-3, 1e-2, 3e-2),
    "adapter": (1e-2, 3e-2, 1e-1),
    "adapter_mlp": (1e-2, 3e-2, 1e-1),
    "prefix": (3e-2, 1e-1, 3e-1),
    "prompt": (3e-2, 1e-1, 3e-1),
    "ia3": (3e-2, 1e-1, 3e-1),
    "norm": (3e-2, 1e-1, 3e-1),
    "attn_bias": (1e-1, 3e-1, 1.0),
}


@dataclasses.dataclass(frozen=True)
class PeftConfig:
    """A comparison of methods on one backbone."""

    model: str = "runs/backbone_small/model"
    tasks: tuple[str, ...] = ("bitext", "bank-faqs")
    methods: tuple[str, ...] = METHODS
    rates: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=lambda: dict(RATES))
    seeds: int = 3
    sizes: Sizes = Sizes()
    memory: bool = True  # measure the peak in a child process
    name: str = ""  # opens the names of the results' files
    file: str = "configs/language/peft_small.py"  # that holds these settings, for the record
    out: str = "runs/peft"  # rows, and the cache of compiled programs
    results: str = "results/peft"


def main(cfg: PeftConfig) -> list[dict[str, Any]]:
    """All rows of all tasks; gives them back, too."""
    if unknown := [m for m in cfg.methods if m not in METHODS]:
        raise RunError(f"there is no method {unknown[0]!r}; there are {', '.join(METHODS)}")
    if lacking := [m for m in cfg.methods if m != UNTUNED and not cfg.rates.get(m)]:
        raise RunError(f"rates: no learning rate for {lacking[0]!r}")
    cache = Path(cfg.out).absolute() / "programs"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    devices = mesh.make(devices=jax.devices()[:1])
    base = load_top(cfg.model, cfg.sizes.top)
    if cfg.sizes.features.folder and not cfg.sizes.top:
        print("features: none are kept, since every layer is changed (sizes.top=0)", flush=True)
    for method in cfg.methods:
        on_top(spec_of(method), cfg.sizes.top, base.cfg)  # refused before the first is trained
    writer = writer_of(base)
    results.write_results(
        cfg.results, "peft_counted", counted(), claims=claims(), config={"shape": "Llama-2-7B"},
        filename="counted.json", command="python -m eval.peft",
    )  # fmt: skip
    found = []
    for name in cfg.tasks:
        asked, began, rows = task(name), time.perf_counter(), []
        print(f"{name}: {asked.facts()}", flush=True)
        for i, method in enumerate(cfg.methods):
            rows.append(row_of(cfg, method, base, asked, devices, writer, cache))
            print(f"{name} {i + 1}/{len(cfg.methods)}  {said(rows[-1])}", flush=True)
        wall = sum(row["wall_s"] for row in rows)
        print(f"{name}: {time.perf_counter() - began:.0f} s now, {wall:.0f} s in all", flush=True)
        results.print_table(rows)
        stem = f"{cfg.name}_{name}" if cfg.name else name
        results.write_results(
            cfg.results, "peft", rows, config=config.to_dict(cfg), wall_s=wall, filename=f"{stem}.json",
            task=asked.facts() | {"measure": asked.measure}, backbone=backbone_facts(base),
            command=f"python -m eval.peft {cfg.file} --tasks {name} --methods {' '.join(cfg.methods)}",
        )  # fmt: skip
        plot(rows, stem, asked.measure, Path(cfg.results) / f"{stem}.png")
        found += rows
    return found


def row_of(
    cfg: PeftConfig, name: str, base: Tuned, asked: Task, devices: Any, writer: Any, cache: Path
) -> dict[str, Any]:
    """A method's row, from OUT/rows if it was made with the same settings already.

    Its CPU seconds (`cpu_s`) are what one row costs: wall time hangs on what else runs.
    """
    key = {
        "model": fingerprint(base.tree["backbone"]), "sizes": config.to_dict(cfg.sizes), "seeds": cfg.seeds,
        "rates": list(cfg.rates.get(name, ())), "memory": cfg.memory,
    }  # fmt: skip
    path = Path(cfg.out) / "rows" / f"{asked.name}-{name}.json"
    if path.is_file() and (saved := json.loads(path.read_text()))["key"] == key:
        return saved["row"] | {"trained": saved.get("trained") or [results.kept_origin(path)]}
    began, spent = time.perf_counter(), time.process_time()
    method = Method(name, base, asked, cfg.sizes, devices, writer)
    row = {"task": asked.name, "method": name, "parameters": method.parameters()}
    whole = sum(x.size for x in jax.tree.leaves(base.tree["backbone"]))
    row["percent"] = 100 * row["parameters"] / whole
    if name == UNTUNED:
        scores, seen = method.test({"backbone": base.tree["backbone"]})
        row |= scores | interval(method, seen)
    else:
        row |= tuned_row(cfg, method)
    row["cpu_s"] = time.process_time() - spent
    if name != UNTUNED and cfg.memory:
        row |= measured_memory(cfg, name, asked.name, cache)
    row["wall_s"] = time.perf_counter() - began
    trained = [results.origin()]
    write_json(path, {"key": key, "row": row, "trained": trained})
    return row | {"trained": trained}


def tuned_row(cfg: PeftConfig, method: Method) -> dict[str, Any]:
    """The learning rate chosen on the validation part, then all seeds on the test part."""
    tried: dict[float, tuple[float, Outcome]] = {}
    clock: list[float] = []
    trial = cfg.sizes.trial or None
    for rate in cfg.rates[method.name]:
        outcome = method.train(rate, seed=0, steps=trial)
        nll = method.score(outcome.tree, "valid")["nll"]
        nll = nll if np.isfinite(nll) else float("inf")
        tried[rate], clock = (nll, outcome), clock + outcome.step_s
        print(
            f"  {method.name} rate {rate:g}: valid {nll:.4f} nats, train {outcome.train_nll:.4f}",
            flush=True,
        )
    rate = min(tried, key=lambda r: tried[r][0])
    made, scores, seen = [] if trial else [tried[rate][1]], [], None
    for seed in range(cfg.seeds):
        if seed >= len(made):
            made.append(method.train(rate, seed, say=f"  {method.name} seed {seed}"))
            clock += made[-1].step_s
        values, own = method.test(made[seed].tree)
        scores, seen = [*scores, values], seen or own
    first, row = made[0], {}
    for measure in scores[0]:
        values = [score[measure] for score in scores]
        row[measure] = float(np.mean(values))
        row[f"{measure}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    # One seed has no deviation: what its test rows leave open is told in its place.
    row |= interval(method, seen) if cfg.seeds == 1 else {}
    row |= {
        "seeds": cfg.seeds, "rate": rate, "train_nll": first.train_nll,
        "valid_nll": {str(r): nll for r, (nll, _) in tried.items()},
        "bytes": saved_bytes(method, first.tree), "step_ms": 1e3 * float(np.median(clock)),
    }  # fmt: skip
    if first.curve:
        row |= {"step": first.step, "steps": first.curve[-1][0], "curve": first.curve}
    if method.task.measure == "rouge_l" and cfg.sizes.rounds:
        row |= {f"decode_{name}": ratio for name, ratio in method.overhead(first.tree).items()}
    return row


def interval(method: Method, seen: Interval) -> dict[str, float]:
    """The bounds of the task's measure, as fields of a row."""
    return {f"{method.task.measure}_lo": seen.lo, f"{method.task.measure}_hi": seen.hi}


def saved_bytes(method: Method, tree: Any) -> int:
    """What the tuned part takes on disk: the adapter's parameters, or the model's safetensors."""
    base = method.base
    with tempfile.TemporaryDirectory() as folder:
        if method.whole:
            save_model(Path(folder) / "m", base.cfg, tree["backbone"], base.base)
            return sum(p.stat().st_size for p in Path(folder).rglob("*.safetensors"))
        save_tuned(
            Path(folder) / "a",
            tree,
            cfg=base.cfg,
            base=base.base,
            spec=method.spec,
            hashed=base.base_hash,
        )
        return sum(p.stat().st_size for p in (Path(folder) / "a").rglob("*") if p.is_file())


def measured_memory(cfg: PeftConfig, method: str, name: str, cache: Path) -> dict[str, float]:
    """`peak_mb`: the most a process that trains this way holds beyond Python, jax and the libraries."""
    words = [sys.executable, "-m", "jaxrec.eval.peft_memory", "--model", cfg.model, "--task", name]
    words += ["--method", method, "--cache", str(cache)]
    words += ["--sizes", json.dumps(config.to_dict(cfg.sizes))]
    done = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ))
    if done.returncode:
        raise RunError(
            f"the memory of {method} could not be measured: {done.stderr.strip()[-300:]}"
        )
    told = json.loads(done.stdout.splitlines()[-1])
    return {"peak_mb": told["peak_mb"] - told["idle_mb"]}


def backbone_facts(base: Tuned) -> dict[str, Any]:
    """What was tuned."""
    size = sum(x.size for x in jax.tree.leaves(base.tree["backbone"]))
    return {"source": base.base, "hash": base.base_hash, "parameters": size}


def said(row: Mapping[str, Any]) -> str:
    """A row in a line."""
    measure = "accuracy" if "accuracy" in row else "rouge_l"
    return (
        f"{row['method']}: {measure} {row[measure]:.4f}, {row['nll']:.4f} nats, {row['parameters']:,} parameters"
        f" ({row['percent']:.2f} %), {row.get('step_ms', 0):.0f} ms a step, {row['wall_s']:.0f} s"
    )


if __name__ == "__main__":
    config.run(main, PeftConfig, __doc__)
