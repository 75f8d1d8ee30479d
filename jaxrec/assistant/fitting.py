"""Onboarding: what is known of tenants -> how a finished personal model speaks for each of them.

    encoder    p as the profile encoder infers it from guide, answers and thumbs: one pass, no training
    gradient   p from there on by gradient: on the tenant's own answers; where there are none, on its thumbs (KTO)
    lora       a Delta of the head for each tenant, by its answers, instead of p; `from_p` begins it as A(p)

All tenants are fitted at once, each by its own examples alone; everything else of the model is frozen.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxrec import delta as deltas
from jaxrec import mesh, objectives
from jaxrec.config import RunError
from jaxrec.data import turns
from jaxrec.data.chat import ChatFormat
from jaxrec.data.feature_store import FeatureConfig
from jaxrec.data.source import ArraySource, Prefetch
from jaxrec.data.tenant import Tenant
from jaxrec.data.tenant_pairs import both_thumbs, pairs_of, tenant_thumb_rows, thumbs_of
from jaxrec.delta import DeltaConfig
from jaxrec.dialogue.pages import PagesConfig, with_pages
from jaxrec.losses.preference import PreferenceLoss
from jaxrec.models.language.tuned_lm import TenantLM
from jaxrec.models.personal.frozen_states import question_states
from jaxrec.models.personal.inside import spec_inside
from jaxrec.models.personal.onboarding import infer_p, read_pieces
from jaxrec.models.personal.personal_folder import Personal
from jaxrec.models.personal.profile_folder import Profile
from jaxrec.objectives.objective import Objective
from jaxrec.objectives.prefer import prefer
from jaxrec.objectives.restraint import Restraint
from jaxrec.structs import Tokens, Turns
from jaxrec.tables import RowAdam
from jaxrec.training import gradients, tuning
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

By = Literal["encoder", "gradient", "lora"]
LORA = DeltaConfig(lora_rank=4)  # a tenant's own, where no other layout is asked for
FROZEN = ("backbone", "lfe", "lfe_delta", "head", "hypernet")


@dataclasses.dataclass(frozen=True)
class OnboardConfig:
    """How tenants are onboarded to a finished universal model."""

    by: By = "gradient"
    examples: int = 30  # of each tenant's dialogues at most; 0: its guide alone
    guide: int = 8  # sentences of its guide at most
    judged: int = 8  # (dis)liked answers at most, as evidence for the encoder
    own_delta: DeltaConfig = DeltaConfig()  # of the head, instead of p; goes before `by`
    from_p: bool = False  # such a Delta has A(p)'s layout and begins as A(p) of the inferred p
    prior: float = 1e-3  # pull towards the p that the encoder inferred
    restraint: Restraint = Restraint()  # penalty: on the words that a tenant never says
    pages: PagesConfig = PagesConfig()  # before a question
    question: int = 40  # tokens, with the page before it
    answer: int = 96
    piece: int = 40  # tokens of one piece of evidence
    rows: int = 64  # a batch
    # no clipping: by the norm over all rows one tenant's gradient would slow the others
    opt: OptConfig = OptConfig(lr=3e-2, schedule="linear", clip=0.0)
    loop: LoopConfig = LoopConfig(steps=100)
    features: FeatureConfig = FeatureConfig()  # where the frozen backbone's states are kept

    @property
    def own(self) -> DeltaConfig:
        """The layout of a Delta of the tenants' own; empty where they get a p."""
        return LORA if self.own_delta.empty and self.by == "lora" else self.own_delta


def onboard(
    model: Personal,
    tenants: Sequence[Tenant],
    cfg: OnboardConfig,
    *,
    devices: jax.sharding.Mesh,
    out: str | Path,
    name: str = "",
) -> Profile:
    """The tenants' profile.

    Args:
      model: a loaded personal model.
      tenants: any number of them; what they need to have depends on `cfg.by` (see `check`).
      cfg: how; written as a whole beside the run's log.
      devices: the mesh that the model's parameters lie on.
      out: folder of the run's checkpoints, from which a stopped run goes on. The encoder writes nothing there.
      name: how the profile names its model: the folder that it was loaded from.

    Raises RunError for a tenant that has nothing to be fitted to, and what `loop.fit` raises.
    """
    check(tenants, cfg)
    # Kept as they came: with pages in them, conversations say what a page is asked in words that are not a customer's.
    told = tuple(tenants) if model.pages else ()
    tenants = with_pages(model.chat, tenants, cfg.pages, cfg.question, cfg.loop.seed)
    inferred_UE = infer(model, tenants, cfg)
    keys = tuple(tenant.key for tenant in tenants)
    about = {"examples": cfg.examples}
    whole = Profile(keys, name, inferred_UE, inferred_UE, facts=about, told=told)
    if not cfg.own.empty:
        layout = model.lm.spec if cfg.from_p else own_layout(model, cfg.own)
        cfg = dataclasses.replace(cfg, own_delta=layout)
        bank = fit_deltas(model, tenants, inferred_UE, cfg, devices, out)
        return dataclasses.replace(whole, p_UE=None, own=keys, delta=bank, spec=cfg.own)
    if cfg.by == "encoder":
        return whole
    p_UE = np.array(inferred_UE)
    spoken = [u for u, tenant in enumerate(tenants) if tenant.onboarding and cfg.examples]
    judged = [u for u in range(len(tenants)) if u not in spoken]
    for rows, fit, where in (
        (spoken, fit_answers, Path(out)),
        (judged, fit_thumbs, Path(out) / "thumbs"),
    ):
        if rows:
            some = [tenants[u] for u in rows]
            p_UE[rows] = fit(model, some, inferred_UE[rows], cfg, devices, where)
    return dataclasses.replace(whole, p_UE=p_UE)


def own_layout(model: Personal, own: DeltaConfig) -> DeltaConfig:
    """A layout for Deltas of the tenants' own; inside a backbone those that p changes, if it names no stacks."""
    if not model.lm.inside or own.stacks != DeltaConfig.stacks:
        return own
    # Those below are then the same for all, and their states may be kept.
    return spec_inside(own, model.lm.cfg.depths, model.lm.backbone.cfg)


def check(tenants: Sequence[Tenant], cfg: OnboardConfig) -> None:
    """Raises RunError for tenants that `cfg.by` cannot onboard, in words that say what they lack."""
    if cfg.examples < 0:
        raise RunError(f"examples={cfg.examples}: a number from 0 (the guide alone) is meant")
    if not tenants:
        raise RunError("there is no tenant to onboard")
    if cfg.from_p and (cfg.own.empty or not cfg.own_delta.empty):
        raise RunError(
            "from_p begins a tenant's own Delta as A(p), in its layout: it goes with --by lora, and without own_delta"
        )
    silent = [t.key for t in tenants if not (t.onboarding and cfg.examples)]
    if not cfg.own.empty:
        if silent:
            raise RunError(
                f"{_some(silent)} no dialogue to learn from, and a LoRA of its own needs some: onboard it by its p"
                " (--by encoder, --by gradient)"
            )
        return
    thumbs = cfg.examples and cfg.judged  # without examples the guide alone is read
    unjudged = [t.key for t in tenants if t.key in silent and not (t.feedback and thumbs)]
    if cfg.by == "gradient" and unjudged:
        raise RunError(
            f"{_some(unjudged)} neither dialogues nor thumbs, and a gradient needs answers to learn from: onboard it"
            " from its guide alone with --by encoder"
        )
    mute = [t.key for t in tenants if t.key in unjudged and not turns.sentences(t.guide)]
    if mute:
        raise RunError(
            f"{_some(mute)} neither guide, dialogues nor thumbs: there is nothing to infer a p from"
        )


def infer(model: Personal, tenants: Sequence[Tenant], cfg: OnboardConfig) -> np.ndarray:
    """p [U, E] by the profile encoder. Where there is more than it reads, a line says so."""
    have = {
        "guide": [len(turns.sentences(tenant.guide)) for tenant in tenants],
        "judged": [len(tenant.feedback) for tenant in tenants],
    }
    for what, counts in have.items():
        if over := sum(count > getattr(cfg, what) for count in counts):
            print(
                f"{over} of {len(tenants)} tenants have more than {getattr(cfg, what)} {NAMED[what]}, the first are"
                f" read: --{what} {max(counts)} reads all",
                flush=True,
            )
    pieces = turns.evidence_pieces(
        model.chat, tenants, cfg.piece, examples=cfg.examples, guide=cfg.guide, judged=cfg.judged
    )
    known = read_pieces(
        model.lm, model.params, pieces, features=cfg.features, whose=[t.key for t in tenants]
    )
    return infer_p(model.encoder, model.params["encoder"], known, cfg.examples)


NAMED = {"guide": "sentences of its guide", "judged": "judged answers"}


def fit_answers(
    model: Personal,
    tenants: Sequence[Tenant],
    start_UE: np.ndarray,
    cfg: OnboardConfig,
    devices: jax.sharding.Mesh,
    out: str | Path,
) -> np.ndarray:
    """p [U, E] fitted to each tenant's first `cfg.examples` answers, from `start_UE` on.

    Args:
      model: a loaded personal model.
      tenants: who is fitted, each with some dialogues.
      start_UE: where each p begins, the encoder's.
      cfg: how.
      devices: the mesh that the model's parameters lie on.
      out: folder of the run.
    """
    frozen = _frozen(model, start_UE, devices)
    if cfg.restraint.penalty:
        barred = ruled_out(model.chat, model.lm.cfg.head.vocab, tenants)
        frozen["disallowed"] = mesh.place(devices, barred)
    objective = objectives.personalize(model.lm, cfg.prior, cfg.restraint)
    by_row = {"profile/p": RowAdam(ids=lambda batch: batch.tenant_B)}
    batch = example_rows(cfg, model, tenants)
    params = {"profile": {"p": jnp.asarray(start_UE)}}
    own = _fit(objective, params, frozen, batch, cfg, devices, out, by_row=by_row)
    return np.asarray(own["profile"]["p"])


def fit_thumbs(
    model: Personal,
    tenants: Sequence[Tenant],
    start_UE: np.ndarray,
    cfg: OnboardConfig,
    devices: jax.sharding.Mesh,
    out: str | Path,
) -> np.ndarray:
    """p [U, E] fitted to each tenant's judged answers, from `start_UE` on: KTO, for there are no pairs.

    Args:
      model: a loaded personal model.
      tenants: who is fitted, each with some judged answers.
      start_UE: where each p begins, the encoder's.
      cfg: how.
      devices: the mesh that the model's parameters lie on.
      out: folder of the run.
    """
    thumbs = [*both_thumbs(pairs_of(tenants)), *thumbs_of(tenants)]
    names = [tenant.key for tenant in tenants]
    batch, _, skipped = tenant_thumb_rows(
        model.chat, thumbs, names, cfg.question, cfg.answer, cfg.loop.seed
    )
    for line in skipped.lines():
        print(line, flush=True)
    frozen = _frozen(model, start_UE, devices)
    objective = prefer(TenantLM(model.lm), PreferenceLoss("kto"), "switched")
    by_row = {"profile/p": RowAdam(ids=lambda batch: batch.answer.tenant_B)}
    params = {"profile": {"p": jnp.asarray(start_UE)}}
    own = _fit(objective, params, frozen, batch, cfg, devices, out, by_row=by_row, spans=True)
    return np.asarray(own["profile"]["p"])


def fit_deltas(
    model: Personal,
    tenants: Sequence[Tenant],
    inferred_UE: np.ndarray,
    cfg: OnboardConfig,
    devices: jax.sharding.Mesh,
    out: str | Path,
) -> PyTree:
    """A bank of Deltas of the head, a row a tenant, each fitted to that tenant's first `cfg.examples` answers.

    Args:
      model: a loaded personal model.
      tenants: who is fitted, each with some dialogues.
      inferred_UE: the encoder's p, where the Deltas begin if `cfg.from_p` says so.
      cfg: how.
      devices: the mesh that the model's parameters lie on.
      out: folder of the run.
    """
    if cfg.from_p:
        make = jax.jit(lambda params, p_UE: deltas.materialise(model.lm.personal(params, p_UE)))
        bank = make(model.params, inferred_UE)
    else:
        key = jax.random.key(cfg.loop.seed)
        bank = deltas.init(key, model.lm.sites, cfg.own, len(tenants))
    frozen = {name: model.params[name] for name in FROZEN if name in model.params}
    batch = example_rows(cfg, model, tenants)
    objective = objectives.personalize_delta(model.lm)
    return _fit(objective, {"delta": bank}, frozen, batch, cfg, devices, out)["delta"]


def example_rows(cfg: OnboardConfig, model: Personal, tenants: Sequence[Tenant]) -> Turns:
    """The tenants' examples as rows, with the frozen backbone's states where they are kept."""
    own = [tenant.onboarding[: cfg.examples] for tenant in tenants]
    rows = turns.turn_rows(model.chat, own, cfg.question, cfg.answer)
    states = question_states(
        model.lm,
        model.params,
        rows,
        cfg.features,
        "the tenants' examples",
        [t.key for t in tenants],
    )
    question, answer = Tokens(**rows.question), Tokens(**rows.answer)
    return Turns(question, answer, np.asarray(rows.tenant_N), states_BLD=states)


def ruled_out(chat: ChatFormat, vocab: int, tenants: Sequence[Tenant]) -> np.ndarray:
    """[U, vocab] bool: tokens that are, as whole words, one that the tenant never says.

    Raises RunError where the tokenizer has none of them as one token: a part of a word may not be ruled out.
    """
    barred = np.zeros((len(tenants), vocab), bool)
    for u, tenant in enumerate(tenants):
        for word in tenant.never:
            if len(ids := chat.encode(f" {word}")) == 1:
                barred[u, ids[0]] = True
    if not barred.any():
        raise RunError(
            "restraint.penalty: no word of any tenant's `never` is one token of this tokenizer"
        )
    return barred


# ------------------------------------------------------------------------------------------ inside


def _frozen(model: Personal, start_UE: np.ndarray, devices: jax.sharding.Mesh) -> dict[str, Any]:
    frozen = {name: model.params[name] for name in FROZEN if name in model.params}
    return frozen | {"start": mesh.place(devices, jnp.asarray(start_UE))}


def _fit(
    objective: Objective,
    params: PyTree,
    frozen: PyTree,
    batch: PyTree,
    cfg: OnboardConfig,
    devices: jax.sharding.Mesh,
    out: str | Path,
    *,
    by_row: dict[str, RowAdam] | None = None,
    spans: bool = False,
) -> PyTree:
    share = mesh.process_rows(devices, cfg.rows)
    source = Prefetch(ArraySource(batch, cfg.rows, seed=cfg.loop.seed, share=share))
    fitted = tuning.tune(
        objective, params, source, opt=cfg.opt, config=cfg.loop, mesh=devices, rows=cfg.rows, out=out,
        frozen=frozen, tables=by_row, gradients=gradients.spanning() if spans else None,
        resolved=cfg, title="personalize",
    )  # fmt: skip
    return jax.device_get(fitted.state.params)


def _some(keys: Sequence[str]) -> str:
    more = (
        f" and {len(keys) - 3} more have" if len(keys) > 3 else " have" if len(keys) > 1 else " has"
    )
    return f"{', '.join(keys[:3])}{more}"
