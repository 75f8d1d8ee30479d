"""Onboard tenants: fit each one's p (or a Delta of its own) to its examples, everything else frozen.

    python -m train.personalize configs/personal/personalize_sample.py
    python -m train.personalize configs/personal/personalize_sample.py --examples 5 --tenants kestrel_travel
    python -m train.personalize configs/personal/personalize_sample.py --own-delta.lora-rank 4    # no p: a LoRA each

All tenants are fitted at once, each by its own examples alone. p starts from what the profile encoder infers. Writes
OUT/profile: p_encoder and p [U, E] (or the bank of deltas), facts.json naming the tenants.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import checkpoint, config, mesh, objectives
from jaxrec import delta as deltas
from jaxrec.config import RunError
from jaxrec.data import turns
from jaxrec.data.chat import ChatFormat
from jaxrec.data.source import ArraySource, Prefetch
from jaxrec.delta import DeltaConfig
from jaxrec.mesh import HostsConfig, MeshConfig
from jaxrec.models.personal.heads import GenerativeHead
from jaxrec.models.personal.onboarding import infer_p, read_pieces
from jaxrec.models.personal.personal_folder import load_personal
from jaxrec.objectives.restraint import Restraint
from jaxrec.structs import Tokens, Turns
from jaxrec.tables import RowAdam
from jaxrec.training import tuning
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig
from jaxrec.world.businesses import read_businesses
from jaxrec.world.records import WorldTenant
from jaxrec.world.style import CUSTOMER, ORDER
from jaxrec.world.tenants import generate


@dataclasses.dataclass(frozen=True)
class PersonalizeConfig:
    """Onboarding of some tenants to a finished universal model."""

    model: str = "runs/sample/universal/model"
    tenants: tuple[str, ...] = ()  # keys; all that are held out of training when empty
    examples: int = 30  # of each tenant's onboarding dialogues
    own_delta: DeltaConfig = DeltaConfig()  # of the head, instead of p
    prior: float = 1e-3  # pull towards the p that the encoder inferred
    restraint: Restraint = Restraint()  # penalty: on the terms that a tenant's style rules out
    question: int = 40
    answer: int = 96
    piece: int = 40
    rows: int = 64
    # no clipping: by the norm over all rows one tenant's gradient would slow the others
    opt: OptConfig = OptConfig(lr=3e-2, schedule="linear", clip=0.0)
    loop: LoopConfig = LoopConfig(steps=100)
    mesh: MeshConfig = MeshConfig()
    hosts: HostsConfig = HostsConfig()
    out: str = "runs/personalize"


def main(cfg: PersonalizeConfig) -> dict[str, float]:
    """Fits and saves OUT/profile; gives the loss on the examples at the end."""
    mesh.start(cfg.hosts)
    devices = mesh.make(cfg.mesh)
    model = load_personal(cfg.model, devices)
    chosen = choose(cfg.tenants, cfg.examples)
    pieces = turns.evidence_pieces(model.chat, chosen, cfg.piece, examples=cfg.examples)
    known = read_pieces(model.lm, model.params, pieces)
    start_UE = infer_p(model.encoder, model.params["encoder"], known, cfg.examples)

    parts = ("backbone", "lfe", "lfe_delta", "head", "hypernet")
    frozen = {name: model.params[name] for name in parts if name in model.params}
    if cfg.own_delta.empty:
        params = {"profile": {"p": jnp.asarray(start_UE)}}
        frozen["start"] = mesh.place(devices, jnp.asarray(start_UE))
        by_row = {"profile/p": RowAdam(ids=lambda batch: batch.tenant_B)}
        if cfg.restraint.penalty:
            frozen["disallowed"] = mesh.place(
                devices, ruled_out(model.chat, model.lm.cfg.head.vocab, chosen)
            )
        objective = objectives.personalize(model.lm, cfg.prior, cfg.restraint)
    else:
        sites = GenerativeHead.sites(model.lm.cfg.head)
        key = jax.random.key(cfg.loop.seed)
        params, by_row = {"delta": deltas.init(key, sites, cfg.own_delta, len(chosen))}, None
        objective = objectives.personalize_delta(model.lm)

    source = example_source(cfg, model.chat, chosen, mesh.process_rows(devices, cfg.rows))
    fitted = tuning.tune(
        objective, params, source, opt=cfg.opt, config=cfg.loop, mesh=devices, rows=cfg.rows,
        out=cfg.out, frozen=frozen, tables=by_row, resolved=cfg, title="personalize",
    )  # fmt: skip
    own = fitted.state.params
    saved = (
        {"p": own["profile"]["p"], "p_encoder": start_UE}
        if by_row
        else jax.tree.map(jnp.asarray, own)
    )
    facts = {"tenants": [t.key for t in chosen], "model": cfg.model, "examples": cfg.examples}
    checkpoint.save_params(Path(cfg.out) / "profile", saved, facts)
    return {"step": float(fitted.state.step)}


def choose(keys: tuple[str, ...], examples: int) -> list[WorldTenant]:
    """The tenants of these keys, or all held-out ones. Raises RunError for an unknown key or too few examples."""
    known = {t.key: t for t in [*generate(), *read_businesses()]}
    unknown = [key for key in keys if key not in known]
    if unknown:
        raise RunError(
            f"there is no tenant {unknown[0]!r}; there are, among others: {', '.join(list(known)[-8:])}"
        )
    chosen = [known[key] for key in keys] if keys else [t for t in known.values() if t.held_out]
    for tenant in chosen:
        if not 0 < examples <= len(tenant.onboarding):
            raise RunError(
                f"tenant {tenant.key} has {len(tenant.onboarding)} examples, {examples} are asked for"
            )
    return chosen


def ruled_out(chat: ChatFormat, vocab: int, chosen: list[WorldTenant]) -> np.ndarray:
    """[U, V] bool: tokens that are, as whole words, a term which the tenant's style replaces by another.

    Raises RunError where the tokenizer has none of them as one token: a part of a word may not be ruled out.
    """
    barred = np.zeros((len(chosen), vocab), bool)
    for u, tenant in enumerate(chosen):
        own = {tenant.style.customer, tenant.style.order}
        for word in {*CUSTOMER, *ORDER} - own:
            for form in (f" {word}", f" {word}s"):
                if len(ids := chat.encode(form)) == 1:
                    barred[u, ids[0]] = True
    if not barred.any():
        raise RunError("restraint.penalty: no ruled-out term is one token of this tokenizer")
    return barred


def example_source(
    cfg: PersonalizeConfig, chat: ChatFormat, chosen: list[WorldTenant], share: slice
) -> Prefetch:
    """Batches of `Turns` over the tenants' examples."""
    own = [t.onboarding[: cfg.examples] for t in chosen]
    rows = turns.turn_rows(chat, own, cfg.question, cfg.answer)
    batch = Turns(Tokens(**rows.question), Tokens(**rows.answer), np.asarray(rows.tenant_N))
    return Prefetch(ArraySource(batch, cfg.rows, seed=cfg.loop.seed, share=share))


if __name__ == "__main__":
    config.run(main, PersonalizeConfig, __doc__)
