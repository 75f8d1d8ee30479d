"""The same questions to unseen businesses of different temper: what each answers, in its own voice.

    python -m eval.same_question configs/personal/same_question_sample.py

Nothing but p differs between the answers to a question. Writes OUT/same_question.json: {"questions": [{"question",
"answers": [{"tenant", "name", "style", "answer", "met", "checks"}]}]}, where `met` counts the style checks met.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec import checkpoint, config, mesh
from jaxrec.config import RunError
from jaxrec.data import turns
from jaxrec.files import write_json
from jaxrec.mesh import MeshConfig
from jaxrec.models.personal.answering import Answering
from jaxrec.models.personal.personal_folder import load_personal
from jaxrec.world.businesses import KEYS, read_businesses
from jaxrec.world.records import WorldTenant
from jaxrec.world.style import check
from jaxrec.world.tenants import generate


@dataclasses.dataclass(frozen=True)
class SameQuestionConfig:
    """Some questions for some businesses of one onboarded model."""

    profile: str = "runs/sample/personalize/profile"  # of jaxrec.train.personalize
    questions: tuple[str, ...] = (
        "What time do you open on Saturday?",
        "Can I get my money back if I change my mind?",
        "Which ways of paying do you take?",
    )
    generated: int = (
        4  # generated businesses beside the hand-written ones, as unlike each other as can be
    )
    question: int = 40  # tokens
    answer: int = 96
    mesh: MeshConfig = MeshConfig()
    out: str = "results/same_question"


def main(cfg: SameQuestionConfig) -> dict[str, Any]:
    """Writes OUT/same_question.json and returns its content. Raises RunError without a question or a business."""
    facts = checkpoint.load_facts(cfg.profile)
    profile = checkpoint.load_params(cfg.profile)
    if "p" not in profile:
        raise RunError(
            f"{cfg.profile} holds Deltas of the businesses' own, and no p: onboard them without own_delta"
        )
    model = load_personal(facts["model"], mesh.make(cfg.mesh))
    world = {t.key: t for t in [*generate(), *read_businesses()]}
    chosen = choose([world[key] for key in facts["tenants"]], cfg.generated)
    if not chosen or not cfg.questions:
        raise RunError(
            "there is nobody to ask, or nothing: give at least one business and one question"
        )

    place = {key: row for row, key in enumerate(facts["tenants"])}
    pairs = [(question, tenant) for question in cfg.questions for tenant in chosen]
    p_NE = np.asarray(profile["p"])[[place[tenant.key] for _, tenant in pairs]]
    asked = [turns.question_of(model.chat, [("customer", q)], cfg.question) for q, _ in pairs]
    answering = Answering(model.lm, model.chat, rows=len(pairs), limit=cfg.answer)
    said = answering.write(model.params, p_NE, asked, cfg.question)

    answers = [spoken(tenant, text) for (_, tenant), text in zip(pairs, said, strict=True)]
    step = len(chosen)
    record = {
        "questions": [
            {"question": question, "answers": answers[i * step : (i + 1) * step]}
            for i, question in enumerate(cfg.questions)
        ]
    }
    path = Path(cfg.out) / "same_question.json"
    write_json(path, record)
    return record


def choose(tenants: Sequence[WorldTenant], generated: int) -> list[WorldTenant]:
    """The hand-written tenants, then generated ones, each differing in as many values of style as can be from those
    before it."""
    chosen = [t for t in tenants if t.key in KEYS]
    rest = [t for t in tenants if t.key not in KEYS]
    values = lambda t: dataclasses.astuple(t.style)
    unlike = lambda a, b: sum(x != y for x, y in zip(values(a), values(b), strict=True))
    for _ in range(min(generated, len(rest))):
        farthest = max(rest, key=lambda t: min((unlike(t, c) for c in chosen), default=0))
        chosen.append(farthest)
        rest.remove(farthest)
    return chosen


def spoken(tenant: WorldTenant, answer: str) -> dict[str, Any]:
    """One answer, with who gave it and how many of its style checks it meets."""
    met = check(answer, tenant.style)
    return {
        "tenant": tenant.key,
        "name": tenant.name,
        "style": tenant.style.to_json(),
        "answer": answer,
        "met": sum(met.values()),
        "checks": len(met),
    }


if __name__ == "__main__":
    config.run(main, SameQuestionConfig, __doc__)
