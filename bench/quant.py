"""What quantised weights cost and save: bytes, memory of a step, its time, and the loss after the same steps.

    JAXREC_DATA=... python -m bench.quant configs/bench/quant_small.py                     both parts
    python -m bench.quant configs/bench/quant_small.py --parts sizes --size tiny           no data set needed

`losses`: a LoRA trained on real text for the same steps and batches upon the same backbone, stored in five ways, over
several seeds. `sizes`: the 30M Llama shape of the races; what its weights take in memory and on disk, what the
forward and backward pass takes beside them, and the time of a step. The learning rate is the same for all rows and not
tuned. Writes RESULTS/losses.json and RESULTS/sizes.json.
"""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from bench.race import shape
from bench.race.jax_decode import lora_delta
from jaxrec import config, hub, mesh, objectives, quant, results
from jaxrec import delta as deltas
from jaxrec.config import RunError
from jaxrec.data import corpus, text
from jaxrec.data.source import ArraySource
from jaxrec.delta import DeltaConfig
from jaxrec.hub import quantised
from jaxrec.losses.tokens import next_token, token_sums
from jaxrec.models.language.tuned_lm import TunedLM
from jaxrec.nn.decoder import Decoder
from jaxrec.structs import Tokens
from jaxrec.training import optimizer, step
from jaxrec.training.optimizer import OptConfig

# row -> (how weights are stored, the type of the computation)
ROWS = {
    "fp32": ("float32", "float32"),
    "bf16": ("bfloat16", "bfloat16"),
    "int8": ("int8", "float32"),
    "nf4": ("nf4", "float32"),
    "nf4, bf16 compute": ("nf4", "bfloat16"),
}


@dataclasses.dataclass(frozen=True)
class QuantConfig:
    """A comparison of ways to store a frozen backbone."""

    model: str = "runs/backbone_small/model"  # for the losses; a folder of `jaxrec.train.pretrain`
    texts: tuple[str, ...] = ("xrec",)  # see jaxrec.data.corpus; better not what it was trained on
    documents: int = 3000  # at most, the first ones
    hold_out_every: int = 10
    length: int = 256
    rows: int = 8
    steps: int = 150
    seeds: tuple[int, ...] = (0, 1, 2)
    rank: int = 16
    opt: OptConfig = OptConfig(lr=1e-2, warmup=20)
    size: Literal["30m", "tiny"] = "30m"  # for the sizes: a shape of bench.race.shape
    rounds: int = 5  # of timed steps, interleaved
    parts: tuple[Literal["losses", "sizes"], ...] = ("losses", "sizes")
    results: str = "results/quant"


class QuantEvalError(RunError, ValueError):
    """Too little text for what is asked."""


def main(cfg: QuantConfig) -> dict[str, list[dict[str, Any]]]:
    """The rows of each part, as written."""
    told = {}
    for part in cfg.parts:
        start = time.perf_counter()
        rows, paired = {"losses": losses, "sizes": sizes}[part](cfg)
        results.print_table(rows)
        results.write_results(
            cfg.results, "quant", rows, paired, cfg, wall_s=time.perf_counter() - start,
            filename=f"{part}.json", part=part,
        )  # fmt: skip
        told[part] = rows
    return told


def stored(source: str | Path, row: str) -> tuple[Any, Any]:
    """(config, parameters) of a model in one of the ways of ROWS; the head is quantised with the layers."""
    kind, dtype = ROWS[row]
    half = jnp.bfloat16 if dtype == "bfloat16" else None
    if kind in quant.KINDS:
        return quantised.load(source, kind, head=True, param_dtype=half, dtype=dtype)
    return hub.load(source, param_dtype=half, dtype=dtype)


# ------------------------------------------------------------------------------------------------ losses


def losses(cfg: QuantConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(rows of held-out nats a token, their gaps to fp32 and bf16 paired by seed)."""
    train, held = _tokens(cfg)
    nll: dict[str, list[float]] = {}
    rows = []
    for row in ROWS:
        model, params = stored(cfg.model, row)
        before, after = _tuned(cfg, model, params, train, held)
        nll[row] = after
        told = {"nll": statistics.mean(after), "sd": _spread(after), "before": before}
        rows.append({"row": row, **told, "seeds": len(after), "steps": cfg.steps})
        print(f"{row}: {before:.4f} -> {statistics.mean(after):.4f}", flush=True)
    gaps = [_gap(nll, a, b) for b in ("fp32", "bf16") for a in ROWS if a not in ("fp32", b)]
    return rows, gaps


def _gap(nll: dict[str, list[float]], a: str, b: str) -> dict[str, Any]:
    each = [x - y for x, y in zip(nll[a], nll[b], strict=True)]
    return {
        "a": a, "b": b, "metric": "nll", "diff": statistics.mean(each), "lo": min(each), "hi": max(each)
    }  # fmt: skip


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _tokens(cfg: QuantConfig) -> tuple[Tokens, Tokens]:
    tok = text.BytePairTokenizer.load(Path(cfg.model) / "tokenizer.json")
    documents = [d for name in cfg.texts for d in corpus.read(name)][: cfg.documents]
    parts = corpus.hold_out(documents, cfg.hold_out_every)
    packed = [
        Tokens(**text.pack(corpus.encode(tok, part), cfg.length, split=True)) for part in parts
    ]
    if min(len(part.ids_BL) for part in packed) < cfg.rows:
        raise QuantEvalError(
            f"{len(documents)} documents make less than a batch of {cfg.rows} rows: give more documents"
        )
    return packed[0], packed[1]


def _tuned(
    cfg: QuantConfig, model: Any, params: Any, train: Tokens, held: Tokens
) -> tuple[float, list[float]]:
    """Held-out nats a token before, and after the steps of each seed."""
    spec = DeltaConfig(lora_rank=cfg.rank, lora_alpha=2.0 * cfg.rank)
    lm, devices = TunedLM(Decoder(model)), mesh.make(devices=jax.devices()[:1])
    optim = optimizer.make(cfg.opt, cfg.steps)
    frozen = {"backbone": mesh.place(devices, params)}
    one = None

    @jax.jit
    def sums(frozen: Any, delta: Any, batch: Tokens) -> Any:
        return token_sums(*lm.log_probs({**frozen, "delta": delta}, batch), batch.loss_BL)

    def told(delta: Any) -> float:
        nll = tokens = 0.0
        for at in range(0, len(held.ids_BL) - cfg.rows + 1, cfg.rows):
            batch = jax.tree.map(lambda x, at=at: x[at : at + cfg.rows], held)
            got = sums(frozen, delta, batch)
            nll, tokens = nll + float(got["nll"]), tokens + float(got["tokens"])
        return nll / tokens

    before, after = float("nan"), []
    for seed in cfg.seeds:
        delta = deltas.init(jax.random.key(seed), Decoder.sites(model), spec)
        source = ArraySource(train, cfg.rows, seed=seed)
        state = step.init_state(devices, {"delta": delta}, optim, source=source.init())
        if one is None:
            one = step.make_step(*objectives.sft(lm), optim, state)
            before = told(delta)
        key, at = jax.random.key(seed), source.init()
        for i in range(cfg.steps):
            batch, at = source(i, None, at)
            state, _ = one(state, frozen, batch, key)
        after.append(told(state.params["delta"]))
    return before, after


# ------------------------------------------------------------------------------------------------ sizes


def sizes(cfg: QuantConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of bytes a parameter, megabytes of weights and of a step's temporaries, and seconds a step."""
    folder = shape.model_folder(cfg.size)
    ids = jnp.asarray(shape.prompts(cfg.size, 8, 256), jnp.int32)
    rows, runs = [], {}
    for row in ROWS:
        model, params = stored(folder, row)
        runs[row], temporary = _step(model, params, lora_delta(cfg.size, model, 1, cfg.rank), ids)
        kernels = {name: part for name, part in params.items() if name != "embed"}
        rows.append(
            {
                "row": row,
                "bytes/parameter": quant.size_bytes(kernels) / quant.parameters(kernels),
                "on disk": saved_bytes(kernels) / quant.parameters(kernels),
                "weights_mb": quant.size_bytes(params) / 1e6,
                "of_fp32": quant.size_bytes(kernels) / quant.parameters(kernels) / 4,
                "step_mb": temporary / 1e6,
            }
        )
    times: dict[str, list[float]] = {row: [] for row in ROWS}
    for _ in range(cfg.rounds):
        for row, run in runs.items():
            start = time.perf_counter()
            run()
            times[row].append(time.perf_counter() - start)
    base = times["fp32"]
    for row in rows:
        own = times[row["row"]]
        row["step_ms"] = 1e3 * statistics.median(own)
        row["time_of_fp32"] = statistics.median(a / b for a, b in zip(own, base, strict=True))
    return rows, []


def _step(model: Any, params: Any, delta: Any, ids: jax.Array) -> tuple[Any, int]:
    """(a function that makes one gradient of the LoRA, bytes of what it holds beside its arguments)."""

    def loss(delta: Any, params: Any) -> jax.Array:
        out = Decoder(model).apply({"params": params}, ids, delta=delta)
        sums = next_token(out.logits, ids, jnp.ones(ids.shape, jnp.float32))
        return sums["nll"] / sums["tokens"]

    compiled = jax.jit(jax.value_and_grad(loss)).lower(delta, params).compile()
    run = lambda: jax.block_until_ready(compiled(delta, params))
    run()
    return run, compiled.memory_analysis().temp_size_in_bytes


def saved_bytes(params: Any) -> int:
    """Of the folder that `quant.save` writes, facts and indices included; the store compresses where that helps."""
    with tempfile.TemporaryDirectory() as room:
        quant.save(Path(room) / "weights", params)
        return sum(f.stat().st_size for f in (Path(room) / "weights").rglob("*") if f.is_file())


if __name__ == "__main__":
    config.run(main, QuantConfig, __doc__)
