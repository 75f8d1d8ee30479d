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
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec import checkpoint, config, mesh, results
from jaxrec import delta as deltas
from jaxrec.config import RunError
from jaxrec.data.pairs import (
    Pair,
    Thumb,
    hold_out,
    join_thumbs,
    pair_rows,
    read_pairs,
    read_thumbs,
    thumb_rows,
)
from jaxrec.data.row_buckets import BucketedRows, in_buckets
from jaxrec.data.source import ArraySource, Prefetch
from jaxrec.data.tenant_pairs import (
    both_thumbs,
    hold_out_last,
    pairs_of,
    tenant_pair_rows,
    tenant_thumb_rows,
    thumbs_of,
)
from jaxrec.data.tenants import read_tenants
from jaxrec.delta import DeltaConfig
from jaxrec.files import write_json
from jaxrec.losses.preference import PreferenceLoss
from jaxrec.mesh import HostsConfig, MeshConfig
from jaxrec.models.language.tuned_folder import Tuned, load_tuned, save_stage
from jaxrec.models.language.tuned_lm import LM, TenantLM, TunedLM
from jaxrec.models.personal.continuations import plain, scorer
from jaxrec.models.personal.personal_folder import load_personal
from jaxrec.models.personal.profile_folder import starting_p
from jaxrec.objectives.held_preferences import HeldPreferences
from jaxrec.objectives.prefer import prefer
from jaxrec.objectives.reference import with_reference
from jaxrec.rewards.judges import AnswerJudgeConfig, Choice, LanguageJudge, label
from jaxrec.structs import Pairs, Thumbs
from jaxrec.tables import RowAdam
from jaxrec.training import gradients, partition, tuning
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig


@dataclasses.dataclass(frozen=True)
class PreferConfig:
    """A run of preference training."""

    base: str = (
        "runs/backbone_small/model"  # a Hugging Face folder or hub id, or an adapter's folder
    )
    adapter: str = ""  # to go on from, and the reference: an earlier stage's, on top of `base`
    personal: str = ""  # a personal model's folder instead: tenants
    profile: str = ""  # a personalize stage's OUT/profile, whose p is where tenants start; else the encoder's p
    data: tuple[str, ...] = ()  # of a language model: see jaxrec.data.pairs
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


class Start(NamedTuple):
    """What a run begins with, whatever model it is."""

    lm: LM
    tree: dict[str, Any]  # what trains, and all that stays
    reference: dict[str, Any]  # the tree of the reference policy: the same arrays
    rule: str
    by_row: dict[str, RowAdam] | None
    train: Pairs | Thumbs
    held: Pairs | Thumbs
    groups: list[str]  # of the held-out rows
    loaded: Any
    names: tuple[str, ...]  # tenants


def main(cfg: PreferConfig) -> dict[str, float]:
    """Trains and saves; gives `held_accuracy`, `held_margin` and so on of the weights that it wrote."""
    check(cfg)
    mesh.start(cfg.hosts)
    devices = mesh.make(cfg.mesh)
    start = start_tenants(cfg, devices) if cfg.personal else start_tuned(cfg, devices)
    trained, frozen = tuning.parts(start.tree, start.rule)
    rows, held, how = start.train, start.held, cfg.loss
    asked = "switched" if cfg.reference == "switched" else "batch"
    if asked == "batch" and how.needs_reference:
        told = lambda rows: with_reference(
            start.lm, start.reference, rows, Path(cfg.out) / "reference", devices, cfg.rows
        )
        rows, held = told(rows), told(held)
    source, programs = batches(cfg, rows, mesh.process_rows(devices, cfg.rows))
    take = gradients.spanning if how.kind == "kto" else gradients.summed
    judged = HeldPreferences(start.lm, held, start.groups, how, asked, devices, cfg.rows)
    whole = lambda params: partition.merge(params, frozen)
    trained = mesh.place(devices, trained)
    before = judged.by_group(whole(trained))
    fitted = tuning.tune(
        prefer(start.lm, how, asked), trained, source, opt=cfg.opt, config=cfg.loop, mesh=devices,
        rows=cfg.rows, out=cfg.out, frozen=frozen, gradients=take(cfg.accum), tables=start.by_row,
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


# ------------------------------------------------------------------------------------------- a language model


def start_tuned(cfg: PreferConfig, devices: jax.sharding.Mesh) -> Start:
    """A language model with the Delta that trains, and its token rows."""
    tuned = load_tuned(
        cfg.base, cfg.adapter, devices=devices, quantise=cfg.quantise, dtype=cfg.dtype
    )
    reference = dict(tuned.tree)
    if "delta" in reference:
        tree = {**reference, "start": {"delta": reference["delta"]}}
    else:
        tuned = tuned.with_delta(deltas.choose(cfg.method, cfg.delta), cfg.loop.seed, devices)
        tree = tuned.tree
    rule = cfg.train or ("delta" if "delta" in tree else "backbone/.*")
    train, held = read(cfg, tuned)
    encode = lambda rows, what: encoded(cfg, tuned, rows, what)
    rows, _ = encode(train, "train")
    held_rows, kept = encode(held, "held out")
    groups = [row.group for row in kept]
    lm = TunedLM(tuned.model, lora_dropout=cfg.lora_dropout)
    return Start(lm, tree, reference, rule, None, rows, held_rows, groups, tuned, ())


def read(cfg: PreferConfig, tuned: Tuned) -> tuple[list, list]:
    """(training, held-out) pairs or thumbs; what was left out of them is printed."""
    ask = read_thumbs if cfg.loss.kind == "kto" else read_pairs
    all_of = lambda sources: tuning.read_all(sources, lambda source: ask(source, cfg.strict))
    if cfg.held:
        train, held = all_of(cfg.data), all_of(cfg.held)
    else:
        train, held = hold_out(all_of(cfg.data), cfg.hold_out_every)
    if cfg.loss.kind == "kto":
        held = join_thumbs(held) or held  # measured as the other losses are, where that can be
    if cfg.judge.kind:
        train = all_of(
            (relabelled(cfg, tuned, join_thumbs(train) if ask is read_thumbs else train),)
        )
    return train, held


def relabelled(cfg: PreferConfig, tuned: Tuned, pairs: list[Pair]) -> str:
    """OUT/judged.jsonl: training pairs as the judge sees them. What their file prefers is not shown to it."""
    judge = cfg.judge.rule()
    if cfg.judge.kind == "language":
        first, encode = plain(tuned.chat)
        score = scorer(tuned.lm, tuned.tree, encode, first=first, length=cfg.judge.length)
        judge = LanguageJudge(score, cfg.judge.template)
    asked = lambda p: "\n".join(said for _, said in p.prompt)
    turned = lambda n, p: (p.chosen, p.rejected) if n % 2 else (p.rejected, p.chosen)
    choices = [Choice(asked(p), *turned(n, p), p.prompt) for n, p in enumerate(pairs)]
    path = Path(cfg.out) / "judged.jsonl"
    counts = label(choices, judge, path, cfg.judge.threshold)
    print("judged: " + ", ".join(f"{n} {what}" for what, n in counts.items()), flush=True)
    return str(path)


def encoded(cfg: PreferConfig, tuned: Tuned, rows: list[Pair] | list[Thumb], what: str) -> tuple:
    """(token rows, the pairs or thumbs that they are); what was cut or left out is printed."""
    ask = pair_rows if isinstance(rows[0], Pair) else thumb_rows
    made, kept, skipped = ask(tuned.chat, rows, cfg.length, cfg.strict)
    print(f"{what}: {len(kept)} rows of {len(rows)}", *skipped.lines(), sep="; ", flush=True)
    return made, kept


# ---------------------------------------------------------------------------------------------------- tenants


def start_tenants(cfg: PreferConfig, devices: jax.sharding.Mesh) -> Start:
    """A personal model with a table of the tenants' p, and rows of their questions and answers."""
    model = load_personal(cfg.personal, devices)
    tenants, left = read_tenants(cfg.tenants)
    judged = [tenant for tenant in tenants if tenant.preferences]
    if not judged:
        raise PreferError(
            f"of {len(tenants)} tenants none has preferences (pairs of answers); from thumbs alone p is fitted by"
            " train.personalize --by gradient"
        )
    tuning.say("tenants, left out", left)
    names = tuple(tenant.key for tenant in judged)
    train, held = hold_out_last(pairs_of(judged), cfg.hold_out_last)
    p_UE = starting_p(model, judged, cfg.profile)
    tree = {name: part for name, part in model.params.items() if name not in ("encoder", "profile")}
    # two arrays: the step gives the trained one's memory away
    tree |= {"profile": {"p": jnp.asarray(p_UE)}, "start": mesh.place(devices, jnp.asarray(p_UE))}
    made, kept, skipped = tenant_pair_rows(model.chat, train, names, cfg.question, cfg.answer)
    if cfg.loss.kind == "kto":
        thumbs = [*both_thumbs(kept), *thumbs_of(judged)]
        made, _, _ = tenant_thumb_rows(model.chat, thumbs, names, cfg.question, cfg.answer)
    held_rows, held_kept, held_skipped = tenant_pair_rows(
        model.chat, held, names, cfg.question, cfg.answer
    )
    for line in (*skipped.lines(), *(f"held out: {x}" for x in held_skipped.lines())):
        print(line, flush=True)
    print(f"{len(names)} tenants: {len(kept)} pairs, {len(held_kept)} held out", flush=True)
    rule = cfg.train or "profile/p"
    side = "said" if cfg.loss.kind == "kto" else "chosen"
    by_row = {"profile/p": RowAdam(ids=lambda batch: getattr(batch, side).tenant_B)}
    groups = [pair.group for pair in held_kept]
    return Start(
        TenantLM(model.lm), tree, tree, rule, by_row if rule == "profile/p" else None, made, held_rows, groups,
        model, names,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------- the rest


def batches(cfg: PreferConfig, rows: Pairs | Thumbs, share: slice) -> tuple[Any, int]:
    """(source, how many shapes its batches have)."""
    if not cfg.buckets or cfg.personal:
        return Prefetch(ArraySource(rows, cfg.rows, seed=cfg.loop.seed, share=share)), 1
    made = in_buckets(rows, sorted({*cfg.buckets, cfg.length}))
    source = BucketedRows(made, cfg.rows, seed=cfg.loop.seed, share=share)
    return Prefetch(source), len(made)


def save(cfg: PreferConfig, start: Start, tree: Any, facts: dict[str, Any]) -> list[Path]:
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
