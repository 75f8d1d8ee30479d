"""How well does a recommender rank what came next? One data set, one recommender, several seeds, one row.

    python -m eval.recommend configs/recommend/beauty_item_knn.py
    python -m eval.recommend configs/recommend/beauty_bpr.py --seeds 0 --recommender.opt.lr 3e-3

Fits once for each seed with early stopping on the validation people, then asks all test people. Prints the table and
writes OUT/NAME.json. RUNS/NAME/seed_S/ keeps the recommender and its numbers: a seed that is done is not run again, and
its row says by which code, when and where it was trained.
Which flags --recommender has follows from the recommender that the file chose.
"""

import dataclasses
import functools
import json
import operator
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec import config, ranking
from jaxrec.config import RunError
from jaxrec.data.histories import Split
from jaxrec.data.interaction_sets import DataConfig, InteractionSet, read
from jaxrec.eval.recommend_measures import (
    LIST,
    Measured,
    Protocol,
    SplitBy,
    Vectors,
    ask,
    ask_scores,
    diversity_vectors,
    split,
)
from jaxrec.files import write_json
from jaxrec.recommenders import kinds
from jaxrec.recommenders.popularity import Popularity, PopularityConfig
from jaxrec.results import distinct, kept_origin, origin, print_table, write_results
from jaxrec.world.events import interaction_set
from jaxrec.world.shops import Shops, make_shops

RecommenderConfig = functools.reduce(operator.or_, kinds.config_classes())  # a union of them all
PROTOCOLS = {"full": "full", "sampled-100": "sampled-100 (99 uniform negatives)"}


@dataclasses.dataclass(frozen=True)
class SampleWorld:
    """The sample world's shops as a data set; its oracle and popularity are rows beside the recommender's."""

    seed: int = 0
    people: int = 480


@dataclasses.dataclass(frozen=True)
class RankingConfig:
    """One row of the ranking tables: the data, the recommender, and how it is asked."""

    name: str = "ranking"  # of the file of record and of the run's folder
    model: str = ""  # the row's name; empty: the recommender's kind
    data: DataConfig | SampleWorld = DataConfig("amazon14-beauty")
    recommender: RecommenderConfig = PopularityConfig()
    protocol: Protocol = "full"
    split: SplitBy = "leave_one_out"
    mask_seen: bool = True  # the items of a person's history are not recommended again
    ks: tuple[int, ...] = (5, 10)
    seeds: tuple[int, ...] = (0, 1, 2)  # one run where the recommender leaves nothing to chance
    diversity: Vectors = "auto"  # the item vectors that tell how diverse a list is
    bar: str = ""  # what the row should reach
    peer: str = ""  # and where that number comes from
    runs: str = "runs/recommend"
    out: str = "results/recommend"

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be different numbers, at least one, not {self.seeds}")
        if not {5, 10} <= set(self.ks):
            raise ValueError(f"ks must hold 5 and 10 (the table's columns), not {self.ks}")


def main(cfg: RankingConfig) -> list[dict[str, Any]]:
    """Fits and asks once a seed, prints the table, writes the file of record; gives the rows."""
    begun = time.monotonic()
    data, shops = dataset(cfg.data)
    print(data.summary(), flush=True)
    parts = split(data, cfg.split)
    repeat_B = ranking.repeats(parts.test.histories, parts.test.target_B)
    print(repeats_said(repeat_B, cfg.mask_seen), flush=True)
    by = diversity_vectors(data, parts.train, cfg.diversity, Path(cfg.runs) / "item_texts")
    runs = []
    for seed in seeds_of(cfg):
        runs.append(one_seed(cfg, seed, parts, by[0]))
        said = "  ".join(f"{key} {runs[-1][key]:.4f}" for key in ("R@10", "N@10"))
        print(f"{cfg.name}, seed {seed}: {said}  ({runs[-1]['wall_s']:.1f} s)", flush=True)
    model = cfg.model or kinds.kind_of(cfg.recommender)
    shared = facts(cfg, data, parts) | {"diversity_by": by[1]}
    rows = [{"model": model} | shared | over_seeds(runs) | {"bar": cfg.bar, "peer": cfg.peer}]
    if repeat_B.any():
        rows.append({"model": "echo"} | shared | over_seeds([echo_row(cfg, parts, by[0])]))
    if shops is not None:
        beside = world_rows(cfg, shops, parts, by[0])
        rows += [{"model": name} | shared | over_seeds([run]) for name, run in beside.items()]
    shown = ["model", "seeds", *(key for k in cfg.ks for key in (f"R@{k}", f"N@{k}")), "R@10_sd"]
    shown += ["R@10_new", "R@10_repeat", "R@10_unmasked"] if repeat_B.any() else []
    shown += ["N@10_sd", "coverage", "diversity", "novelty", "epoch", "wall_s", "peak_mb"]
    print_table(rows, shown)
    path = write_results(
        cfg.out, "recommend", rows, config=cfg, seed=cfg.seeds[0],
        wall_s=time.monotonic() - begun, filename=f"{cfg.name}.json",
        command=f"python -m eval.recommend configs/{cfg.name}.py",
    )  # fmt: skip
    print(f"written to {path}")
    return rows


def repeats_said(repeat_B: np.ndarray, mask_seen: bool) -> str:
    """The share of targets that stand in their own history, and what becomes of them."""
    count, rows = int(repeat_B.sum()), len(repeat_B)
    if not count:
        return f"repeats: 0 of {rows:,} targets stand in their history"
    fate = (
        "no list holds them: they count as missed"
        if mask_seen
        else "they are asked for as others are"
    )
    return f"repeats: {count:,} of {rows:,} targets ({count / rows:.2%}) stand in their history; {fate}"


def dataset(cfg: DataConfig | SampleWorld) -> tuple[InteractionSet, Shops | None]:
    """The events, and the planted truth where they are the sample world's."""
    if isinstance(cfg, DataConfig):
        return read(cfg), None
    shops = make_shops(cfg.seed, cfg.people)
    return interaction_set(shops), shops


def seeds_of(cfg: RankingConfig) -> tuple[int, ...]:
    """The config's seeds; the first alone where the recommender has no field of that name."""
    chance = kinds.with_seed(cfg.recommender, 0) != kinds.with_seed(cfg.recommender, 1)
    return cfg.seeds if chance else cfg.seeds[:1]


def one_seed(cfg: RankingConfig, seed: int, parts: Split, vectors: np.ndarray) -> dict[str, Any]:
    """The numbers of one seed, from its folder where they are there already.

    Raises RunError where the folder was made by another config.
    """
    folder = Path(cfg.runs) / cfg.name / f"seed_{seed}"
    kept, mine = folder / "numbers.json", _identity(cfg)
    if kept.is_file():
        found = json.loads(kept.read_text())
        if found["config"] != mine:
            changed = sorted(k for k in mine if found["config"].get(k) != mine[k])
            raise RunError(
                f"{folder} holds a run with another {' and '.join(changed)}: "
                "remove it, or give this one another --name"
            )
        return found["numbers"] | {"trained": found.get("trained") or kept_origin(kept)}
    recommender = kinds.make(kinds.with_seed(cfg.recommender, seed))
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    recommender.fit(parts.train, parts.valid, folder / "fit")
    fitted_s = time.perf_counter() - begun
    found = ask(recommender, parts.test, cfg.protocol, cfg.mask_seen, max(*cfg.ks, LIST))
    numbers = measured(cfg, found, parts, vectors)
    if cfg.mask_seen and cfg.protocol == "full":
        whole = ask(recommender, parts.test, "full", False, max(*cfg.ks, LIST))
        numbers |= unmasked(whole, cfg.ks)
    numbers["epoch"] = recommender.facts.get("epoch")
    numbers["fit_s"] = fitted_s
    numbers["wall_s"] = time.perf_counter() - begun
    numbers["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    recommender.save(folder / "model")
    trained = origin()
    write_json(kept, {"config": mine, "numbers": numbers, "trained": trained})
    return numbers | {"trained": trained}


def measured(
    cfg: RankingConfig, found: Measured, parts: Split, vectors: np.ndarray
) -> dict[str, Any]:
    """R@k and N@k of the ranks, and what the lists of ten are like."""
    lists = ranking.list_measures(found.items_BJ, parts.train, vectors)
    return found.measures(cfg.ks) | dict(lists)


def unmasked(found: Measured, ks: tuple[int, ...]) -> dict[str, float]:
    """The same where the history stands among the rest, as in many published tables (RecBole's sequence models)."""
    return {f"{name}_unmasked": value for name, value in found.measures(ks).items()}


def echo_row(cfg: RankingConfig, parts: Split, vectors: np.ndarray) -> dict[str, Any]:
    """The floor where targets are repeats: the history itself, the latest first."""
    found = ask_scores(ranking.echo, parts.test, cfg.protocol, cfg.mask_seen)
    numbers = measured(cfg, found, parts, vectors)
    if cfg.mask_seen and cfg.protocol == "full":
        numbers |= unmasked(ask_scores(ranking.echo, parts.test, "full", False), cfg.ks)
    return numbers


def world_rows(
    cfg: RankingConfig, shops: Shops, parts: Split, vectors: np.ndarray
) -> dict[str, dict[str, Any]]:
    """What the sample world's popularity and its planted score reach: floor and ceiling."""
    floor = Popularity().fit(parts.train)
    planted = lambda asked: shops.oracle_UI[asked.user_B]
    found = {}
    for name, score in {"popularity": floor.score, "oracle": planted}.items():
        asked = ask_scores(score, parts.test, cfg.protocol, cfg.mask_seen)
        found[name] = measured(cfg, asked, parts, vectors)
    return found


def facts(cfg: RankingConfig, data: InteractionSet, parts: Split) -> dict[str, Any]:
    """What all rows of a run share: the question that was asked."""
    return {
        "dataset": data.name,
        "protocol": PROTOCOLS[cfg.protocol],
        "split": cfg.split,
        "history": "masked" if cfg.mask_seen else "not masked",
        "ties": "against the target",
        "people": len(parts.test),
        "repeats": float(ranking.repeats(parts.test.histories, parts.test.target_B).mean()),
        "items": parts.train.n_items,
    }


def over_seeds(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of every number, and `_sd`, the deviation (n - 1) of the ranking measures; None of a single run.

    `peak_mb` is the highest. It and `wall_s` are of one run. `trained`: the origins of all of them.
    """
    row: dict[str, Any] = {"seeds": len(runs)}
    origins = distinct(run["trained"] for run in runs if "trained" in run)
    for key in [key for key in runs[0] if key != "trained"]:
        values = [run[key] for run in runs if run[key] is not None]
        row[key] = (max if key == "peak_mb" else np.mean)(values) if values else None
        if "@" in key:
            row[f"{key}_sd"] = np.std(values, ddof=1) if len(values) > 1 else None
    plain = {key: value if value is None else float(value) for key, value in row.items()}
    return plain | {"seeds": len(runs)} | ({"trained": origins} if origins else {})


def _identity(cfg: RankingConfig) -> Mapping[str, Any]:
    """What a seed's numbers depend on, as JSON reads it back."""
    told = config.to_dict(cfg)
    for name in ("name", "model", "seeds", "bar", "peer", "runs", "out"):
        del told[name]
    told["kind"] = kinds.kind_of(cfg.recommender)
    return json.loads(json.dumps(told))


if __name__ == "__main__":
    config.run(main, RankingConfig, __doc__)
