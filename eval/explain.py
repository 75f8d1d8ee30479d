"""GenRec end to end: query + user -> persona -> search, diversity, re-ranking -> ten items with reasons -> reward.

    python -m jaxrec.rewards.instruction_pairs --limit 2000 --out runs/genrec/few      what the models learned from
    python -m eval.explain configs/recommend/genrec.py
    python -m eval.explain configs/recommend/genrec.py --speaker SFT --rows 32

Answers the config's requests on the terminal, each item with its reason, who wrote it and what it earns; then the
table: every model on XRec's held-out readers and on held-out people who rated; then the latency of every stage.
Numbers go to results/explain/NAME.json, texts to OUT.
"""

import dataclasses
import json
import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec import config, results
from jaxrec.config import ConfigError
from jaxrec.dialogue.explanation import Reason
from jaxrec.eval import explain_table
from jaxrec.eval.explain_writer import MeasuredWriter, ModelRow
from jaxrec.eval.flow_parts import PartsConfig, World, flow_parts, read_world
from jaxrec.eval.recommend_flow import RULE, Request, items_of
from jaxrec.models.text.sentence import SentenceEncoder
from jaxrec.models.text.token_vectors import TokenVectors
from jaxrec.recommenders.flow import STAGES, Answer, FlowSettings, Pipeline
from jaxrec.recommenders.flow.explained import ExplainedFlow, reader_of
from jaxrec.recommenders.flow.shop import mean_ratings
from jaxrec.rewards import reward as rewards
from jaxrec.rewards.reward import Sample, Score, score_samples

SHOWN = ("model", "perplexity", "rouge_l", "similarity", "named", "another", "persona")
SHOWN += ("true", "false", "reward", "distinct_2", "words")


@dataclasses.dataclass(frozen=True)
class ExplainConfig:
    """The flow's parts, the models, and which of them speaks in it. `rows`: held-out prompts of each set."""

    name: str = "genrec"
    parts: PartsConfig = PartsConfig()
    flow: FlowSettings = FlowSettings()
    requests: tuple[Request, ...] = (Request("a newcomer", "a present for a birthday"),)
    models: tuple[ModelRow, ...] = ()
    speaker: str = ""  # by its name; the last of `models` where empty
    pairs: str = "runs/genrec/few"  # made by instruction_pairs; its test people are asked
    rows: int = 128
    batch: int = 16
    timed: int = 20  # requests that are timed
    reward: str = "genrec"
    seed: int = 0
    results: str = "results/explain"  # numbers alone
    out: str = "runs/genrec/explain"  # texts: answers.jsonl, samples.jsonl


@dataclasses.dataclass(frozen=True)
class Told:
    """One answer with its reasons, what each earns, and the milliseconds of every stage."""

    answer: Answer
    reasons: list[Reason]
    scores: list[Score]
    latency_ms: dict[str, float]


class JudgedFlow:
    """The flow with a model that explains and a reward that judges: one request in, ten items with reasons out."""

    def __init__(self, flow: ExplainedFlow, reward: rewards.Reward):
        self.flow, self.reward = flow, reward

    def __call__(self, request: Request, given: Sequence[int] = ()) -> Told:
        """Answers, explains, and judges what was said."""
        answer = self.flow.pipeline.answer(request.user, request.query, given)
        spent = dict(answer.latency_ms)
        began = time.perf_counter()
        reader, subjects = reader_of(answer.persona, answer.query), self.flow.subjects(answer)
        reasons = self.flow.explain(answer)
        explained = time.perf_counter()
        samples = [
            Sample(reason.prompt, reason.text, subject.rating, reader.persona, subject.title)
            for reason, subject in zip(reasons, subjects, strict=True)
        ]
        scores = score_samples(self.reward, samples) if samples else []
        spent["explain"] = 1e3 * (explained - began)
        spent["judge"] = 1e3 * (time.perf_counter() - explained)
        return Told(answer, reasons, scores, spent)


def main(cfg: ExplainConfig) -> list[dict[str, Any]]:
    """Prints answers, table and latency; gives the rows. Raises ConfigError without models, or for another speaker."""
    began = time.perf_counter()
    speaker = speaker_of(cfg)
    if not cfg.requests:
        raise ConfigError("explain: nobody asks for anything (requests)")
    held = explain_table.read_held(cfg.pairs, cfg.rows, cfg.seed)
    reward = rewards.by_name(cfg.reward)
    world = read_world(cfg.parts)
    given = [items_of(request, world) for request in cfg.requests]
    print(world.data.summary())
    parts = flow_parts(cfg.parts, world)
    writer = MeasuredWriter(speaker, batch=cfg.flow.k, seed=cfg.seed)
    rating_I = mean_ratings(world.split.train)
    flow = ExplainedFlow(Pipeline(parts, cfg.flow), world.data.items, rating_I, writer)
    explained = JudgedFlow(flow, reward)
    explained(cfg.requests[0], given[0])  # programs are compiled here
    answers = []
    for request, items in zip(cfg.requests, given, strict=True):
        told = explained(request, items)
        print("\n".join(block(told)))
        answers.append(record(told))
    print(RULE)
    times = latency(explained, world, cfg)
    results.print_table(times)
    embed_tokens = TokenVectors(SentenceEncoder.load(cfg.parts.encoder or None))
    loaded = {speaker.name: writer}
    rows, samples = explain_table.table(held, cfg.models, reward, embed_tokens, loaded, cfg.batch)
    for name in explain_table.SETS:
        print(f"\n{name}")
        results.print_table([row for row in rows if row["set"] == name], SHOWN)
    path = results.write_results(
        cfg.results, "explain", rows, config=cfg, seed=cfg.seed,
        wall_s=time.perf_counter() - began, filename=f"{cfg.name}.json",
        latency=times, speaker=speaker.name,
    )  # fmt: skip
    # what the models wrote quotes the data set, whose texts are nobody's to pass on
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    for name, texts in (("answers", answers), ("samples", samples)):
        lines = [json.dumps(text, ensure_ascii=False) + "\n" for text in texts]
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"\n{path}; texts in {out}")
    return rows


def speaker_of(cfg: ExplainConfig) -> ModelRow:
    """The model that explains in the flow. Raises ConfigError where there is none of that name."""
    names = [model.name for model in cfg.models]
    if not names:
        raise ConfigError("explain: no model is named (models)")
    if cfg.speaker and cfg.speaker not in names:
        raise ConfigError(f"speaker {cfg.speaker!r} is none of the models: {', '.join(names)}")
    return cfg.models[names.index(cfg.speaker) if cfg.speaker else -1]


def block(told: Told) -> list[str]:
    """One answer as lines of text."""
    answer = told.answer
    lines = [RULE, f"{answer.user} asks {answer.query[:60]!r}", f"  path     {answer.path}"]
    lines.append(f"  persona  {answer.persona or 'none: nothing is known of them'}")
    lines += [f"  note     {note}" for note in answer.notes]
    both = zip(answer.titles, told.reasons, told.scores, strict=True)
    for place, (title, reason, score) in enumerate(both, 1):
        lines.append(f"  {place:2d} {title[:90]}")
        lines.append(f"     {reason.text}")
        parts = "  ".join(f"{name} {value:+.1f}" for name, value in score.parts.items())
        by = reason.by if not reason.why else f"{reason.by} ({reason.why})"
        lines.append(f"     reward {score.total:+.2f}: {parts}   by the {by}")
    spent = "  ".join(f"{stage} {ms:.1f}" for stage, ms in told.latency_ms.items())
    lines.append(f"  latency  {spent}  = {sum(told.latency_ms.values()):.1f} ms")
    return lines


def record(told: Told) -> dict[str, Any]:
    """One answer for the file of record."""
    items = [
        {
            "title": title,
            "reason": reason.text,
            "by": reason.by,
            "why": reason.why,
            "written": reason.written,
            "reward": score.total,
        }
        for title, reason, score in zip(told.answer.titles, told.reasons, told.scores, strict=True)
    ]
    asked = {"user": told.answer.user, "query": told.answer.query[:200]}
    return {**asked, "persona": told.answer.persona, "path": told.answer.path, "items": items}


def latency(explained: JudgedFlow, world: World, cfg: ExplainConfig) -> list[dict[str, Any]]:
    """p50 and p95 in milliseconds by stage, over held-out people who ask one at a time; the first one warms up."""
    test = world.split.test
    spent: dict[str, list[float]] = defaultdict(list)
    users = world.data.interactions.users
    rows = np.random.default_rng(cfg.seed).permutation(len(test))[: cfg.timed + 1]
    for n, row in enumerate(rows.tolist()):
        query = world.query_for(int(test.target_B[row]))
        told = explained(Request(users[test.histories.user_B[row]], query))
        if n:
            for stage, ms in told.latency_ms.items():
                spent[stage].append(ms)
            spent["total"].append(sum(told.latency_ms.values()))
    return [
        {
            "stage": stage,
            "p50_ms": float(np.percentile(spent[stage], 50)),
            "p95_ms": float(np.percentile(spent[stage], 95)),
        }
        for stage in (*STAGES, "explain", "judge", "total")
        if spent[stage]
    ]


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    config.run(main, ExplainConfig, __doc__)
