"""Train a rewriter: the head that reads a draft beside the question, and says it again in the tenant's own voice.

    python -m train.rewrite --model runs/universal/model --tenants my_shops
    python -m train.rewrite configs/personal/rewrite_sample.py
    python -m eval.rewrite --model runs/rewrite_sample/model

Starts from a universal model and goes on by its objective: a draft is one more turn of the conversation that Z is made
of, and the answer to be learned is the tenant's own. Drafts of the sample world are made in other styles; of other
tenants their preferences are read, the rejected answer as the draft. Writes OUT/model (a personal model's folder).
"""

import dataclasses
from pathlib import Path

import jax

from jaxrec import config, elastic, mesh, objectives, processes, results
from jaxrec.config import RunError
from jaxrec.data import turns
from jaxrec.data.rewrites import rewrite_rows, rewrites
from jaxrec.data.tenants import read_tenants
from jaxrec.mesh import MeshConfig
from jaxrec.models.personal.onboarding import infer_p, read_pieces, turn_source
from jaxrec.models.personal.personal_folder import load_personal, save_personal
from jaxrec.processes import HostsConfig
from jaxrec.training import gradients, tuning
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

TRAINED = ("head", "hypernet", "encoder")


@dataclasses.dataclass(frozen=True)
class RewriteConfig:
    """A rewriter's start, data and training."""

    model: str = ""  # a universal stage's OUT/model
    tenants: tuple[str, ...] = ()  # sources: see jaxrec.data.tenants
    each: int = 30  # drafts of each tenant at most
    contrast: float = 0.2
    p_dropout: float = 0.05
    question: int = 128  # tokens of question and draft
    answer: int = 80
    piece: int = 40
    pieces: int = 6
    rows: int = 32
    opt: OptConfig = OptConfig(lr=1e-3, warmup=20)
    loop: LoopConfig = LoopConfig(steps=300)
    mesh: MeshConfig = MeshConfig()
    hosts: HostsConfig = HostsConfig()
    out: str = "runs/rewrite"


def main(cfg: RewriteConfig) -> dict[str, float]:
    """Trains and saves OUT/model; gives the steps made. Raises RunError where there is no draft."""
    if not cfg.model:
        raise RunError("rewrite: name a universal stage's OUT/model with --model")
    tenants, skipped = read_tenants(cfg.tenants)
    tuning.say("tenants, left out", skipped)
    made = rewrites(tenants, cfg.each, cfg.loop.seed)
    if not made:
        raise RunError(
            "no tenant has a preference, a rejected answer and the chosen one: there is no draft to learn from"
        )
    processes.start(cfg.hosts)
    devices, accum = elastic.arrange(cfg.mesh, cfg.rows, out=cfg.out)
    model = load_personal(cfg.model, devices)
    pieces = turns.evidence_pieces(model.chat, tenants, cfg.piece)
    known = read_pieces(model.lm, model.params, pieces)
    rows = rewrite_rows(model.chat, made, cfg.question, cfg.answer)
    source = turn_source(
        rows, pieces, known, cfg.rows,
        pieces_a_row=cfg.pieces, seed=cfg.loop.seed, share=mesh.process_rows(devices, cfg.rows),
    )  # fmt: skip
    params = {name: model.params[name] for name in TRAINED}
    frozen = {name: x for name, x in model.params.items() if name not in (*TRAINED, "profile")}
    objective = objectives.universal(
        model.lm, model.encoder, contrast=cfg.contrast, p_dropout=cfg.p_dropout
    )
    fitted = tuning.tune(
        objective, params, source, opt=cfg.opt, config=cfg.loop, mesh=devices, rows=cfg.rows,
        out=cfg.out, frozen=frozen, gradients=gradients.spanning(accum), resolved=cfg, title="rewrite",
    )  # fmt: skip
    own = jax.device_get(fitted.state.params)
    table = infer_p(model.encoder, own["encoder"], known, 30)
    kept = {name: part for name, part in frozen.items() if name != "backbone"}
    whole = {**kept, **own, "profile": {"p": table}}
    keys = [t.key for t in tenants]
    folder = Path(cfg.out) / "model"
    save_personal(folder, model.lm, model.encoder, whole, keys, model.facts)
    results.conclude([folder], ("jaxrec", "eval", "rewrite", "--model", cfg.out))
    return {"step": float(fitted.state.step)}


if __name__ == "__main__":
    config.run(main, RewriteConfig, __doc__)
