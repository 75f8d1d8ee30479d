"""What each preference loss gives on held-out pairs, beside the untuned model and the rule "the shorter answer".

    python -m eval.prefer configs/language/prefer_hh_eval.py
    python -m eval.prefer configs/language/prefer_sample_eval.py
    python -m eval.prefer configs/language/prefer_smollm2_hh.py             # real weights, their top layers
    python -m eval.prefer configs/language/prefer_hh_eval.py --validate     # for choosing settings: no test row is seen

Of a language model a Delta is trained, of a personal model each tenant's p alone, or its head. A fixed number of steps
for all losses, and nothing is chosen by the test rows. Columns: `accuracy` (the chosen answer has the higher reward of
its own loss), `likelier` and `likelier_per_token` (the chosen answer is the likelier one, which
can be said of the untuned model too), `margin` of rewards, `gain`: accuracy less the untuned model's `likelier`, on the
same pairs. Tenants: the same asked with the mean p, and with another's. What is kept in `work` (states, reference,
trained rows) is not computed again.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from jaxrec import checkpoint, config, files, mesh, results
from jaxrec import delta as deltas
from jaxrec.config import RunError
from jaxrec.data.feature_store import FeatureConfig
from jaxrec.data.pairs import Pair, hold_out, pair_rows, read_pairs, thumb_rows
from jaxrec.data.source import ArraySource, data_hash
from jaxrec.data.tenant_pairs import (
    both_thumbs,
    hold_out_last,
    pairs_of,
    tenant_pair_rows,
    tenant_thumb_rows,
)
from jaxrec.data.tenants import read_tenants
from jaxrec.delta import DeltaConfig
from jaxrec.losses.preference import PreferenceLoss
from jaxrec.mesh import MeshConfig
from jaxrec.metrics import ratio
from jaxrec.models.language.top_layers import load_top, on_top
from jaxrec.models.language.tuned_lm import LM, TenantLM, TunedLM
from jaxrec.models.personal.frozen_states import lower_states
from jaxrec.models.personal.personal_folder import load_personal
from jaxrec.models.personal.profile_folder import starting_p
from jaxrec.nn.decoder import Decoder
from jaxrec.objectives.held_preferences import HeldPreferences
from jaxrec.objectives.prefer import prefer
from jaxrec.objectives.reference import with_reference
from jaxrec.structs import Pairs
from jaxrec.tables import RowAdam
from jaxrec.training import gradients, optimizer, partition, step, tuning
from jaxrec.training.optimizer import OptConfig


@dataclasses.dataclass(frozen=True)
class Contender:
    """A loss, what it trains, and its learning rate."""

    name: str
    loss: PreferenceLoss
    lr: float = 1e-3
    train: str = ""  # rule of paths; the Delta, or the tenants' p, when empty


@dataclasses.dataclass(frozen=True)
class PreferEvalConfig:
    """Losses side by side on one model and one set of pairs."""

    name: str = "prefer"
    base: str = "runs/backbone_small/model"
    personal: str = ""  # a personal model instead: tenants
    profile: str = ""  # where their p starts; what the encoder infers when empty
    data: tuple[str, ...] = ()  # of a language model: see jaxrec.data.pairs
    tenants: tuple[str, ...] = ()  # of a personal one: see jaxrec.data.tenants
    contenders: tuple[Contender, ...] = (Contender("sigmoid", PreferenceLoss()),)
    held: tuple[
        str, ...
    ] = ()  # other pairs to test on; when empty each `test_every`-th prompt of `data`
    test_every: int = 5
    held_last: int = 10  # of tenants, so many pairs of each are tested
    train_pairs: int = 0  # that are learned from, evenly from all places; 0: all
    test_pairs: int = 0  # that are tested
    system: str = ""  # said before each conversation, as a system turn
    top: int = 0  # highest layers, which alone are changed; 0: all
    features: FeatureConfig = FeatureConfig()  # keeps the state below the `top` layers
    validate: bool = False  # test rows are put aside, and as many others are held out instead
    delta: DeltaConfig = DeltaConfig(lora_rank=16, lora_alpha=32.0)
    length: int = 256
    question: int = 40
    answer: int = 96
    rows: int = 16
    steps: int = 100
    warmup: int = 10
    seed: int = 0
    mesh: MeshConfig = MeshConfig()
    work: str = "runs/prefer_eval"  # reference log-probabilities, used again by the next run
    out: str = "results/prefer"


_CHUNK = 128  # positions whose scores are made at a time: a prompt's are not learned


class Case(NamedTuple):
    """A model at its start, and rows to train and to test on."""

    lm: LM
    tree: dict[str, Any]
    reference: dict[str, Any]
    rule: str
    pairs: Pairs
    thumbs: Callable[[], Any]  # of the same training pairs, made when a loss wants them
    test: Pairs
    tested: list[Pair]
    tenants: int  # 0: a language model


def main(cfg: PreferEvalConfig) -> list[dict[str, Any]]:
    """Prints the table, writes OUT/NAME.json and gives its rows."""
    began, devices = time.monotonic(), mesh.make(cfg.mesh)
    case = tenants_case(cfg, devices) if cfg.personal else model_case(cfg, devices)
    work = Path(cfg.work) / cfg.name
    told = lambda rows: with_reference(case.lm, case.reference, rows, work, devices, cfg.rows)
    case = case._replace(pairs=told(case.pairs), test=told(case.test))
    thumbs = told(case.thumbs()) if any(c.loss.kind == "kto" for c in cfg.contenders) else None
    key = key_of(cfg, case)
    rows = floors(case)
    if not case.tenants:
        rows.append(measured("untuned", untuned(case)))
    for contender in cfg.contenders:
        rows += rows_of(cfg, case, contender, thumbs, devices, work / "rows", key)
    print()
    results.print_table(rows)
    results.write_results(
        cfg.out, "prefer", rows, config=cfg, seed=cfg.seed, wall_s=time.monotonic() - began,
        filename=f"{cfg.name}.json", tested=len(case.tested), tenants=case.tenants,
        trained_on=len(jax.tree.leaves(case.pairs)[0]), protocol="validation" if cfg.validate else "test",
    )  # fmt: skip
    return rows


def rows_of(
    cfg: PreferEvalConfig,
    case: Case,
    contender: Contender,
    thumbs: Any,
    devices: jax.sharding.Mesh,
    folder: Path,
    key: str,
) -> list[dict[str, Any]]:
    """A contender's rows, from `folder` if they were made of the same model, data and settings already.

    Args:
      cfg, case, contender: what is measured.
      thumbs: the training pairs taken apart, for KTO.
      devices: the mesh.
      folder: where rows are kept.
      key: of model, data and settings, without the contender.
    """
    place = folder / f"{files.content_hash(key, repr(contender), digits=16)}.json"
    if place.is_file():
        print(f"{contender.name}: from {place}", flush=True)
        return json.loads(place.read_text("utf-8"))
    at, spent = time.monotonic(), time.process_time()
    data = thumbs if contender.loss.kind == "kto" else case.pairs
    tree = trained(cfg, case, contender, data, devices)
    took = {"train_s": round(time.monotonic() - at, 1)}
    took["train_cpu_s"] = round(time.process_time() - spent, 1)
    groups = [pair.group for pair in case.tested]
    judged = HeldPreferences(
        case.lm, case.test, groups, contender.loss, "batch", devices, cfg.rows
    )  # fmt: skip
    rows = []
    if case.tenants and contender is cfg.contenders[0]:
        for name, asked in with_other_p(case, "untuned", case.tree, cfg.seed).items():
            rows.append(measured(name, judged.judge_rows(asked)))
    before = None if case.tenants else untuned(case)
    for name, asked in with_other_p(case, contender.name, tree, cfg.seed).items():
        own = name == contender.name
        known = judged.judge_rows(asked)
        rows.append(measured(name, known, own) | (took if own else {}))
        rows[-1] |= gain(known, before, groups) if before is not None else {}
    files.write_json(place, rows)
    return rows


def key_of(cfg: PreferEvalConfig, case: Case) -> str:
    """What all contenders' rows depend on."""
    told = config.to_dict(dataclasses.replace(cfg, contenders=(), out="", work="", name=""))
    hashes = [data_hash(ArraySource(rows, 1)) for rows in (case.pairs, case.test)]
    return f"{sorted(told.items())} {checkpoint.fingerprint(case.tree)} {hashes}"


# ------------------------------------------------------------------------------------------------- cases


def model_case(cfg: PreferEvalConfig, devices: jax.sharding.Mesh) -> Case:
    """A language model with a fresh Delta; pairs split by prompt."""
    if not cfg.data:
        raise RunError("nothing to learn from: name a .jsonl of pairs (or hh_rlhf) with --data")
    tuned = load_top(cfg.base, cfg.top, devices)
    spec, below = on_top(cfg.delta, cfg.top, tuned.cfg)
    read = lambda sources: [pair for source in sources for pair in read_pairs(source)[0]]
    train, test = read(cfg.data), read(cfg.held)
    if not test:
        train, test = hold_out(train, cfg.test_every)
    if cfg.validate:
        train, test = hold_out(train, cfg.test_every)
    train, test = spread(train, cfg.train_pairs), spread(test, cfg.test_pairs)
    key = jax.random.key(cfg.seed)
    delta = jax.jit(lambda key: deltas.init(key, Decoder.sites(tuned.cfg), spec))(key)
    tree = {**tuned.tree, "delta": mesh.place(devices, delta)}
    train, test = (told(pairs, cfg.system) for pairs in (train, test))
    rows, kept, skipped = pair_rows(tuned.chat, train, cfg.length)
    test_rows, tested, test_skipped = pair_rows(tuned.chat, test, cfg.length)
    for line in (*skipped.lines(), *(f"test: {line}" for line in test_skipped.lines())):
        print(line, flush=True)
    thumbs = lambda: thumb_rows(tuned.chat, both_thumbs(kept), cfg.length, seed=cfg.seed)[0]
    lm = TunedLM(tuned.model, below=below, chunk=_CHUNK)
    if below and cfg.features.folder:
        keep = lambda tokens, what: tokens.replace(
            states_BLD=lower_states(
                tuned.model, tuned.tree["backbone"], tokens, below, cfg.features, what
            )[:]
        )
        sides = lambda rows, part: rows.replace(
            chosen=keep(rows.chosen, f"{part}, chosen"),
            rejected=keep(rows.rejected, f"{part}, rejected"),
        )
        rows, test_rows = sides(rows, "training pairs"), sides(test_rows, "test pairs")
    return Case(lm, tree, tuned.tree, "delta", rows, thumbs, test_rows, tested, 0)


def spread(pairs: list[Pair], count: int) -> list[Pair]:
    """At most `count` of them, evenly from all places; all where it is 0."""
    count = min(count, len(pairs)) or len(pairs)
    return [pairs[i * len(pairs) // count] for i in range(count)]


def told(pairs: list[Pair], system: str) -> list[Pair]:
    """Each with `system` said before it, as a system turn; as they are where it is empty."""
    if not system:
        return pairs
    return [dataclasses.replace(pair, prompt=(("system", system), *pair.prompt)) for pair in pairs]


def tenants_case(cfg: PreferEvalConfig, devices: jax.sharding.Mesh) -> Case:
    """A personal model; of each tenant the last pairs are tested."""
    model = load_personal(cfg.personal, devices)
    tenants, skipped = read_tenants(cfg.tenants)
    tuning.say("tenants, left out", skipped)
    judged = [tenant for tenant in tenants if tenant.preferences]
    pairs, names = pairs_of(judged), tuple(tenant.key for tenant in judged)
    train, test = hold_out_last(pairs, cfg.held_last)
    if cfg.validate:
        train, test = hold_out_last(train, cfg.held_last)
    p_UE = starting_p(model, judged, cfg.profile)
    tree = {name: part for name, part in model.params.items() if name not in ("encoder", "profile")}
    tree |= {"profile": {"p": mesh.place(devices, jnp.asarray(p_UE))}}
    rows, kept, _ = tenant_pair_rows(model.chat, train, names, cfg.question, cfg.answer)
    test_rows, tested, _ = tenant_pair_rows(model.chat, test, names, cfg.question, cfg.answer)
    thumbs = lambda: tenant_thumb_rows(
        model.chat, both_thumbs(kept), names, cfg.question, cfg.answer, cfg.seed
    )[0]
    return Case(
        TenantLM(model.lm), tree, tree, "profile/p", rows, thumbs, test_rows, tested, len(names)
    )


# ---------------------------------------------------------------------------------------------- one contender


def trained(
    cfg: PreferEvalConfig, case: Case, contender: Contender, rows: Any, devices: jax.sharding.Mesh
) -> dict[str, Any]:
    """The tree after `cfg.steps` steps."""
    rule = contender.train or case.rule
    mine, frozen = partition.split(case.tree, rule)
    side = "answer" if contender.loss.kind == "kto" else "chosen"
    by_row = {"profile/p": RowAdam(ids=lambda batch: getattr(batch, side).tenant_B)}
    tables = by_row if rule == "profile/p" else None
    opt = OptConfig(
        lr=contender.lr, warmup=cfg.warmup, schedule="linear", clip=0.0 if tables else 1.0
    )
    optim = optimizer.make(opt, cfg.steps)
    source = ArraySource(rows, cfg.rows, seed=cfg.seed)
    state, place = step.init_state(devices, mine, optim, tables=tables), source.init()
    take = gradients.spanning() if contender.loss.kind == "kto" else gradients.summed()
    objective = prefer(case.lm, contender.loss, "batch")
    one = step.make_step(*objective, optim, state, gradients=take, tables=tables)
    for i in range(cfg.steps):
        batch, place = source(i, None, place)
        batch = mesh.place_batch(devices, batch, cfg.rows)
        state, metrics = one(state, frozen, batch, jax.random.key(cfg.seed))
        if (i + 1) % max(cfg.steps // 4, 1) == 0:
            told = metrics.fetch()
            print(
                f"{contender.name} {i + 1}: loss {told['loss']:.4f}, margin {told['margin']:.4f},"
                f" accuracy {told['accuracy']:.3f}",
                flush=True,
            )
    return partition.merge(state.params, frozen)


def with_other_p(case: Case, name: str, tree: dict[str, Any], seed: int) -> dict[str, dict]:
    """{row: tree}: as it is, and for tenants asked with the mean p and with another tenant's."""
    if not case.tenants:
        return {name: tree}
    p_UE = np.asarray(tree["profile"]["p"])
    order, other = np.random.default_rng(seed).permutation(len(p_UE)), np.empty(len(p_UE), int)
    other[order] = np.roll(order, 1)
    put = lambda p: {**tree, "profile": {"p": jnp.asarray(p)}}
    mean = np.broadcast_to(p_UE.mean(0), p_UE.shape)
    return {name: tree, f"{name}, mean p": put(mean), f"{name}, another's p": put(p_UE[other])}


def untuned(case: Case) -> dict[str, np.ndarray]:
    """What a language model gives the test pairs before it is tuned: that is what the reference has told already."""
    sides = {"chosen": case.test.chosen, "rejected": case.test.rejected}
    known = {f"{name}_tokens": side.loss_BL[:, 1:].sum(1) for name, side in sides.items()}
    known |= {f"{name}_logp": getattr(case.test, f"{name}_reference_B") for name in sides}
    return known


def gain(
    known: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray], groups: list[str]
) -> dict[str, float]:
    """How many more pairs the reward has right than the untuned likelihood had, with its 95% interval.

    Of the same pairs; drawn are pairs, or groups where there are twenty or more: pairs of one tenant hang together.

    known: of the test pairs, after training. before: untuned. groups: of each pair.
    """
    right = known["chosen_reward"] > known["rejected_reward"]
    was = before["chosen_logp"] > before["rejected_logp"]
    names, at = np.unique(groups, return_inverse=True)
    at = at if len(names) >= 20 else np.arange(len(groups))
    difference_U = np.bincount(at, right.astype(float) - was)
    seen = ratio(difference_U, np.bincount(at).astype(float))
    units = "groups" if len(names) >= 20 else "pairs"
    return {"gain": seen.value, "gain_lo": seen.lo, "gain_hi": seen.hi, "drawn": units}


def measured(name: str, known: Mapping[str, np.ndarray], own: bool = False) -> dict[str, Any]:
    """A row of the table. Rewards of another p than the trained one say nothing of the loss: they are left out."""
    per_token = lambda side: known[f"{side}_logp"] / np.maximum(known[f"{side}_tokens"], 1)
    likelier = {
        "likelier": known["chosen_logp"] - known["rejected_logp"],
        "likelier_per_token": per_token("chosen") - per_token("rejected"),
    }
    row: dict[str, Any] = {"row": name, "n": len(known["chosen_logp"])}
    if own:
        margin = known["chosen_reward"] - known["rejected_reward"]
        row |= with_interval("accuracy", margin > 0) | {"margin": float(margin.mean())}
    for what, gap in likelier.items():
        row |= with_interval(what, gap > 0)
    return row


def with_interval(name: str, hits: Bool[np.ndarray, " B"]) -> dict[str, float]:
    """A part with its 95% interval (Wilson 1927)."""
    n, part, z = len(hits), float(np.mean(hits)), 1.96
    middle = (part + z * z / (2 * n)) / (1 + z * z / n)
    wide = z * np.sqrt(part * (1 - part) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return {name: part, f"{name}_lo": float(middle - wide), f"{name}_hi": float(middle + wide)}


def floors(case: Case) -> list[dict[str, Any]]:
    """What can be had without any model: the shorter answer is the better one."""
    said = lambda batch: case.lm.tokens(batch).loss_BL.sum(1)
    shorter = said(case.test.chosen) < said(case.test.rejected)
    return [{"row": "shorter answer", "n": len(shorter), **with_interval("accuracy", shorter)}]


if __name__ == "__main__":
    config.run(main, PreferEvalConfig, __doc__)
