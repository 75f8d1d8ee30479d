"""Preference training: DPO and its kin on pairs of answers, KTO on single thumbs.

    python -m train.prefer configs/language/prefer_hh.py
    python -m train.prefer configs/language/prefer_hh.py --loss.kind ipo --method dora
    python -m train.prefer configs/language/prefer_sample.py               # tenants' p alone, of a personal model

A language model (`base`) is tuned by a Delta or whole; of a personal model (`personal`) what trains is each tenant's p,
or whatever `train` names. Writes OUT/adapter (OUT/model where weights of the base moved; OUT/profile for tenants),
OUT/held.json with the held-out numbers of each group before and after, and OUT/reference/, the reference's
log-probabilities, from which a stopped run goes on.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax

from jaxrec import checkpoint, config, elastic, mesh, processes, results
from jaxrec import delta as deltas
from jaxrec.config import RunError
from jaxrec.data.store import reading as stores
from jaxrec.data.tenants import read_tenants
from jaxrec.delta import DeltaConfig
from jaxrec.files import write_json
from jaxrec.losses.preference import PreferenceLoss
from jaxrec.mesh import MeshConfig
from jaxrec.models.language.tuned_folder import load_tuned, save_stage
from jaxrec.models.personal.personal_folder import load_personal
from jaxrec.objectives.held_preferences import HeldPreferences
from jaxrec.objectives.prefer import prefer
from jaxrec.objectives.preference_start import (
    PreferenceStart,
    language_start,
    preference_batches,
    read_preferences,
    read_stored,
    relabel_pairs,
    tenant_start,
)
from jaxrec.objectives.reference import with_reference
from jaxrec.processes import HostsConfig
from jaxrec.rewards.judges import AnswerJudgeConfig
from jaxrec.training import gradients, partition, tuning
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig


@dataclasses.dataclass(frozen=True)
class PreferConfig:
    """A run of preference training."""

    base: str = "runs/backbone_small/model"  # a folder, GGUF file, name ("smollm2") or hub id; or an adapter's folder
    adapter: str = ""  # to go on from, and the reference: an earlier stage's, on top of `base`
    personal: str = ""  # a personal model's folder instead: tenants
    profile: str = ""  # a personalize stage's OUT/profile, whose p is where tenants start; else the encoder's p
    data: tuple[
        str, ...
    ] = ()  # of a language model: see jaxrec.data.pairs; or stores, see jaxrec.data.tokenise
    tenants: tuple[str, ...] = ()  # of a personal one, whose preferences: see jaxrec.data.tenants
    held: tuple[str, ...] = ()  # held-out pairs; when empty each `hold_out_every`-th of `data`
    hold_out_every: int = 10
    hold_out_last: int = 10  # of each tenant's pairs, in a personal model
    strict: bool = False  # the first unusable row stops
    judge: AnswerJudgeConfig = (
        AnswerJudgeConfig()
    )  # who labels the training pairs anew; nobody by default
    loss: PreferenceLoss = PreferenceLoss()
    reference: Literal["precomputed", "switched"] = (
        "precomputed"  # or by switching the change off, in each step
    )
    method: str = "lora"  # see jaxrec.delta.METHODS; "full" trains the backbone
    delta: DeltaConfig = DeltaConfig()  # sizes of one's own; goes before `method`
    lora_dropout: float = 0.0
    train: str = ""  # rule of paths; when empty: the delta, backbone/.*, or the tenants' p
    quantise: Literal["", "nf4", "int8"] = ""
    dtype: Literal["float32", "bfloat16"] = "float32"
    length: int = 256  # tokens of a conversation
    buckets: tuple[int, ...] = ()  # lengths that rows are sorted into; one length when empty
    question: int = 40  # tokens, of a tenant's rows
    answer: int = 96
    rows: int = 16  # pairs (or thumbs) a batch
    accum: int = 1
    opt: OptConfig = OptConfig(lr=5e-4, warmup=10, schedule="linear")
    loop: LoopConfig = LoopConfig(steps=100, eval_every=50, monitor="held_accuracy", mode="max")
    mesh: MeshConfig = MeshConfig()
    hosts: HostsConfig = HostsConfig()
    out: str = "runs/prefer"


class PreferError(RunError, ValueError):
    """Settings of a preference training that contradict each other."""


def main(cfg: PreferConfig) -> dict[str, float]:
    """Trains and saves; gives `held_accuracy`, `held_margin` and so on of the weights that it wrote."""
    check(cfg)
    processes.start(cfg.hosts)
    devices, accum = elastic.arrange(cfg.mesh, cfg.rows, cfg.accum, cfg.out)
    start = start_of(cfg, devices)
    trained, frozen = tuning.parts(start.tree, start.rule)
    rows, held, how = start.train, start.held, cfg.loss
    asked = "switched" if cfg.reference == "switched" else "batch"
    if asked == "batch" and how.needs_reference:
        told = lambda rows: with_reference(
            start.lm, start.reference, rows, Path(cfg.out) / "reference", devices, cfg.rows
        )
        rows, held = told(rows), told(held)
    lengths = (*cfg.buckets, cfg.length) if cfg.buckets and not cfg.personal else ()
    share = mesh.process_rows(devices, cfg.rows)
    source, programs = preference_batches(rows, cfg.rows, lengths, seed=cfg.loop.seed, share=share)
    take = gradients.spanning if how.kind == "kto" else gradients.summed
    judged = HeldPreferences(start.lm, held, start.groups, how, asked, devices, cfg.rows)
    whole = lambda params: partition.merge(params, frozen)
    trained = mesh.place(devices, trained)
    before = judged.by_group(whole(trained))
    fitted = tuning.tune(
        prefer(start.lm, how, asked), trained, source, opt=cfg.opt, config=cfg.loop, mesh=devices,
        rows=cfg.rows, out=cfg.out, frozen=frozen, gradients=take(accum), tables=start.by_row,
        evaluate=lambda params, at: judged.measure(whole(params)),
        resolved=cfg, title=f"prefer: {how.kind}", programs=programs,
    )  # fmt: skip
    best = tuning.best_of(cfg.out, fitted.state.params)
    told = judged.measure(whole(best))
    facts = {"stage": "prefer", "loss": config.to_dict(how), "step": fitted.best, **told}
    places = save(cfg, start, whole(best), facts)
    after = judged.by_group(whole(best))
    write_json(Path(cfg.out) / "held.json", {"overall": told, "before": before, "after": after})
    asks = {
        "profile": ("jaxrec", "answer", "--model", cfg.out, "--tenant", *start.names[:1]),
        "parts": (),
    }
    text = ("jaxrec", "eval", "text", "--model", places[0], "--data", "HELD.jsonl")
    results.conclude(places, asks.get(places[0].name, text))
    return told | {"best_step": float(fitted.best)}


def check(cfg: PreferConfig) -> None:
    """Raises PreferError for settings that contradict each other, before anything is loaded."""
    full = deltas.method(cfg.method).empty and cfg.delta.empty and not cfg.adapter
    whole = not cfg.personal and (full or "backbone" in cfg.train)
    head = bool(cfg.personal and cfg.train and cfg.train != "profile/p")
    compares = cfg.loss.needs_reference or cfg.loss.kl
    if cfg.reference == "switched" and compares and (whole or head):
        raise PreferError(
            "reference='switched' needs a change that can be switched off, a Delta or a tenant's p; where weights of"
            " the model itself train, precompute the reference (--reference precomputed)"
        )
    if cfg.personal and (cfg.data or not cfg.tenants):
        raise PreferError(
            "a personal model learns from its tenants' own preferences: name their folder, or a .jsonl of them, with"
            " --tenants, and leave data out"
        )
    if not cfg.personal and (cfg.tenants or not cfg.data):
        raise PreferError(
            "nothing to learn from: name a .jsonl of prompt, chosen and rejected (or hh_rlhf, world:train) with --data,"
            " and leave tenants out"
        )
    if cfg.quantise and whole:
        raise PreferError(
            f"a {cfg.quantise} backbone has no gradient: choose an adapter (--method lora)"
        )
    if cfg.personal and (cfg.adapter or cfg.quantise or cfg.judge.kind):
        raise PreferError(
            "adapter, quantise and judge are for a language model: leave them out for a personal one"
        )


def start_of(cfg: PreferConfig, devices: jax.sharding.Mesh) -> PreferenceStart:
    """The model, what of it trains, and the rows, as the settings name them."""
    kind = "thumbs" if cfg.loss.kind == "kto" else "pairs"
    if cfg.personal:
        model = load_personal(cfg.personal, devices)
        tenants, left = read_tenants(cfg.tenants)
        tuning.say("tenants, left out", left)
        return tenant_start(
            model, tenants, devices, profile=cfg.profile, kind=kind, held=cfg.hold_out_last, rule=cfg.train,
            question=cfg.question, answer=cfg.answer,
        )  # fmt: skip
    tuned = load_tuned(
        cfg.base, cfg.adapter, devices=devices, quantise=cfg.quantise, dtype=cfg.dtype
    )
    reference = dict(tuned.tree)
    if "delta" not in reference:
        tuned = tuned.with_delta(deltas.choose(cfg.method, cfg.delta), cfg.loop.seed, devices)
    if stores.all_stores(cfg.data):
        if cfg.judge.kind:
            raise PreferError(
                "a judge labels texts, and a store holds tokens: judge the file first"
            )
        opened = stores.open_stores(cfg.data, "pairs", cfg.length)
        train, held = read_stored(opened, cfg.held, kind=kind, strict=cfg.strict)
    else:
        relabel = lambda pairs: relabel_pairs(tuned, pairs, cfg.judge, cfg.out)
        train, held = read_preferences(
            cfg.data, cfg.held, kind=kind, hold_out_every=cfg.hold_out_every, strict=cfg.strict,
            relabel=relabel if cfg.judge.kind else None,
        )  # fmt: skip
    return language_start(
        tuned, reference, train, held, rule=cfg.train, length=cfg.length, dropout=cfg.lora_dropout, strict=cfg.strict
    )  # fmt: skip


def save(cfg: PreferConfig, start: PreferenceStart, tree: Any, facts: dict[str, Any]) -> list[Path]:
    """OUT/adapter, OUT/model, or for tenants OUT/profile (p alone) or OUT/parts (what else trained); which it was."""
    out = Path(cfg.out)
    if cfg.personal:
        told = {"tenants": list(start.names), "model": cfg.personal, "sources": list(cfg.tenants)}
        told |= facts
        if start.rule == "profile/p":
            p = {"p": tree["profile"]["p"], "p_start": tree["start"]}
            checkpoint.save_params(out / "profile", p, told)
            return [out / "profile"]
        trained, _ = partition.split(tree, start.rule)
        checkpoint.save_params(out / "parts", trained, told | {"train": start.rule})
        return [out / "parts"]
    _, written = save_stage(out, start.loaded, tree, backbone="backbone" in start.rule, facts=facts)
    return written


if __name__ == "__main__":
    config.run(main, PreferConfig, __doc__)
