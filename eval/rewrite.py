"""Rewriting drafts for tenants who are in no training: is the voice theirs, and are the facts still there?

    python -m eval.rewrite --model runs/rewrite_sample/model

Rows: own_p, inferred from what is known of the tenant; mean_p, the training tenants' mean; shuffled_p, another unseen
tenant's; and, as floor and ceiling, the draft itself and the tenant's own answer. Measures: style checks met (of nine),
answers that state every fact of the draft, and both at once (all nine checks and all facts). Intervals: 95%, bootstrap
over tenants. Writes results/rewrite/NAME.json.
"""

import dataclasses
import time
from pathlib import Path

import numpy as np

from jaxrec import config, mesh
from jaxrec.config import RunError
from jaxrec.data import turns
from jaxrec.data.rewrites import Rewrite, rewrite_request, rewrites
from jaxrec.detection import group_weights
from jaxrec.models.personal.answering import Answering
from jaxrec.models.personal.onboarding import infer_p, read_pieces
from jaxrec.models.personal.personal_folder import load_personal
from jaxrec.results import print_table, write_results
from jaxrec.world.grammar import fact_met
from jaxrec.world.style import fraction_met
from jaxrec.world.tenants import generate

MEASURES = ("style", "facts", "both")


@dataclasses.dataclass(frozen=True)
class RewriteEvalConfig:
    """Which rewriter, and on how much."""

    model: str = "runs/rewrite_sample/model"
    name: str = "sample"
    tenants: int = 240
    each: int = 6  # drafts of each unseen tenant
    examples: int = 30
    question: int = 128
    answer: int = 80
    piece: int = 40
    rows: int = 32
    draws: int = 1000
    seed: int = 1
    out: str = "results/rewrite"


def main(cfg: RewriteEvalConfig) -> Path:
    """Rewrites every draft under each p, prints the table, writes the record; gives its path."""
    begun = time.monotonic()
    model = load_personal(cfg.model, mesh.make())
    unseen = [t for t in generate(n=cfg.tenants) if t.held_out]
    if len(unseen) < 2:
        raise RunError(f"of {cfg.tenants} tenants {len(unseen)} are held out: two are needed")
    made = rewrites(unseen, cfg.each, cfg.seed)
    pieces = turns.evidence_pieces(model.chat, unseen, cfg.piece, examples=cfg.examples)
    known = read_pieces(model.lm, model.params, pieces)
    own_UE = infer_p(model.encoder, model.params["encoder"], known, cfg.examples)
    mean_E = np.asarray(model.params["profile"]["p"]).mean(0)
    profiles = {
        "own_p": own_UE,
        "mean_p": np.broadcast_to(mean_E, own_UE.shape),
        "shuffled_p": np.roll(own_UE, 1, 0),
    }
    answering = Answering(model.lm, model.chat, rows=cfg.rows, limit=cfg.answer)
    reads = [
        turns.question_of(model.chat, rewrite_request(r.question, r.draft), cfg.question)
        for r in made
    ]
    tenant_N = np.array([r.tenant for r in made])
    texts = {
        row: answering.write(model.params, p_UE[tenant_N], reads, cfg.question)
        for row, p_UE in profiles.items()
    }
    texts |= {"draft": [r.draft for r in made], "own_answer": [r.own for r in made]}
    table, paired = compared(cfg, {row: score(made, said) for row, said in texts.items()}, tenant_N)
    print_table(table)
    print("\nown_p minus")
    print_table(paired, ("b", "metric", "diff", "lo", "hi"))
    samples = [
        {"question": r.question, "draft": r.draft, "own_p": texts["own_p"][i], "wanted": r.own}
        for i, r in enumerate(made[:: max(len(made) // 5, 1)])
    ]
    path = write_results(
        cfg.out, "rewrite", table, paired, cfg, cfg.seed, time.monotonic() - begun, headline="own_p",
        filename=f"{cfg.name}.json", dataset=cfg.name, tested=len(made), people=len(unseen),
        samples=samples, command=f"python -m eval.rewrite --model {cfg.model}",
    )  # fmt: skip
    print(f"\nwrote {path}")
    return path


def score(made: list[Rewrite], said: list[str]) -> dict[str, np.ndarray]:
    """`MEASURES` of each text."""
    style = np.array([fraction_met(text, r.style) for r, text in zip(made, said, strict=True)])
    facts = np.array([fact_met(text, r.facts) for r, text in zip(made, said, strict=True)], float)
    return {"style": style, "facts": facts, "both": (style == 1.0) * facts}


def compared(
    cfg: RewriteEvalConfig, found: dict[str, dict[str, np.ndarray]], tenant_N: np.ndarray
) -> tuple[list[dict], list[dict]]:
    """(a line a row, own_p minus every other row), with intervals over tenants."""
    ones, drawn = group_weights(tenant_N, cfg.draws, cfg.seed)
    mean = lambda weight, x: weight @ x / weight.sum(1)
    table, paired = [], []
    for row, of in found.items():
        line = {"row": row}
        for name in MEASURES:
            lo, hi = np.percentile(mean(drawn, of[name]), (2.5, 97.5))
            line |= {name: float(of[name].mean()), f"{name}_lo": float(lo), f"{name}_hi": float(hi)}
            if row != "own_p":
                gap = found["own_p"][name] - of[name]
                lo, hi = np.percentile(mean(drawn, gap), (2.5, 97.5))
                paired.append(
                    {"a": "own_p", "b": row, "metric": name, "diff": float(mean(ones, gap)[0]),
                     "lo": float(lo), "hi": float(hi)}
                )  # fmt: skip
        table.append(line)
    return table, paired


if __name__ == "__main__":
    config.run(main, RewriteEvalConfig, __doc__)
