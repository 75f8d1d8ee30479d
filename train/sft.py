"""Supervised fine-tuning of a language model, whole or by any adapter, on instructions and chats.

    python -m train.sft configs/language/sft_sample.py
    python -m train.sft configs/language/sft_sample.py --method dora --opt.lr 3e-3
    python -m train.sft configs/language/sft_sample.py --method full --opt.lr 3e-4 --out runs/sft_full
    python -m train.sft configs/language/sft_sample.py --quantise nf4 --dtype bfloat16           # QLoRA

Writes OUT/adapter (and OUT/peft, where Hugging Face PEFT knows the method), or OUT/model where weights of the model
itself were trained, or merged into it (--merge); OUT/samples.jsonl, answers written during training; and held-out
nats a token and perplexity in OUT/metrics.jsonl. What is written is the best of the run, OUT/checkpoints hold the last.
"""

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxrec import config, elastic, hub, mesh, objectives, processes, quant, results
from jaxrec import delta as deltas
from jaxrec.config import RunError
from jaxrec.data import text
from jaxrec.data.instruction_batches import Batches, How, batches
from jaxrec.data.instructions import (
    Instruction,
    Skipped,
    TooLong,
    encode_instructions,
    hold_out,
    parsed,
    read_instructions,
)
from jaxrec.data.store import reading as stores
from jaxrec.data.store.row_kinds import writing_hash
from jaxrec.delta import DeltaConfig
from jaxrec.losses.tokens import token_sums
from jaxrec.mesh import MeshConfig
from jaxrec.models.language.sampled import SampleConfig, Sampled
from jaxrec.models.language.tuned_folder import Tuned, load_tuned, save_model, save_stage
from jaxrec.models.language.tuned_lm import TunedLM
from jaxrec.nn.decoder import Decoder
from jaxrec.processes import HostsConfig
from jaxrec.structs import Tokens
from jaxrec.training import gradients, loop, partition, tuning
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig


@dataclasses.dataclass(frozen=True)
class SftConfig:
    """A run of supervised fine-tuning. `delta` goes before `method` where it is not empty."""

    base: str = "runs/sample/pretrain/model"  # a folder, GGUF file, name ("smollm2") or hub id
    adapter: str = ""  # an earlier adapter to go on from
    data: tuple[str, ...] = ()  # see jaxrec.data.instructions; or stores, see jaxrec.data.tokenise
    held: tuple[
        str, ...
    ] = ()  # held-out instructions; each `hold_out_every`-th of `data` when empty
    hold_out_every: int = 20
    plain: bool = False  # no chat template: <bos> prompt completion <eos>, as they stand
    strict: bool = False  # the first malformed row stops
    method: str = "lora"  # full, lora, rslora, dora, adapter, adapter_mlp, prefix, prompt, ia3, norm, attn_bias
    delta: DeltaConfig = DeltaConfig()  # sizes of one's own, several kinds at once
    lora_dropout: float = 0.0
    train: str = ""  # rule of paths; "delta", or "backbone/.*" of the method "full", when empty
    quantise: Literal["", "nf4", "int8"] = ""  # the frozen backbone's weights
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; what trains stays f32
    frozen_dtype: Literal["", "float32", "bfloat16"] = ""  # of a frozen backbone; as in its file
    cuts: tuple[int, ...] = ()  # of the layers into stacks, so that a rule can name the top ones
    remat: Literal["none", "full", "dots"] = "none"
    length: int = 256  # tokens a row
    rows: int = 16  # rows a batch
    accum: int = 1
    batching: How = "packed"
    buckets: tuple[int, ...] = ()  # lengths, for batching "bucketed"
    learn: Literal["last", "all"] = "all"  # of a conversation's answers
    too_long: TooLong = "left"
    opt: OptConfig = OptConfig(lr=1e-3, warmup=20)
    loop: LoopConfig = LoopConfig(steps=300, eval_every=100, monitor="held_nll")
    samples: SampleConfig = SampleConfig()
    merge: bool = False  # write OUT/model with the adapter folded in, too
    mesh: MeshConfig = MeshConfig()
    hosts: HostsConfig = HostsConfig()
    out: str = "runs/sft"


class SftError(RunError, ValueError):
    """Settings of a fine-tuning that contradict each other."""


def main(cfg: SftConfig) -> dict[str, float]:
    """Trains and saves; gives the best monitored value (`held_nll`: nats a learned token) and its step."""
    check(cfg)
    processes.start(cfg.hosts)
    devices, accum = elastic.arrange(cfg.mesh, cfg.rows, cfg.accum, cfg.out)
    tuned = start(cfg, devices)
    rule = cfg.train or ("delta" if "delta" in tuned.tree else "backbone/.*")
    trained, frozen = tuning.parts(tuned.tree, rule)
    made, held = (stored if stores.all_stores(cfg.data) else in_memory)(cfg, tuned, devices)
    told = held_out_nll(tuned, encode(tuned, held, cfg, "held out"), cfg)
    sampled = Sampled(tuned.model, tuned.chat, [one.prompt for one in held], cfg.samples)

    def evaluate(params: Any, at: int) -> dict[str, float]:
        tree = partition.merge(params, frozen)
        if sampled.due(at, cfg.loop.steps):
            sampled.write(Path(cfg.out) / "samples.jsonl", tree, at)
        return told(tree)

    lm = TunedLM(tuned.model, lora_dropout=cfg.lora_dropout)
    fitted = tuning.tune(
        objectives.sft(lm), trained, made.source, opt=cfg.opt, config=cfg.loop, mesh=devices,
        rows=cfg.rows, out=cfg.out, frozen=frozen, gradients=gradients.summed(accum),
        evaluate=evaluate, resolved=cfg, title="sft", programs=made.programs,
    )  # fmt: skip
    best = tuning.best_of(cfg.out, fitted.state.params)
    save(cfg, tuned, best, frozen, fitted)
    print(f"best {cfg.loop.monitor} {fitted.value:.4g}, at step {fitted.best}", flush=True)
    places = [Path(cfg.out) / name for name in ("adapter", "model", "peft")]
    there = [place for place in places if place.is_dir()]
    held = cfg.held or ("HELD.jsonl",)
    results.conclude(there, ("jaxrec", "eval", "text", "--model", there[0], "--data", *held))
    return {cfg.loop.monitor: fitted.value, "best_step": float(fitted.best)}


def check(cfg: SftConfig) -> None:
    """Raises SftError for settings that contradict each other, before anything is loaded."""
    if not cfg.data:
        raise SftError(
            "nothing to learn from: name a .jsonl of chats or of prompts and completions with --data (world is the"
            " sample world)"
        )
    if cfg.loop.steps < 1:
        tuned = f" --adapter {cfg.adapter}" if cfg.adapter else ""
        raise SftError(
            f"loop.steps={cfg.loop.steps} trains nothing; eval.text measures a model as it is:"
            f" jaxrec eval text --model {cfg.base}{tuned} --data {' '.join(cfg.held or cfg.data)}"
        )
    spec = deltas.choose(cfg.method, cfg.delta)
    whole = (spec.empty and not cfg.adapter) or "backbone" in cfg.train
    if cfg.quantise and whole:
        raise SftError(
            f"a {cfg.quantise} backbone has no gradient, so it cannot be fine-tuned itself: choose an adapter"
            " (--method lora), or --quantise ''"
        )
    if cfg.frozen_dtype and whole:
        raise SftError(
            "frozen_dtype is of a backbone that stays frozen: full fine-tuning keeps its weights in float32"
        )
    kinds = (spec.adapter_size, spec.prefix_length, spec.prompt_length)
    if cfg.merge and (whole or any(kinds) or spec.norm or spec.attn_bias or spec.embed):
        raise SftError(
            "merge: only LoRA (with rsLoRA and DoRA) and IA3 can be folded into weights that stay frozen"
        )
    if cfg.samples.every and (not cfg.loop.eval_every or cfg.samples.every % cfg.loop.eval_every):
        raise SftError(
            f"samples.every={cfg.samples.every} must be a multiple of loop.eval_every={cfg.loop.eval_every}"
        )


def start(cfg: SftConfig, devices: jax.sharding.Mesh) -> Tuned:
    """The loaded base with the Delta that is to be trained."""
    tuned = load_tuned(
        cfg.base, cfg.adapter, devices=devices, quantise=cfg.quantise, cuts=cfg.cuts,
        param_dtype=cfg.frozen_dtype or None, plain=cfg.plain or None, dtype=cfg.dtype,
        remat=cfg.remat,
    )  # fmt: skip
    if cfg.adapter:
        return tuned
    spec = deltas.choose(cfg.method, cfg.delta)
    if spec.empty:
        wide = jax.tree.map(lambda x: x.astype("float32"), tuned.tree["backbone"])
        return dataclasses.replace(tuned, tree={"backbone": wide})
    return tuned.with_delta(spec, cfg.loop.seed, devices)


def in_memory(
    cfg: SftConfig, tuned: Tuned, devices: jax.sharding.Mesh
) -> tuple[Batches, list[Instruction]]:
    """(batches, held-out instructions) of sources that are read whole; what is left out of them is printed."""
    train, held = read(cfg)
    examples = encode(tuned, train, cfg, "train")
    made = batches(
        examples, cfg.batching, length=cfg.length, rows=cfg.rows, buckets=cfg.buckets,
        seed=cfg.loop.seed, share=mesh.process_rows(devices, cfg.rows), pad_id=tuned.chat.pad_id,
    )  # fmt: skip
    print(
        f"{len(examples)} examples in {made.per_epoch:.0f} batches an epoch, {made.fill:.1%} of it real tokens;"
        f" {len(held)} held out",
        flush=True,
    )
    return made, held


def stored(
    cfg: SftConfig, tuned: Tuned, devices: jax.sharding.Mesh
) -> tuple[Batches, list[Instruction]]:
    """(batches, held-out instructions) of stores, of which only the rows of a batch are read."""
    if cfg.batching != "packed":
        raise SftError(f"batching {cfg.batching!r}: the rows of a store are packed already")
    opened = stores.open_stores(
        cfg.data, "chats", cfg.length, learn=cfg.learn, too_long=cfg.too_long
    )
    opened.check_writing(writing_hash(tuned.chat))
    print(opened.said(), flush=True)
    one = lambda source: read_instructions(source, cfg.strict)
    held = tuning.read_all(cfg.held, one) or list(parsed(opened.held(), cfg.strict, Skipped()))
    if not held:
        raise SftError(
            "nothing is held out: name chats to measure on with --held, or make the store with --hold-out-every 20"
        )
    share = mesh.process_rows(devices, cfg.rows)
    source = opened.source(cfg.rows, seed=cfg.loop.seed, share=share)
    size, tokens = len(opened.rows), sum(manifest.tokens for _, manifest in opened.stores)
    return Batches(source, 1, size / cfg.rows, tokens / (size * cfg.length)), held


def read(cfg: SftConfig) -> tuple[list[Instruction], list[Instruction]]:
    """(training, held-out) instructions; what was left out of them is printed."""
    one = lambda source: read_instructions(source, cfg.strict)
    train = tuning.read_all(cfg.data, one)
    return (
        (train, tuning.read_all(cfg.held, one)) if cfg.held else hold_out(train, cfg.hold_out_every)
    )


def encode(tuned: Tuned, rows: list[Instruction], cfg: SftConfig, what: str) -> list[text.Example]:
    """Token rows; what was cut or left out is printed."""
    examples, skipped = encode_instructions(
        tuned.chat, rows, cfg.length, learn=cfg.learn, too_long=cfg.too_long
    )
    tuning.say(what, skipped)
    return examples


def held_out_nll(tuned: Tuned, examples: list[text.Example], cfg: SftConfig):
    """told(tree) -> `held_nll` (nats a learned token), `perplexity`, `held_accuracy` over all held-out examples."""
    rows = Tokens(**text.pack(examples, cfg.length, tuned.chat.pad_id))
    short = -len(rows.ids_BL) % cfg.rows
    rows = jax.tree.map(
        lambda x: np.pad(x, ((0, short), (0, 0))).reshape(-1, cfg.rows, x.shape[1]), rows
    )

    @jax.jit
    def sums(tree: Any, batch: Tokens):
        return token_sums(*tuned.lm.log_probs(tree, batch), batch.loss_BL)

    def told(tree: Any) -> dict[str, float]:
        total = {"nll": 0.0, "correct": 0.0, "tokens": 0.0}
        for i in range(len(rows.ids_BL)):
            found = sums(tree, jax.tree.map(lambda x, i=i: x[i], rows))
            total = {name: value + float(found[name]) for name, value in total.items()}
        nll = total["nll"] / total["tokens"]
        accuracy = total["correct"] / total["tokens"]
        return {"held_nll": nll, "perplexity": math.exp(nll), "held_accuracy": accuracy}

    return told


def save(cfg: SftConfig, tuned: Tuned, best: Any, frozen: Any, fitted: loop.FitResult) -> None:
    """OUT/model where the model's own weights were trained; OUT/adapter and OUT/peft where a Delta was."""
    out = Path(cfg.out)
    tree = partition.merge(best, frozen)
    facts = {"stage": "sft", "step": fitted.best, cfg.loop.monitor: fitted.value}
    base, _ = save_stage(
        out, tuned, tree, backbone="backbone" in best, facts=facts, plain=cfg.plain
    )
    written = {"model"} if "backbone" in best else set()
    if "delta" in tree:
        written |= {"adapter", *_save_delta(cfg, tuned, tree, base)}
    older = {"model", "adapter", "peft"} - written  # an earlier run's never lie beside this one's
    for name in sorted(older):
        if (out / name).resolve() != Path(tuned.base).expanduser().resolve():
            shutil.rmtree(out / name, ignore_errors=True)


def _save_delta(cfg: SftConfig, tuned: Tuned, tree: dict[str, Any], base: str) -> set[str]:
    """OUT/peft, where PEFT knows the method, and by option OUT/model with the Delta merged; which of them there are."""
    out, spec, params, written = Path(cfg.out), tuned.spec, tree["backbone"], {"peft"}
    if cfg.merge or spec.lora_dora:  # both compute with the weights themselves
        params = quant.whole(params)
    try:
        hub.save_peft(out / "peft", tree["delta"], spec, tuned.cfg, params=params, base=base)
    except hub.PeftError as error:
        print(f"no OUT/peft: {error}", flush=True)
        written = set()
    if cfg.merge:
        merged = deltas.merge_params(params, tree["delta"], Decoder.path_of)
        save_model(out / "model", tuned.cfg, merged, base)
        written.add("model")
    return written


if __name__ == "__main__":
    config.run(main, SftConfig, __doc__)
