"""What personal re-ranking is worth: held-out items asked for by their brand and category words, in each way.

Those words are the item's own. Beside them stand rows whose query is what another person wrote of the item
(`World.words_of_others`).
"""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrec import ranking
from jaxrec.data.histories import Holdout
from jaxrec.eval.flow_parts import World
from jaxrec.recommenders.flow import (
    STAGES,
    Candidates,
    FlowParts,
    FlowSettings,
    FlowWeights,
    Pipeline,
    weigh,
)
from jaxrec.recommenders.flow.fitting import GRID
from jaxrec.recommenders.flow.query import Query, read_query

LIST = 10
ONE_BLOCK = 512


@dataclasses.dataclass(frozen=True)
class Asked:
    """Held-out rows with the candidates that each way of gathering them found, row by row."""

    holdout: Holdout
    queries: tuple[str, ...]
    raw: list[Candidates]  # all that the search found
    spec: list[Candidates]  # GenRec's rule: 30 found, 10 kept by distance
    own: list[Candidates]  # the flow's own settings
    silent: list[Candidates]  # the flow's own settings, nothing asked
    silent_raw: list[Candidates]  # nothing asked, no diversity


def settings_as_specified(own: FlowSettings) -> FlowSettings:
    """30 found, pairs above 0.95 lose one, the 10 most distant kept."""
    return dataclasses.replace(
        own, candidates=30, diverse=10, k=10, method="distance", duplicate=0.95
    )


def settings_without_diversity(own: FlowSettings) -> FlowSettings:
    """All candidates stay, in the order of the search."""
    return dataclasses.replace(own, diverse=own.candidates, method="mmr", lam=1.0, duplicate=1.0)


def ask(
    world: World,
    parts: FlowParts,
    settings: FlowSettings,
    holdout: Holdout,
    queries: tuple[str, ...] | None = None,
) -> Asked:
    """Gathers the candidates of every held-out row in each way; encoder and rankers run over all rows at once.

    Args:
      world: the data set.
      parts: what the flow is made of.
      settings: the flow's own.
      holdout: who is asked, and for what.
      queries: of each row, "" for none; without them the item's brand and category.
    """
    if queries is None:
        queries = tuple(world.query_for(int(item)) for item in holdout.target_B)
    reads = {
        text: read_query(text, settings.scripts, settings.longest_query) for text in set(queries)
    }
    known = sorted({read.text for read in reads.values() if read.text})
    vector_of = dict(zip(known, parts.encode(known), strict=True)) if known else {}
    parts = dataclasses.replace(parts, encode=lambda texts: np.stack([vector_of[t] for t in texts]))
    flows = [
        Pipeline(parts, settings_without_diversity(settings)),
        Pipeline(parts, settings_as_specified(settings)),
        Pipeline(parts, settings),
    ]
    found: list[list[Candidates]] = [[] for _ in range(5)]
    for start in range(0, len(holdout), ONE_BLOCK):
        rows = np.arange(start, min(start + ONE_BLOCK, len(holdout)))
        block = holdout.histories.take(rows)
        scores = {name: np.asarray(r.score(block)) for name, r in parts.rankers.items()}
        for place, row in enumerate(rows):
            history = block.take(np.array([place]))
            score_I = {name: score[place] for name, score in scores.items()}
            for ways, flow in zip(found, flows, strict=False):
                ways.append(flow.gather(history, reads[queries[row]], score_I))
            found[3].append(flows[2].gather(history, Query(""), score_I))
            found[4].append(flows[0].gather(history, Query(""), score_I))
    return Asked(holdout, queries, *found)


def chosen_weights(asked: Asked, rankers: Mapping[str, Any]) -> FlowWeights:
    """Of a small grid, the weights with the best N@10 of the whole flow on validation rows; text counts 1."""
    best, chosen = -1.0, FlowWeights()
    for deepmf in GRID if "deepmf" in rankers else (0.0,):
        for sequence in GRID if "sequence" in rankers else (0.0,):
            weights = FlowWeights(1.0, deepmf, sequence)
            value = measured(lists(asked.own, weights), asked)["N@10"]
            if value > best:
                best, chosen = value, weights
    return chosen


def lists(found: list[Candidates], weights: FlowWeights | None) -> np.ndarray:
    """The ten best of each row by these weights; None: in the order in which they were found."""
    out_BJ = np.full((len(found), LIST), -1, np.int64)
    for row, candidates in enumerate(found):
        order = np.arange(len(candidates.items))
        if weights is not None:
            order = np.argsort(-weigh(candidates.scores, weights)[0], kind="stable")
        best = candidates.items[order[:LIST]]
        out_BJ[row, : len(best)] = best
    return out_BJ


def measured(items_BJ: np.ndarray, asked: Asked) -> dict[str, float]:
    """R@5, N@5, R@10, N@10 of lists of ten."""
    return ranking.measures(ranking.ranks_in_lists(items_BJ, asked.holdout.target_B))


def rows(
    asked: Asked, world: World, parts: FlowParts, weights: FlowWeights, silent: bool = True
) -> list[dict[str, Any]]:
    """One row for each way of answering, all on the same people and queries.

    Args:
      asked: the candidates.
      world: the data set.
      parts: what the flow is made of.
      weights: of the rankers.
      silent: the rows without a query too.
    """
    text, none = FlowWeights(1.0, 0.0, 0.0), 0.0
    alone = {
        "deepmf": FlowWeights(none, 1.0, none),
        "sequence": FlowWeights(none, none, 1.0),
    }
    ways: dict[str, tuple[list[Candidates], FlowWeights | None]] = {
        "search alone": (asked.raw, text),
        "search + diversity as specified (30 to 10)": (asked.spec, None),
        "the same, its ten re-ranked": (asked.spec, weights),
    }
    for name in parts.rankers:
        own = FlowWeights(**{"text": 1.0, "deepmf": none, "sequence": none, name: 1.0})
        ways[f"search, re-ranked by {name}"] = (asked.raw, own)
    ways["search, re-ranked by all"] = (asked.raw, weights)
    ways["the flow (with its diversity)"] = (asked.own, weights)
    if silent:
        ways["the flow, no query"] = (asked.silent, weights)
    for name in parts.rankers if silent else ():
        ways[f"{name} alone, no query"] = (asked.silent_raw, alone[name])
    vectors_ID = parts.vectors(np.arange(len(parts.titles)))
    told = []
    for name, (found, how) in ways.items():
        items_BJ = lists(found, how)
        there = [t in c.items for t, c in zip(asked.holdout.target_B, found, strict=True)]
        told.append(
            {
                "model": name,
                **measured(items_BJ, asked),
                "found": float(np.mean(there)),
                **ranking.list_measures(items_BJ, world.split.train, vectors_ID),
            }
        )
    return told


def latency(flow: Pipeline, world: World, holdout: Holdout, count: int) -> list[dict[str, Any]]:
    """p50 and p95 in milliseconds by stage, over requests that come one at a time; the first ones warm up."""
    users = world.data.interactions.users
    spent: dict[str, list[float]] = {stage: [] for stage in (*STAGES, "total")}
    warm = min(5, len(holdout))
    for n in range(count + warm):
        row = n % len(holdout)
        began = time.perf_counter()
        answer = flow.answer(
            users[holdout.histories.user_B[row]], world.query_for(int(holdout.target_B[row]))
        )
        total = 1e3 * (time.perf_counter() - began)
        if n >= warm:
            for stage, ms in {**answer.latency_ms, "total": total}.items():
                spent[stage].append(ms)
    return [
        {
            "stage": stage,
            "p50_ms": float(np.percentile(ms, 50)),
            "p95_ms": float(np.percentile(ms, 95)),
        }
        for stage, ms in spent.items()
    ]
