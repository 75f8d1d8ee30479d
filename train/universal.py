"""Train the head that all tenants share, A(p), and the encoder that infers p: one model of many voices.

    python -m train.universal --lfe runs/retrofit/lfe --tenants my_shops --held other_shops
    python -m train.universal configs/personal/universal_sample.py
    python -m train.universal configs/personal/universal_sample.py --teacher runs/teacher/model --distil 0.5
    python -m train.universal configs/personal/universal_sample.py --head.tied-to-backbone
    python -m train.universal configs/personal/inside_sample.py    # no head: p changes layers of the backbone itself

A row is a question, the answer that one tenant gave, and a random part of what else is known of that tenant. Backbone
and LFE are frozen. Writes OUT/model. In OUT/metrics.jsonl: `held_nll`, nats a token on
training tenants' held-out dialogues; `unseen_nll`, of those in `held`, not in training; `unseen_mean_nll`, theirs with
the mean p of all training tenants in place of their own: what p is worth is the difference. The profile table in
OUT/model holds the p that the encoder infers of each training tenant.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from jaxrec import config, elastic, mesh, objectives, processes, results
from jaxrec.assistant.fitting import ruled_out
from jaxrec.config import RunError
from jaxrec.data import turns
from jaxrec.data.chat import ChatFormat
from jaxrec.data.feature_store import FeatureConfig
from jaxrec.data.instructions import Skipped
from jaxrec.data.tenants import Tenant, read_tenants, with_heldout
from jaxrec.delta import DeltaConfig
from jaxrec.dialogue.pages import PagesConfig, with_pages
from jaxrec.mesh import MeshConfig
from jaxrec.models.personal.answering import Answering
from jaxrec.models.personal.frozen_states import question_states
from jaxrec.models.personal.heads import HeadConfig
from jaxrec.models.personal.onboarding import KnownZ, infer_p, read_pieces, turn_source
from jaxrec.models.personal.personal_folder import (
    cut_for_person,
    load_lfe,
    load_teacher,
    save_personal,
)
from jaxrec.models.personal.personal_lm import PersonalConfig, PersonalLM
from jaxrec.models.personal.profile import ProfileEncoder, ProfileEncoderConfig, centre_of
from jaxrec.objectives.restraint import Restraint
from jaxrec.processes import HostsConfig
from jaxrec.training import gradients, tuning
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig


@dataclasses.dataclass(frozen=True)
class UniversalConfig:
    """A run of the universal stage."""

    lfe: str = ""  # a retrofit's OUT/lfe
    tenants: tuple[str, ...] = ()  # to learn from: see jaxrec.data.tenants
    held: tuple[str, ...] = ()  # others, measured on alone
    hold_out_every: int = 10  # of a tenant without held-out dialogues each so-many-th is held out
    head: HeadConfig = HeadConfig()  # its vocabulary and d_z are taken from backbone and LFE
    p_enters: DeltaConfig = DeltaConfig(embed=True, norm=True, lora_rank=4)  # of the head
    person: Literal["head", "backbone"] = "head"  # whose layers p changes, and who answers
    inside: DeltaConfig = PersonalConfig.inside  # of the backbone, where the person is
    depths: tuple[int, ...] = ()  # of the backbone's layers that p changes; empty: the top quarter
    d_p: int = 64
    hyper_width: int = 64
    hyper_base: Literal["stack", "layer"] = "stack"  # what shares a base of A(p)
    encoder: ProfileEncoderConfig = ProfileEncoderConfig()
    encoder_steps: int = 0  # in which it first learns to tell tenants apart, which runs no model
    encoder_rows: int = 32
    encoder_opt: OptConfig = OptConfig(lr=1e-3, warmup=50)
    teacher: str = ""  # a decoder with the same tokenizer, for distillation
    distil: float = 0.0
    contrast: float = 0.2  # weight of telling tenants apart by p alone
    p_dropout: float = 0.1  # rows that see p = 0: the head for a stranger
    restraint: Restraint = Restraint()  # penalty: on the words that a tenant never says
    reference: Literal["stranger", "teacher", "backbone"] = "stranger"  # of the restraint's KL
    quantise: str = ""  # "nf4", "int8" or "bf16" kernels of the frozen backbone
    dialogues: int = 0  # of each tenant that are learned from, the first ones; 0: all
    often: tuple[
        str, ...
    ] = ()  # keys of tenants all of whose dialogues are learned from, `times` an epoch
    times: int = 1
    pages: PagesConfig = PagesConfig()  # before a question
    question: int = 40  # tokens, with the page before it
    answer: int = 64
    piece: int = 40  # tokens of one piece of evidence
    pieces: int = 6  # of them a row sees at most
    examples: int = 30  # answers of each tenant that are known as evidence
    guide: int = 8  # sentences of its guide
    judged: int = 8  # (dis)liked answers
    checked: int = 48  # training tenants whose held-out dialogues are measured, spread over all
    features: FeatureConfig = FeatureConfig()  # where the frozen backbone's states are kept
    rows: int = 32
    accum: int = 1
    opt: OptConfig = OptConfig(lr=2e-3, warmup=50)
    loop: LoopConfig = LoopConfig(steps=1000, eval_every=250, monitor="held_nll")
    mesh: MeshConfig = MeshConfig()
    hosts: HostsConfig = HostsConfig()
    out: str = "runs/universal"


def main(cfg: UniversalConfig) -> dict[str, float]:
    """Trains and saves OUT/model; gives the last evaluation's numbers."""
    tenants, unseen = read(cfg)
    processes.start(cfg.hosts)
    devices, accum = elastic.arrange(cfg.mesh, cfg.rows, cfg.accum, cfg.out)
    backbone, lfe_cfg, frozen, chat, facts = load_lfe(cfg.lfe, devices, cfg.quantise)
    grounded = lambda ts: with_pages(chat, ts, cfg.pages, cfg.question, cfg.loop.seed)
    unseen = grounded(unseen)
    if cfg.person == "backbone":
        backbone, frozen, facts = cut_for_person(backbone, frozen, facts, cfg.depths)
    told, teacher = {}, None
    if cfg.teacher:
        teacher, told["teacher"] = load_teacher(cfg.teacher, backbone, devices, chat)
    if cfg.restraint.penalty:
        barred = ruled_out(chat, backbone.cfg.vocab, tenants)
        told["disallowed"] = mesh.place(devices, barred)
    vocab, tied = backbone.cfg.vocab, cfg.head.tied_to_backbone
    head = dataclasses.replace(
        cfg.head,
        vocab=vocab,
        d_z=lfe_cfg.d_z,
        d_backbone=backbone.cfg.d_model if tied else 0,
        tokens=chat.size if chat.size < vocab else 0,
    )
    own = (
        cfg.p_enters,
        cfg.d_p,
        cfg.hyper_width,
        cfg.person,
        cfg.inside,
        cfg.depths,
        cfg.hyper_base,
    )
    lm = PersonalLM(backbone, PersonalConfig(lfe_cfg, head, *own))
    encoder = ProfileEncoder(
        dataclasses.replace(cfg.encoder, d_z=lfe_cfg.d_z, d_p=cfg.d_p, kinds=turns.KINDS)
    )
    pieces = evidence(cfg, chat, tenants)
    named = [t.key for t in tenants]
    known = read_pieces(lm, frozen, pieces, features=cfg.features, whose=named)
    rows = learned_rows(cfg, chat, tenants)
    states = question_states(lm, frozen, rows, cfg.features, "questions and answers", named)
    source = turn_source(
        rows, pieces, known, cfg.rows, pieces_a_row=cfg.pieces, seed=cfg.loop.seed,
        share=mesh.process_rows(devices, cfg.rows), states=states,
    )  # fmt: skip

    init = lambda key, weights: objectives.universal_params(key, lm, encoder, weights)
    params = mesh.sharded_init(devices, init, jax.random.key(cfg.loop.seed), frozen["backbone"])
    if cfg.encoder.centred:
        params["encoder"] |= mesh.place(devices, centre_of(known.z_URLD[known.mask_URL]))
    if cfg.encoder_steps:
        params["encoder"] = tell_apart(
            cfg, encoder, params["encoder"], rows, pieces, known, devices
        )
    objective = objectives.universal(
        lm,
        encoder,
        teacher=teacher,
        distil_weight=cfg.distil,
        contrast=cfg.contrast,
        p_dropout=cfg.p_dropout,
        restraint=cfg.restraint,
        reference=cfg.reference,
    )
    answering = Answering(lm, chat, rows=cfg.rows, limit=cfg.answer)
    fitted = tuning.tune(
        objective, params, source, opt=cfg.opt, config=cfg.loop, mesh=devices, rows=cfg.rows,
        out=cfg.out, frozen={**frozen, **told}, gradients=gradients.spanning(accum),
        evaluate=evaluation(cfg, answering, encoder, frozen, grounded(tenants), known, unseen),
        resolved=cfg, title="universal",
    )  # fmt: skip
    own = fitted.state.params
    table = infer_p(encoder, own["encoder"], known, cfg.examples)
    kept = {name: part for name, part in frozen.items() if name != "backbone"}
    whole = {**kept, "profile": {"p": table}, **own}
    if cfg.pages.which != "none":
        facts = {**facts, "pages": config.to_dict(cfg.pages)}
    folder = Path(cfg.out) / "model"
    save_personal(folder, lm, encoder, whole, [t.key for t in tenants], facts)
    results.conclude(
        [folder], ("jaxrec", "train", "personalize", "--model", cfg.out, "--tenants", "TENANTS")
    )
    return {cfg.loop.monitor: fitted.value, "step": float(fitted.state.step)}


def tell_apart(
    cfg: UniversalConfig,
    encoder: ProfileEncoder,
    params: dict,
    rows: turns.TurnRows,
    pieces: turns.Pieces,
    known: KnownZ,
    devices: jax.sharding.Mesh,
) -> dict:
    """The encoder's parameters once it tells tenants apart, which costs no pass through any model. Writes OUT/encoder.

    Args:
      cfg: of the stage.
      encoder, params: the module and where it begins.
      rows, pieces, known: the questions, what is known of their tenants, and its Z.
      devices: the mesh.
    """
    source = turn_source(
        rows, pieces, known, cfg.encoder_rows, pieces_a_row=cfg.pieces, seed=cfg.loop.seed,
        share=mesh.process_rows(devices, cfg.encoder_rows),
    )  # fmt: skip
    loop = dataclasses.replace(
        cfg.loop, steps=cfg.encoder_steps, eval_every=0, monitor="train/contrast", patience=0
    )
    fitted = tuning.tune(
        objectives.profiles(encoder), {"encoder": params}, source, opt=cfg.encoder_opt, config=loop,
        mesh=devices, rows=cfg.encoder_rows, out=Path(cfg.out) / "encoder",
        gradients=gradients.spanning(), resolved=cfg, title="encoder",
    )  # fmt: skip
    return fitted.state.params["encoder"]


def learned_rows(cfg: UniversalConfig, chat: ChatFormat, tenants: list[Tenant]) -> turns.TurnRows:
    """The dialogues that are learned from, pages before them, of tenants in `often` again and again.

    Which page stands before a dialogue, if any, is drawn anew each time that it comes.
    """
    parts = []
    for again in range(cfg.times if cfg.often else 1):
        told = with_pages(chat, tenants, cfg.pages, cfg.question, cfg.loop.seed + again)
        whole = lambda t: t.key in cfg.often
        few = lambda t, n=again: () if n else t.onboarding[: cfg.dialogues or None]
        own = [t.onboarding if whole(t) else few(t) for t in told]
        parts.append(turns.turn_rows(chat, own, cfg.question, cfg.answer))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def evidence(cfg: UniversalConfig, chat: ChatFormat, tenants: list[Tenant]) -> turns.Pieces:
    """What is known of tenants, as token rows."""
    counts = {"examples": cfg.examples, "guide": cfg.guide, "judged": cfg.judged}
    return turns.evidence_pieces(chat, tenants, cfg.piece, **counts)


def read(cfg: UniversalConfig) -> tuple[list[Tenant], list[Tenant]]:
    """(tenants to learn from, others). What cannot be used is printed.

    Raises RunError where nobody has dialogues to learn from, or nobody any to measure `loop.monitor` on.
    """
    if cfg.restraint.kl and cfg.reference == "teacher" and not cfg.teacher:
        raise RunError("universal: a KL to the teacher needs one; name it with --teacher")
    if not cfg.lfe:
        raise RunError("universal: name a retrofit's OUT/lfe with --lfe")
    tenants, skipped = read_tenants(cfg.tenants)
    tuning.say("tenants, left out", skipped)
    held, skipped = read_tenants(cfg.held) if cfg.held else ([], Skipped())
    tuning.say("held, left out", skipped)
    if unknown := set(cfg.often) - {tenant.key for tenant in tenants}:
        raise RunError(
            f"often={sorted(unknown)[0]}: there is no such tenant among those to learn from"
        )
    if both := {tenant.key for tenant in tenants} & {tenant.key for tenant in held}:
        raise RunError(f"{sorted(both)[0]!r} is in tenants and in held: it can be in one only")
    learned = with_heldout([t for t in tenants if can_teach(t)], cfg.hold_out_every)
    if len(learned) < len(tenants):
        few = [t.key for t in tenants if not can_teach(t)]
        print(
            f"not trained on: {', '.join(few[:5])}{', ...' if len(few) > 5 else ''} ({len(few)} of {len(tenants)}"
            " tenants): a dialogue, and two things more that are known of a tenant, are needed",
            flush=True,
        )
    if not learned:
        raise RunError(
            "no tenant has a dialogue to learn from and two things more (a guide, others)"
        )
    measures = {"held_nll": learned, "unseen_nll": held}
    if cfg.loop.monitor in measures and not any(t.heldout for t in measures[cfg.loop.monitor]):
        other = (
            "heldout.jsonl in a tenant's folder"
            if held or cfg.loop.monitor == "held_nll"
            else "--held"
        )
        raise RunError(
            f"there is nothing to measure {cfg.loop.monitor} on: give {other}, hold out more of"
            " the dialogues (--hold-out-every 5), or watch the training loss (--loop.monitor train/nll)"
        )
    return learned, held


def can_teach(tenant: Tenant) -> bool:
    """Whether an answer of the tenant can be predicted from at least two other things that are known of it."""
    known = len(turns.sentences(tenant.guide)) + len(tenant.onboarding) + len(tenant.feedback)
    return bool(tenant.onboarding) and known > 2


def evaluation(
    cfg: UniversalConfig,
    answering: Answering,
    encoder: ProfileEncoder,
    frozen: dict,
    tenants: list[Tenant],
    known: KnownZ,
    unseen: list[Tenant],
):
    """evaluate(params, step) on four held-out dialogues of some seen and of all unseen tenants, if there are any."""
    chat, lm = answering.chat, answering.lm
    there = np.array([u for u, tenant in enumerate(tenants) if tenant.heldout], int)
    seen = there[np.linspace(0, len(there) - 1, min(len(there), cfg.checked)).astype(int)]
    unseen = [tenant for tenant in unseen if tenant.heldout]
    rows_of = lambda ts: turns.turn_rows(
        chat, [t.heldout[:4] for t in ts], cfg.question, cfg.answer
    )
    if len(seen):
        seen_rows = rows_of([tenants[u] for u in seen])
    if unseen:
        unseen_rows = rows_of(unseen)
        pieces = evidence(cfg, chat, unseen)
        unseen_known = read_pieces(
            lm, frozen, pieces, features=cfg.features, whose=[t.key for t in unseen]
        )
    keep = lambda rows, what, of: question_states(
        lm, frozen, rows, cfg.features, f"{what}, held out", [t.key for t in of]
    )
    seen_states = (
        keep(seen_rows, "training tenants", [tenants[u] for u in seen]) if len(seen) else None
    )
    unseen_states = keep(unseen_rows, "unseen tenants", unseen) if unseen else None
    nll = lambda tree, p_UE, rows, states: answering.nll(
        tree, p_UE[rows.tenant_N], rows.question, rows.answer, states
    )

    def evaluate(params, _: int) -> dict[str, float]:
        tree = {**frozen, **params}
        p_of = lambda known: infer_p(encoder, params["encoder"], known, cfg.examples)
        p_UE = p_of(known)
        told = {"held_nll": nll(tree, p_UE[seen], seen_rows, seen_states)} if len(seen) else {}
        if unseen:
            unseen_UE = p_of(unseen_known)
            mean_UE = np.broadcast_to(p_UE.mean(0), unseen_UE.shape)
            told["unseen_nll"] = nll(tree, unseen_UE, unseen_rows, unseen_states)
            told["unseen_mean_nll"] = nll(tree, mean_UE, unseen_rows, unseen_states)
        return told

    return evaluate


if __name__ == "__main__":
    config.run(main, UniversalConfig, __doc__)
