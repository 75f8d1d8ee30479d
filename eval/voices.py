"""Does p carry a business's voice? Unseen businesses answer held-out questions with their own p and with other ones.

    python -m eval.voices --profile runs/personalize/profile --out results/my_voices
    python -m eval.voices configs/personal/voices_sample.py --out results/voices
    python -m eval.voices --profile runs/personalize/profile --own runs/lora/profile --also right retrieved

Rows: own p by encoder and by gradient, mean p, shuffled p (another unseen tenant's), no p (p = 0), by option a LoRA of
the tenant's own and the backbone untuned, the nearest neighbour (copy the closest onboarding answer), and the right
answer itself. Own p (LoRA, untuned) come again for each kind of page `also` puts before the question. Columns: nats a
token of the right answer, style checks met and facts stated by a greedily written answer, its word F1 with the right
one. Generated tenants, whose style combinations were never seen in training, and hand-written ones are told apart (of
the latter, facts are values of the right answer that stand on its pages, `world.values`); of tenants of one's own
("own") no style is known, so none is checked.
"""

import dataclasses
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxrec import checkpoint, config, mesh, results
from jaxrec.config import RunError
from jaxrec.data import turns
from jaxrec.data.feature_store import FeatureConfig
from jaxrec.data.tenants import Dialogue, Tenant, choose_tenants, read_tenants
from jaxrec.delta import take, zeros
from jaxrec.dialogue.pages import PagesConfig, Which, with_pages
from jaxrec.eval.turn_cost import turn_cost
from jaxrec.mesh import MeshConfig
from jaxrec.models.personal.answering import Answering
from jaxrec.models.personal.frozen_states import question_states
from jaxrec.models.personal.personal_folder import Personal, load_personal
from jaxrec.models.personal.profile_folder import load_profile, profile_facts, sources_of
from jaxrec.structs import Delta
from jaxrec.world.businesses import KEYS
from jaxrec.world.floors import nearest, token_f1
from jaxrec.world.grammar import fact_met
from jaxrec.world.records import WorldTenant
from jaxrec.world.style import check, fraction_met
from jaxrec.world.values import values_of

P_ROWS = ("own_p_gradient", "own_p_encoder", "mean_p", "shuffled_p", "no_p")


@dataclasses.dataclass(frozen=True)
class VoicesConfig:
    """A comparison of vectors p on one onboarded model."""

    profile: str = ""  # of jaxrec.train.personalize
    tenants: tuple[
        str, ...
    ] = ()  # where its tenants are; where they were onboarded from when empty
    own: str = ""  # of jaxrec.train.personalize --by lora, by the same model: tenants with Deltas of their own
    pages: PagesConfig = PagesConfig()  # before every question
    also: tuple[Which, ...] = ()  # other pages, with which own p (LoRA, untuned) answer again
    untuned: bool = False  # the backbone as it is too, where it is the one who answers
    who: tuple[str, ...] = ()  # the rows to measure, in this order; all of them when empty
    dialogues: int = 8  # held-out ones of each tenant
    question: int = 40  # tokens, with the page before it
    answer: int = 96
    repetition: float = 1.0  # penalty on what an answer has said already; 1: none
    rows: int = 32
    quantise: str = ""  # "nf4", "int8" or "bf16" kernels of the backbone
    features: FeatureConfig = FeatureConfig()  # where the frozen backbone's states are kept
    seed: int = 0
    mesh: MeshConfig = MeshConfig()
    out: str = "results/voices"


@dataclasses.dataclass(frozen=True)
class Asked:
    """A held-out question of one tenant (its row in the profile table)."""

    u: int
    tenant: Tenant
    dialogue: Dialogue


def main(cfg: VoicesConfig) -> dict:
    """Prints the table, writes OUT/results.json with a few answers side by side, and returns that record's content.

    Raises RunError for a profile without p.
    """
    began = time.time()
    facts = profile_facts(cfg.profile)
    profile = checkpoint.load_params(cfg.profile)
    if "p" not in profile:
        raise RunError(
            f"{cfg.profile} holds Deltas of the tenants' own, and no p: onboard them without own_delta"
        )
    tenants = choose_tenants(
        read_tenants(sources_of(facts, cfg.tenants, cfg.profile))[0], facts["tenants"]
    )
    if not any(tenant.heldout for tenant in tenants):
        raise RunError(
            "no tenant has held-out dialogues (heldout.jsonl) to be asked: there is nothing to measure on"
        )
    model = load_personal(facts["model"], mesh.make(cfg.mesh), cfg.quantise)
    asked = [Asked(u, t, d) for u, t in enumerate(tenants) for d in t.heldout[: cfg.dialogues]]

    answering = Answering(
        model.lm, model.chat, rows=cfg.rows, limit=cfg.answer, repetition=cfg.repetition
    )
    rows, said = [], {}
    for name, (who, which) in contenders(cfg, profile, model).items():
        pages = dataclasses.replace(cfg.pages, which=which)
        grounded = with_pages(model.chat, tenants, pages, cfg.question, cfg.seed)
        own = [tenant.heldout[: cfg.dialogues] for tenant in grounded]
        scored = turns.turn_rows(model.chat, own, cfg.question, cfg.answer)
        mine = jnp.asarray(scored.tenant_N)
        who_N = take(who, mine) if isinstance(who, Delta) else who[scored.tenant_N]
        states = question_states(
            model.lm,
            model.params,
            scored,
            cfg.features,
            f"held-out dialogues, page: {which}",
            [t.key for t in tenants],
        )
        logprob_N = answering.logprob(model.params, who_N, scored.question, scored.answer, states)
        nll_N = -logprob_N / scored.answer["loss_BL"][:, 1:].sum(1)
        before = lambda d: [(turn.role, turn.text) for turn in d.turns[:-1]]
        questions = [
            turns.question_of(model.chat, before(d), cfg.question) for ds in own for d in ds
        ]
        said[name] = answering.write(model.params, who_N, questions, cfg.question)
        rows += (own_rows := judged(name, asked, said[name], nll_N))
        # On a real model a row takes minutes, and whoever stops the run has seen what there is.
        print(
            "; ".join(f"{key} {value}" for row in own_rows for key, value in row.items()),
            flush=True,
        )
    known = [[(d.question, d.answer) for d in t.onboarding[: facts["examples"]]] for t in tenants]
    said["nearest"] = [nearest([a.dialogue.question], known[a.u])[0] for a in asked]
    said["right_answer"] = [a.dialogue.answer for a in asked]
    for name in ("nearest", "right_answer"):
        rows += judged(name, asked, said[name], None)

    results.print_table(rows)
    cost = turn_cost(model.lm, model.params)
    results.print_table(cost)
    record = {
        "samples": samples(asked, said),
        "checks": checks_by_tenant(asked, said),
        "cost": cost,
        "backbone": Path(model.facts["backbone"]).name,
    }
    results.write_results(
        cfg.out, "voices", rows, config=cfg, seed=cfg.seed, wall_s=time.time() - began, **record
    )
    return {"rows": rows, **record}


def contenders(
    cfg: VoicesConfig, profile: dict, model: Personal
) -> dict[str, tuple[np.ndarray | Delta, Which]]:
    """Who answers, a p [U, E] or a bank of Deltas of all tenants, and after which page; by the name of a row."""
    which = cfg.pages.which
    found: dict[str, tuple[np.ndarray | Delta, Which]] = {
        name: (p_UE, which) for name, p_UE in vectors(profile, model, cfg.seed).items()
    }
    own = {"own_p": found["own_p_gradient"][0]}
    if cfg.own:
        deltas = load_profile(cfg.own, model.lm)
        wanted = tuple(profile_facts(cfg.profile)["tenants"])
        if deltas.delta is None or deltas.own != wanted:
            raise RunError(
                f"{cfg.own} has no Delta of each tenant of {cfg.profile}: onboard the same tenants with --by lora"
            )
        own["own_lora"] = deltas.delta
        found["own_lora"] = (deltas.delta, which)
    if cfg.untuned:
        if not model.lm.inside:
            raise RunError(
                "untuned: the backbone of this model does not answer itself, so it has no such row"
            )
        nothing = zeros(model.lm.sites, model.lm.spec, len(profile["p"]))
        own["untuned"] = nothing
        found["untuned"] = (nothing, which)
    for page in cfg.also:
        found |= {f"{name}_{page}_page": (who, page) for name, who in own.items()}
    if unknown := set(cfg.who) - set(found):
        raise RunError(f"who={sorted(unknown)[0]}: there is no such row, but {', '.join(found)}")
    return {name: found[name] for name in cfg.who or found}


def vectors(profile: dict, model, seed: int) -> dict[str, np.ndarray]:
    """p [U, E] of every tenant, under each name of `P_ROWS`. The mean is that of the *training* tenants."""
    own = np.asarray(profile["p"])
    mean = np.asarray(model.params["profile"]["p"]).mean(0, keepdims=True)
    # a derangement: everybody gets somebody else's
    shift = 1 + np.random.default_rng(seed).integers(len(own) - 1) if len(own) > 1 else 0
    every = (own, np.asarray(profile["p_encoder"]), np.repeat(mean, len(own), 0))
    return dict(zip(P_ROWS, (*every, np.roll(own, shift, 0), np.zeros_like(own)), strict=True))


def judged(
    name: str, asked: list[Asked], answers: list[str], nll_N: np.ndarray | None
) -> list[dict]:
    """A row for each kind of tenants that there is: generated, written by hand, one's own."""
    rows = []
    for group in ("generated", "hand-written", "own"):
        mine = [i for i, a in enumerate(asked) if kind_of(a.tenant) == group]
        if not mine:
            continue
        wanted = {i: values_of(asked[i].tenant, asked[i].dialogue) for i in mine}
        stated = [fact_met(answers[i], facts) for i, facts in wanted.items() if facts]
        rows.append(
            {
                "row": name,
                "tenants": group,
                "nll": None if nll_N is None else round(float(nll_N[mine].mean()), 4),
                "style": None
                if group == "own"
                else round(
                    float(np.mean([fraction_met(answers[i], asked[i].tenant.style) for i in mine])),
                    4,
                ),
                "facts": round(float(np.mean(stated)), 4) if stated else None,
                "f1": round(
                    float(np.mean([token_f1(answers[i], asked[i].dialogue.answer) for i in mine])),
                    4,
                ),
                "n": len(mine),
            }
        )
    return rows


def kind_of(tenant: Tenant) -> str:
    """ "generated" or "hand-written", of the sample world, or "own"."""
    if not isinstance(tenant, WorldTenant):
        return "own"
    return "hand-written" if tenant.key in KEYS else "generated"


def checks_by_tenant(asked: list[Asked], said: dict[str, list[str]]) -> list[dict]:
    """Which share of its answers met each style check: tenant by tenant, with its own p and with the shuffled one."""
    rows = []
    for u, tenant in {a.u: a.tenant for a in asked}.items():
        if not isinstance(tenant, WorldTenant):
            continue
        for name in [name for name in ("own_p_gradient", "shuffled_p") if name in said]:
            own = [
                check(text, tenant.style)
                for a, text in zip(asked, said[name], strict=True)
                if a.u == u
            ]
            means = {k: round(float(np.mean([c[k] for c in own])), 3) for k in own[0]}
            rows.append({"tenant": tenant.key, "name": tenant.name, "row": name, **means})
    return rows


def samples(asked: list[Asked], said: dict[str, list[str]], per_tenant: int = 2) -> list[dict]:
    """Answers side by side: of one's own tenants, the hand-written ones, and of four generated ones."""
    kinds = {a.tenant.key: kind_of(a.tenant) for a in asked}
    keys = [k for k, kind in kinds.items() if kind != "generated"]
    keys += [k for k, kind in kinds.items() if kind == "generated"][:4]
    rows = []
    for key in keys:
        mine = [i for i, a in enumerate(asked) if a.tenant.key == key][:per_tenant]
        rows += [
            {
                "tenant": asked[i].tenant.name,
                "question": asked[i].dialogue.question,
                **{name: answers[i] for name, answers in said.items()},
            }
            for i in mine
        ]
    return rows


if __name__ == "__main__":
    config.run(main, VoicesConfig, __doc__)
