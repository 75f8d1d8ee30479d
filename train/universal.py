"""Train the head that all tenants share, A(p), and the encoder that infers p: one model of many voices.

    python -m train.universal configs/universal_sample.py
    python -m train.universal configs/universal_sample.py --teacher runs/teacher/model --distil 0.5

A row is a question, the answer that one tenant gave, and a random part of what else is known of that tenant. Backbone
and LFE are frozen. Writes OUT/model (see jaxrec.hub.personal). In OUT/metrics.jsonl: `held_nll`, nats a token on
training tenants' held-out dialogues with their p from the table; `unseen_nll`, the same of tenants who are not in
training, their p inferred by the encoder.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from jaxrec import config, hub, mesh, objectives
from jaxrec.data import turns
from jaxrec.data.world.businesses import read_businesses
from jaxrec.data.world.records import Tenant
from jaxrec.data.world.tenants import generate
from jaxrec.delta import DeltaConfig
from jaxrec.hub.personal import load_lfe, save_personal
from jaxrec.mesh import HostsConfig, MeshConfig
from jaxrec.models.answering import Answering
from jaxrec.models.heads import HeadConfig
from jaxrec.models.onboarding import blank, infer_p, read_pieces, turn_source
from jaxrec.models.personal_lm import PersonalConfig, PersonalLM
from jaxrec.models.profile import ProfileEncoder, ProfileEncoderConfig
from jaxrec.tables import RowAdam
from jaxrec.training import gradients, loop, optimizer, step
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig


@dataclasses.dataclass(frozen=True)
class UniversalConfig:
    """A run of the universal stage."""

    lfe: str = "runs/sample/retrofit/lfe"
    head: HeadConfig = HeadConfig()  # its vocabulary and d_z are taken from backbone and LFE
    p_enters: DeltaConfig = DeltaConfig(embed=True, norm=True, lora_rank=4)
    d_p: int = 64
    hyper_width: int = 64
    encoder: ProfileEncoderConfig = ProfileEncoderConfig()
    teacher: str = ""  # a decoder with the same tokenizer, for distillation
    distil: float = 0.0
    p_std: float = 0.5  # of the profile table's first values
    p_dropout: float = 0.1  # rows that see p = 0: the head for a stranger
    question: int = 40
    answer: int = 72
    piece: int = 48  # tokens of one piece of evidence
    pieces: int = 8  # of them a row sees at most
    rows: int = 32
    accum: int = 1
    opt: OptConfig = OptConfig(lr=2e-3, warmup=50)
    p_lr: float = 1e-2  # of the profile table, whose rows are seen seldom
    loop: LoopConfig = LoopConfig(steps=1000, eval_every=250, monitor="unseen_nll")
    mesh: MeshConfig = MeshConfig()
    hosts: HostsConfig = HostsConfig()
    out: str = "runs/universal"


def main(cfg: UniversalConfig) -> dict[str, float]:
    """Trains and saves OUT/model; gives the last evaluation's numbers."""
    mesh.start(cfg.hosts)
    devices = mesh.make(cfg.mesh)
    backbone, lfe_cfg, frozen, tok, facts = load_lfe(cfg.lfe, devices)
    vocab = backbone.cfg.vocab
    head = dataclasses.replace(cfg.head, vocab=vocab, d_z=lfe_cfg.d_z)
    lm = PersonalLM(backbone, PersonalConfig(lfe_cfg, head, cfg.p_enters, cfg.d_p, cfg.hyper_width))
    encoder = ProfileEncoder(
        dataclasses.replace(cfg.encoder, d_z=lfe_cfg.d_z, d_p=cfg.d_p, kinds=turns.KINDS)
    )
    tenants = [t for t in [*generate(), *read_businesses()] if not t.held_out]
    pieces = turns.evidence_pieces(tok, tenants, cfg.piece)
    known = read_pieces(lm, frozen, pieces)
    rows = turns.turn_rows(tok, [t.onboarding for t in tenants], cfg.question, cfg.answer)
    source = turn_source(
        rows, pieces, known, cfg.rows,
        pieces_a_row=cfg.pieces, seed=cfg.loop.seed, share=mesh.process_rows(devices, cfg.rows),
    )  # fmt: skip

    init = lambda key: init_params(key, lm, encoder, len(tenants), cfg)
    params = mesh.sharded_init(devices, init, jax.random.key(cfg.loop.seed))
    told, teacher = {}, None
    if cfg.teacher:
        at = lambda shapes: mesh.shardings(devices, shapes)
        teacher_cfg, told["teacher"] = hub.load(cfg.teacher, shardings=at)
        teacher = hub.model_of(teacher_cfg)
    objective = objectives.universal(
        lm, encoder, teacher=teacher, distil_weight=cfg.distil, p_dropout=cfg.p_dropout
    )
    answering = Answering(lm, tok, rows=cfg.rows, limit=cfg.answer)
    optim = optimizer.make(cfg.opt, cfg.loop.steps)
    by_row = {"profile/p": RowAdam(ids=lambda batch: batch.tenant_B, rate=cfg.p_lr)}
    state = step.init_state(devices, params, optim, source=source.init(), tables=by_row)
    one = step.make_step(
        *objective, optim, state, gradients=gradients.summed(cfg.accum), tables=by_row
    )
    fitted = loop.fit(
        one, state, source, config=cfg.loop, mesh=devices, rows=cfg.rows, out=cfg.out,
        frozen={**frozen, **told}, evaluate=evaluation(cfg, answering, encoder, frozen, tenants),
        resolved=cfg, title="universal",
    )  # fmt: skip
    whole = {"lfe": frozen["lfe"], **fitted.state.params}
    save_personal(Path(cfg.out) / "model", lm, encoder, whole, [t.key for t in tenants], facts)
    return {cfg.loop.monitor: fitted.value, "step": int(fitted.state.step)}


def init_params(
    key: jax.Array, lm: PersonalLM, encoder: ProfileEncoder, tenants: int, cfg: UniversalConfig
) -> dict:
    """Head, A(p), encoder and a line of the profile table for each tenant."""
    keys = jax.random.split(key, 3)
    new = lm.init(keys[0])
    return {
        "head": new["head"],
        "hypernet": new["hypernet"],
        "encoder": encoder.init(keys[1], blank(lm.cfg.lfe.d_z))["params"],
        "profile": {"p": cfg.p_std * jax.random.normal(keys[2], (tenants, cfg.d_p))},
    }


def evaluation(cfg: UniversalConfig, answering: Answering, encoder, frozen, tenants: list[Tenant]):
    """evaluate(params, step) on four held-out dialogues of 48 seen and of all unseen tenants."""
    tok, lm = answering.tok, answering.lm
    unseen = [t for t in [*generate(), *read_businesses()] if t.held_out]
    seen = np.linspace(0, len(tenants) - 1, min(len(tenants), 48)).astype(int)
    rows_of = lambda ts: turns.turn_rows(tok, [t.heldout[:4] for t in ts], cfg.question, cfg.answer)
    seen_rows, unseen_rows = rows_of([tenants[u] for u in seen]), rows_of(unseen)
    known = read_pieces(lm, frozen, turns.evidence_pieces(tok, unseen, cfg.piece))
    nll = lambda tree, p_UE, rows: answering.nll(
        tree, p_UE[rows.tenant_N], rows.question, rows.answer
    )

    def evaluate(params, _: int) -> dict[str, float]:
        tree = {**frozen, **params}
        return {
            "held_nll": nll(tree, np.asarray(params["profile"]["p"])[seen], seen_rows),
            "unseen_nll": nll(tree, infer_p(encoder, params["encoder"], known, 30), unseen_rows),
        }

    return evaluate


if __name__ == "__main__":
    config.run(main, UniversalConfig, __doc__)
