"""The same questions to unseen businesses of different temper: what each answers, in its own voice.

    python -m eval.same_question --profile runs/personalize/profile --questions "Do you open on Sunday?"
    python -m eval.same_question configs/personal/same_question_sample.py

Nothing but p differs between the answers to a question. Writes OUT/same_question.json: {"questions": [{"question",
"answers": [{"tenant", "name", "style", "answer", "met", "checks"}]}]}, where `met` counts the style checks met (of
tenants of one's own no style is known, and these three are null).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec import checkpoint, config, mesh
from jaxrec.config import RunError
from jaxrec.data import turns
from jaxrec.data.chat import ChatFormat
from jaxrec.data.tenant import Dialogue, Tenant, Turn
from jaxrec.data.tenants import choose_tenants, read_tenants
from jaxrec.data.text import Example
from jaxrec.dialogue.pages import PagesConfig, with_pages
from jaxrec.files import write_json
from jaxrec.mesh import MeshConfig
from jaxrec.models.personal.answering import Answering
from jaxrec.models.personal.personal_folder import load_personal
from jaxrec.models.personal.profile_folder import profile_facts, sources_of
from jaxrec.world.businesses import KEYS
from jaxrec.world.records import WorldTenant
from jaxrec.world.style import check


@dataclasses.dataclass(frozen=True)
class SameQuestionConfig:
    """Some questions for some businesses of one onboarded model."""

    profile: str = ""  # of jaxrec.train.personalize
    tenants: tuple[
        str, ...
    ] = ()  # where its tenants are; where they were onboarded from when empty
    questions: tuple[str, ...] = (
        "What time do you open on Saturday?",
        "Can I get my money back if I change my mind?",
        "Which ways of paying do you take?",
    )
    generated: int = (
        4  # generated businesses beside the hand-written ones, as unlike each other as can be
    )
    pages: PagesConfig = (
        PagesConfig()
    )  # before every question; the "right" one of these is not known
    question: int = 40  # tokens, with the page before it
    answer: int = 96
    repetition: float = 1.0  # penalty on what an answer has said already; 1: none
    quantise: str = ""  # "nf4", "int8" or "bf16" kernels of the backbone
    mesh: MeshConfig = MeshConfig()
    out: str = "results/same_question"


def main(cfg: SameQuestionConfig) -> dict[str, Any]:
    """Writes OUT/same_question.json and returns its content. Raises RunError without a question or a business."""
    facts = profile_facts(cfg.profile)
    profile = checkpoint.load_params(cfg.profile)
    if "p" not in profile:
        raise RunError(
            f"{cfg.profile} holds Deltas of the businesses' own, and no p: onboard them without own_delta"
        )
    known = read_tenants(sources_of(facts, cfg.tenants, cfg.profile))[0]
    chosen = choose(choose_tenants(known, facts["tenants"]), cfg.generated)
    if not chosen or not cfg.questions:
        raise RunError(
            "there is nobody to ask, or nothing: give at least one business and one question"
        )

    model = load_personal(facts["model"], mesh.make(cfg.mesh), cfg.quantise)
    place = {key: row for row, key in enumerate(facts["tenants"])}
    pairs = [(question, tenant) for question in cfg.questions for tenant in chosen]
    p_NE = np.asarray(profile["p"])[[place[tenant.key] for _, tenant in pairs]]
    asked = [ask(model.chat, tenant, q, cfg) for q, tenant in pairs]
    answering = Answering(
        model.lm, model.chat, rows=len(pairs), limit=cfg.answer, repetition=cfg.repetition
    )
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


def ask(chat: ChatFormat, tenant: Tenant, question: str, cfg: SameQuestionConfig) -> Example:
    """The question as this tenant's model reads it, with the page that `cfg.pages` puts before it."""
    said = Dialogue("asked", (Turn("customer", question), Turn("assistant", "")))
    alone = dataclasses.replace(tenant, heldout=(said,))
    (grounded,) = with_pages(chat, [alone], cfg.pages, cfg.question)
    before = [(turn.role, turn.text) for turn in grounded.heldout[0].turns[:-1]]
    return turns.question_of(chat, before, cfg.question)


def choose(tenants: Sequence[Tenant], generated: int) -> list[Tenant]:
    """One's own tenants, the hand-written ones, then generated ones, each differing in as many values of style as can
    be from those before it."""
    own = [t for t in tenants if not isinstance(t, WorldTenant)]
    world = [t for t in tenants if isinstance(t, WorldTenant)]
    chosen = [t for t in world if t.key in KEYS]
    rest = [t for t in world if t.key not in KEYS]
    values = lambda t: dataclasses.astuple(t.style)
    unlike = lambda a, b: sum(x != y for x, y in zip(values(a), values(b), strict=True))
    for _ in range(min(generated, len(rest))):
        farthest = max(rest, key=lambda t: min((unlike(t, c) for c in chosen), default=0))
        chosen.append(farthest)
        rest.remove(farthest)
    return [*own, *chosen]


def spoken(tenant: Tenant, answer: str) -> dict[str, Any]:
    """One answer, with who gave it and, where its style is known, how many checks of it are met."""
    style = tenant.style if isinstance(tenant, WorldTenant) else None
    met = check(answer, style) if style else None
    return {
        "tenant": tenant.key,
        "name": tenant.name,
        "style": style.to_json() if style else None,
        "answer": answer,
        "met": sum(met.values()) if met else None,
        "checks": len(met) if met else None,
    }


if __name__ == "__main__":
    config.run(main, SameQuestionConfig, __doc__)
