"""GenRec's flow without its language model: user id + query -> vector -> persona -> search -> diversify -> re-rank.

    python -m eval.recommend_flow configs/recommend/genrec_flow.py
    python -m eval.recommend_flow configs/recommend/genrec_flow.py --parts.choose-personas  # k by elbow and silhouette

Fits what it needs, or takes it from OUT. Answers the config's requests on the terminal, then measures: held-out items
asked for by their brand and category words, with and without personal re-ranking, and the latency of every stage.
Those words are the item's own, and flatter any search; where people wrote of items, a second table asks by what another
person wrote of the same item. Weights are chosen on validation rows, of each kind of query by themselves. Profiles go
to OUT/profiles.parquet, results to results/recommend/NAME.json.
"""

import dataclasses
import json
import logging
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec import config, results
from jaxrec.config import ConfigError
from jaxrec.data.histories import Holdout
from jaxrec.eval import flow_table
from jaxrec.eval.flow_parts import PartsConfig, World, flow_parts, read_world
from jaxrec.people.traits import rhythm
from jaxrec.recommenders.flow import Answer, FlowParts, FlowSettings, Pipeline
from jaxrec.recommenders.flow.fitting import origin_of

RULE = "-" * 100
TITLE = 58  # characters of a title that are printed


@dataclasses.dataclass(frozen=True)
class Request:
    """Who asks for what. `user` is a name of the data set, or somebody it does not know, who may name `given` items."""

    user: str = ""
    query: str = ""
    given: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class FlowConfig:
    """One data set's flow. `tune` chooses the weights on validation rows; otherwise those of `flow` stand."""

    name: str = "genrec_flow"
    parts: PartsConfig = PartsConfig()
    flow: FlowSettings = FlowSettings()
    tune: bool = True
    requests: tuple[Request, ...] = (Request("a newcomer", "a present for a birthday"),)
    asked: int = 1000  # held-out rows that are measured, drawn without replacement
    timed: int = 200  # requests that are timed
    seed: int = 0
    results: str = "results/recommend"


def main(cfg: FlowConfig) -> list[dict[str, Any]]:
    """Prints the answers and the table; gives the rows. Raises ConfigError for a given item that does not exist."""
    began = time.perf_counter()
    world = read_world(cfg.parts)
    given = [items_of(request, world) for request in cfg.requests]
    print(world.data.summary())
    parts = flow_parts(cfg.parts, world)
    world.profiles.write(Path(cfg.parts.out) / "profiles.parquet")
    settings = cfg.flow
    if cfg.tune:
        valid = flow_table.ask(world, parts, settings, drawn(world.split.valid, cfg))
        weights = flow_table.chosen_weights(valid, parts.rankers)
        settings = dataclasses.replace(settings, weights=weights)
    for line in introduction(world, parts, settings, cfg.tune):
        print(line)
    flow = Pipeline(parts, settings)
    for request, items in zip(cfg.requests, given, strict=True):
        flow.answer(request.user, request.query, items)  # programs of its shapes are compiled here
        print("\n".join(block(flow.answer(request.user, request.query, items), world)))
    print(RULE)
    test = drawn(world.split.test, cfg)
    asked = flow_table.ask(world, parts, settings, test)
    rows = flow_table.rows(asked, world, parts, settings.weights)
    times = flow_table.latency(flow, world, test, cfg.timed)
    rows = [told | facts(cfg, world, parts, len(test), began) for told in rows]
    by_others = rows_by_others(cfg, world, parts, settings, test, began)
    rows += by_others
    if cfg.parts.encoder:  # MiniLM, where it isn't said
        rows = [row | {"model": f"{row['model']}, {Path(cfg.parts.encoder).name}"} for row in rows]
    results.print_table(rows, ("model", "R@5", "N@5", "R@10", "N@10", "found", "coverage"))
    print()
    results.print_table(times)
    path = results.write_results(
        cfg.results, "recommend", rows, config=cfg, seed=cfg.seed,
        wall_s=time.perf_counter() - began, filename=f"{cfg.name}.json",
        latency=times, weights=settings.weights, personas=parts.personas.labels,
        trained=origins(Path(cfg.parts.out), parts),
    )  # fmt: skip
    print(f"\n{path}")
    return rows


def origins(out: Path, parts: FlowParts) -> list[dict[str, Any]]:
    """Of the rankers, which may have been taken from OUT, and of this run, which asked them."""
    kept = [origin_of(out / name) for name in parts.rankers]
    told = [
        json.loads(at.read_text()) if at.is_file() else results.kept_origin(at.parent)
        for at in kept
    ]
    return results.distinct([*told, results.origin()])


def rows_by_others(
    cfg: FlowConfig,
    world: World,
    parts: FlowParts,
    settings: FlowSettings,
    test: Holdout,
    began: float,
) -> list[dict[str, Any]]:
    """The same people asked by what another person wrote of the item; no rows where nobody wrote.

    cfg: the run's. world: the data set. parts: the flow's. settings: the flow's, whose weights are chosen anew on
    validation rows of this kind. test: who is asked. began: when the run did.
    """
    queries = world.words_of_others(test, cfg.seed)
    silent = sum(not query for query in queries)
    if silent == len(queries):
        print("another person's words: no query, for nobody wrote of these items")
        return []
    print(
        f"another person's words: {len(queries) - silent} queries; nobody else wrote of {silent} items: no query"
    )
    if cfg.tune:
        valid = drawn(world.split.valid, cfg)
        asked = flow_table.ask(
            world, parts, settings, valid, world.words_of_others(valid, cfg.seed + 1)
        )
        weights = flow_table.chosen_weights(asked, parts.rankers)
        settings = dataclasses.replace(settings, weights=weights)
    asked = flow_table.ask(world, parts, settings, test, queries)
    said = f"what another person wrote of the held-out item (of {silent} items nobody else did: no query)"
    shared = facts(cfg, world, parts, len(test), began, said)
    told = flow_table.rows(asked, world, parts, settings.weights, silent=False)
    return [row | shared | {"weights": dataclasses.asdict(settings.weights)} for row in told]


def items_of(request: Request, world: World) -> tuple[int, ...]:
    """The numbers of the items that a request names. Raises ConfigError for one that the data set lacks."""
    number = {name: i for i, name in enumerate(world.data.interactions.items)}
    if missing := [name for name in request.given if name not in number]:
        raise ConfigError(f"{world.data.name} has no item {missing[0]!r} (requests.given)")
    return tuple(number[name] for name in request.given)


def drawn(holdout: Holdout, cfg: FlowConfig) -> Holdout:
    """At most `asked` rows, the same for the same seed."""
    rows = np.random.default_rng(cfg.seed).permutation(len(holdout))[: cfg.asked]
    return holdout.take(np.sort(rows))


def introduction(world: World, parts: FlowParts, settings: FlowSettings, tuned: bool) -> list[str]:
    """What the flow is made of, in lines."""
    weights = settings.weights
    how = "chosen on validation rows" if tuned else "as configured"
    lines = [
        f"weights ({how}): text {weights.text:g}, deepmf {weights.deepmf:g}, sequence {weights.sequence:g}"
    ]
    if not world.rated:
        lines.append("nobody rates here: no DeepMF, re-ranking by the sequence model alone")
    lines.append(f"{len(parts.personas)} personas:")
    by_size = np.argsort(-parts.personas.size_K, kind="stable")
    lines += [f"  {parts.personas.size_K[c]:6,} people {parts.personas.labels[c]}" for c in by_size]
    return lines


def block(answer: Answer, world: World) -> list[str]:
    """One answer as lines of text."""
    asked = answer.query if len(answer.query) <= 60 else answer.query[:57] + "..."
    lines = [RULE, f"{answer.user} asks {asked!r}", f"  path     {answer.path}"]
    lines.append(f"  persona  {answer.persona or 'none: nothing is known of them'}")
    if answer.user in world.profiles:
        lines.append(f"  profile  {profile_line(answer.user, world)}")
    lines += [f"  note     {note}" for note in answer.notes]
    for place, (title, score) in enumerate(zip(answer.titles, answer.scores, strict=True)):
        short = title if len(title) <= TITLE else title[: TITLE - 3] + "..."
        told = "  ".join(f"{name} {part[place]:+.2f}" for name, part in answer.parts.items())
        lines.append(f"  {place + 1:2d} {score:+6.2f}  {short:{TITLE}}  {told}")
    spent = "  ".join(f"{stage} {ms:.1f}" for stage, ms in answer.latency_ms.items())
    lines.append(f"  latency  {spent}  = {sum(answer.latency_ms.values()):.1f} ms")
    return lines


def profile_line(user: str, world: World) -> str:
    """The profile in a line: what is known of it."""
    profile = world.profiles[user]
    told = [f"{profile['activity']['n_reviews']} events"]
    preferences, language = profile["preferences"], profile["language"]
    if "avg_rating" in preferences:
        told.append(f"rates {preferences['avg_rating']:.1f}")
    if "favorite_categories" in preferences:
        told.append("likes " + ", ".join(preferences["favorite_categories"]))
    if "top_keywords" in language:
        told.append("writes of " + ", ".join(language["top_keywords"]))
    if "sentiment" in language:
        told.append(f"sentiment {language['sentiment']:+.2f}")
    events = world.data.interactions
    if events.time_T is not None:
        own_T = events.time_T[events.user_T == events.users.index(user)]
        when = rhythm(own_T.astype(np.int64))
        told.append("mostly on a " + most(when["weekday"]) + " in " + most(when["season"]))
    return "; ".join(told)


def most(count: Mapping[Any, int]) -> str:
    """The name with the highest count."""
    return str(max(count, key=lambda name: count[name]))


def facts(
    cfg: FlowConfig,
    world: World,
    parts: FlowParts,
    asked: int,
    began: float,
    query: str = "brand and last category of the held-out item",
) -> dict[str, Any]:
    """What every row says beside its numbers.

    cfg: the run's. world: the data set. parts: the flow's. asked: how many people. began: when the run did. query: by
    what they ask.
    """
    sequence = parts.rankers["sequence"]
    return {
        "dataset": world.data.name,
        "protocol": f"leave-one-out, {asked} people; query: {query}",
        "seeds": 1,
        "history_masked": cfg.flow.mask_seen,
        "ties": "the earlier candidate first",
        "epoch": sequence.facts.get("epoch"),
        "wall_s": round(time.perf_counter() - began, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    config.run(main, FlowConfig, __doc__)
