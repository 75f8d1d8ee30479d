"""Cross-domain recommendation: people who are cold in one shop and known from others.

    python -m eval.recommend configs/recommend/cdrib_game_video.py
    python -m eval.recommend configs/recommend/shops_sample.py

A pair of shops is asked as CDRIB asks (Cao et al., ICDE 2022): each held-out item of a cold person stands against 999
items of its shop, drawn uniformly with replacement, none of which the person took in the test; ties count against the
item. Beside our model stand popularity in the target shop and a linear mapping (EMCDR) between the very factorisations
that our model uses. Intervals are over people, 2000 resamples, and differences are paired. Everything that is chosen is
chosen on the pair's validation items, which are the same people's. The sample world is asked among all items of a shop.

Where the shops list one product twice (`recommend_twins`), the rows that this gives away are left out of a second
table: the claim rests on that one. Nor is anything chosen on validation rows of that kind.
"""

import dataclasses
import resource
import time
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrec import config, metrics, results
from jaxrec.config import ConfigError
from jaxrec.data.histories import Histories, Holdout, Interactions, from_lists, histories
from jaxrec.data.interaction_sets import DataConfig, read
from jaxrec.eval.recommend_twins import touched, twins
from jaxrec.recommenders.cross_domain import CrossDomain, CrossDomainConfig
from jaxrec.recommenders.linear_mapping import LinearMapping
from jaxrec.world.shops import SHOPS, make_shops

KS = (1, 5, 10)
WITHOUT = ", without twins"
SIMULATED = 0.15  # of the sample world's people: their events in one shop are hidden to choose by


@dataclasses.dataclass(frozen=True)
class CrossShopConfig:
    """`data`: a pair of shops; None: the sample world. `targets`: the shops that are recommended in; () for all."""

    name: str = "cross_shop"  # of the file of record
    data: DataConfig | None = None
    targets: tuple[str, ...] = ()
    recommender: CrossDomainConfig = CrossDomainConfig()
    negatives: int = 999
    seeds: tuple[int, ...] = (0,)  # of the factorisation and of the negatives
    draws: int = 2000
    bar: str = ""
    out: str = "results/recommend"


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learned from, and what is asked: test rows are (history, wanted item) of cold people."""

    name: str
    train: Histories
    shop_I: np.ndarray
    shops: tuple[str, ...]
    valid: Holdout
    test: Holdout
    oracle_UI: np.ndarray | None = None


def main(cfg: CrossShopConfig) -> list[dict[str, Any]]:
    """Prints the table and writes it; gives the rows. Raises ConfigError for a shop that is not there."""
    began = time.perf_counter()
    task = sample_world() if cfg.data is None else pair(cfg.data)
    if unknown := set(cfg.targets) - set(task.shops):
        raise ConfigError(f"no shop {sorted(unknown)[0]!r}; there are: {', '.join(task.shops)}")
    targets = [s for s, name in enumerate(task.shops) if not cfg.targets or name in cfg.targets]
    pairs = twins(task.train, (task.valid, task.test), task.shop_I)
    easy_B = touched(task.valid, pairs)
    task = dataclasses.replace(task, valid=task.valid.take(np.flatnonzero(~easy_B)))
    print(
        f"{len(pairs)} pairs of one product under two names; {easy_B.sum()} of {len(easy_B):,} validation rows ask for "
        "the twin of what the person has, and nothing is chosen by them"
    )
    ranks: dict[tuple[int, str], list[np.ndarray]] = {}
    facts: dict[str, Any] = {"twins": {"pairs": len(pairs)}}
    for seed in cfg.seeds:
        model, chosen = fitted(task, cfg, seed)
        facts[f"seed {seed}"] = model.facts
        for s in targets:
            asked = of_shop(task.test, task.shop_I, s)
            candidates = (
                drawn(model.shops[s].items, asked, cfg.negatives, seed) if cfg.data else None
            )
            for row, scores_BW in contenders(task, model, s, asked, chosen).items():
                found = placed(scores_BW, model.shops[s].items, asked, candidates)
                ranks.setdefault((s, row), []).append(found)
    rows, paired = [], []
    for s in targets:
        asked = of_shop(task.test, task.shop_I, s)
        easy_B = touched(asked, pairs)
        facts["twins"][task.shops[s]] = {"rows": int(easy_B.sum()), "of": len(asked)}
        these = {row: found for (shop, row), found in ranks.items() if shop == s}
        ways = {"": np.ones(len(asked), bool)} | ({WITHOUT: ~easy_B} if easy_B.any() else {})
        for way, kept_B in ways.items():
            made, beside = about_shop(task, cfg, s, way, asked, these, kept_B)
            rows += made
            paired += beside
    wall_s = time.perf_counter() - began
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows = [row | {"wall_s": round(wall_s, 1), "peak_mb": round(peak_mb)} for row in rows]
    results.print_table(rows, ("dataset", "model", "MRR", "N@10", "R@1", "R@5", "R@10"))
    print()
    results.print_table(paired)
    path = results.write_results(
        cfg.out, "recommend", rows, paired, cfg, cfg.seeds[0], wall_s,
        filename=f"{cfg.name}.json", fit=facts,
    )  # fmt: skip
    print(f"\n{path}")
    return rows


def about_shop(
    task: Task,
    cfg: CrossShopConfig,
    s: int,
    way: str,
    asked: Holdout,
    ranks: dict[str, list[np.ndarray]],
    kept_B: Bool[np.ndarray, " B"],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A shop's rows and paired differences, of the asked rows that are kept.

    task, cfg: what was asked of whom, and how. s: the shop. way: which rows are kept, in words. asked: its rows. ranks:
    of their targets, by model and seed. kept_B: which rows count.
    """
    person_B = asked.histories.user_B[kept_B]
    kept = {row: [rank_B[kept_B] for rank_B in found] for row, found in ranks.items()}
    made, beside = table(kept, person_B, cfg.draws)
    about = {
        "dataset": f"{task.name}: {task.shops[s]}{way}", "protocol": protocol(cfg),
        "seeds": len(cfg.seeds), "people": len(np.unique(person_B)), "asked": len(person_B),
        "mask_seen": True, "ties": "against the target", "bar": cfg.bar,
    }  # fmt: skip
    return [row | about for row in made], [row | {"dataset": about["dataset"]} for row in beside]


def protocol(cfg: CrossShopConfig) -> str:
    """What a row's numbers mean."""
    if cfg.data is None:
        return "cold people, all items of the shop"
    return f"CDRIB: cold people, {cfg.negatives} negatives drawn uniformly"


def pair(data: DataConfig) -> Task:
    """A pair of shops with its own held-out items. Raises ConfigError for a set without cold people."""
    found = read(data)
    if not {"valid", "test"} <= found.held_out.keys() or found.shop_I is None:
        raise ConfigError(f"{found.name} is no pair of shops with cold people ({found.layout})")
    train = histories(found.interactions)
    held = {part: asked_of(train, events) for part, events in found.held_out.items()}
    return Task(found.name, train, found.shop_I, found.shops, held["valid"], held["test"])


def asked_of(train: Histories, events: Interactions) -> Holdout:
    """Each held-out event, with all that its person did in training."""
    return Holdout(train.take(events.user_T), events.item_T)


def sample_world(seed: int = 0) -> Task:
    """The three shops of the sample world: each thing that a cold person would buy where they never were."""
    world = make_shops(seed)
    shop_I = np.array([list(SHOPS).index(shop) for shop in world.catalog.shop])
    train = from_lists([person.items_T.tolist() for person in world.people], len(shop_I))
    wanted = [(u, item) for u, items in world.cold.items() for item in items.tolist()]
    user_B, item_B = np.array(wanted).T
    rng = np.random.default_rng(seed)
    warm = np.setdiff1d(np.arange(len(train)), list(world.cold))
    hidden = {int(u): int(rng.integers(len(SHOPS))) for u in warm if rng.random() < SIMULATED}
    lists = [row[shop_I[row] != hidden[u]] if u in hidden else row for u, row in enumerate(train)]
    seen = from_lists([row.tolist() for row in lists], len(shop_I))
    gone = [(u, i) for u, s in hidden.items() for i in train[u] if shop_I[i] == s]
    person_B, target_B = np.array(gone).T
    valid = Holdout(seen.take(person_B), target_B)
    return Task(
        "sample world", train, shop_I, tuple(SHOPS), valid, Holdout(train.take(user_B), item_B),
        np.asarray(world.oracle_UI),
    )  # fmt: skip


def fitted(task: Task, cfg: CrossShopConfig, seed: int) -> tuple[CrossDomain, Holdout]:
    """The model, and the validation rows that anything else may choose by.

    In the sample world the validation people's events are in `task.train`: what is chosen without them is fitted with.
    """
    als = dataclasses.replace(cfg.recommender.als, seed=seed)
    how = dataclasses.replace(cfg.recommender, als=als)
    if task.oracle_UI is None:
        return CrossDomain(how, task.shop_I).fit(task.train, task.valid), task.valid
    whole = {int(u): row for u, row in enumerate(task.train)}
    for row, user in enumerate(task.valid.histories.user_B):
        whole[int(user)] = task.valid.histories[row]
    without = from_lists([whole[u].tolist() for u in range(len(task.train))], task.train.n_items)
    tried = CrossDomain(how, task.shop_I).fit(without, task.valid)
    model = CrossDomain(how, task.shop_I).fit(task.train)
    model.chosen, model.facts = tried.chosen, tried.facts
    return model, task.valid


def contenders(
    task: Task, model: CrossDomain, s: int, asked: Holdout, valid: Holdout
) -> dict[str, np.ndarray]:
    """Scores of the shop's items for each row, by model."""
    items = model.shops[s].items
    found = {"popularity": np.tile(model.count_I[items], (len(asked), 1))}
    if len(task.shops) == 2:
        mapping = LinearMapping(model, 1 - s, s).fit(of_shop(valid, task.shop_I, s))
        found["linear mapping"] = mapping.chances(asked.histories)
    found["cross-domain"] = model.chances(asked.histories, s)
    if task.oracle_UI is not None:
        found["oracle"] = task.oracle_UI[asked.histories.user_B][:, items]
    return found


def of_shop(holdout: Holdout, shop_I: Int[np.ndarray, " I"], s: int) -> Holdout:
    """The rows whose target is in a shop."""
    return holdout.take(np.flatnonzero(shop_I[holdout.target_B] == s))


def drawn(
    items: Int[np.ndarray, " W"], asked: Holdout, count: int, seed: int
) -> Int[np.ndarray, "B J"]:
    """Places in `items`, drawn uniformly with replacement, of what each row's person did not take in the test."""
    rng = np.random.default_rng(seed)
    own: dict[int, set[int]] = {}
    place_B = np.searchsorted(items, asked.target_B)
    for user, place in zip(asked.histories.user_B.tolist(), place_B.tolist(), strict=True):
        own.setdefault(user, set()).add(place)
    out_BJ = rng.integers(len(items), size=(len(asked), count))
    for row, user in enumerate(asked.histories.user_B.tolist()):
        taken = np.array(sorted(own[user]))
        while (bad := np.isin(out_BJ[row], taken)).any():
            out_BJ[row, bad] = rng.integers(len(items), size=int(bad.sum()))
    return out_BJ


def placed(
    scores_BW: Float[np.ndarray, "B W"],
    items: Int[np.ndarray, " W"],
    asked: Holdout,
    candidates_BJ: Int[np.ndarray, "B J"] | None,
) -> Int[np.ndarray, " B"]:
    """Each target's place among the candidates, or among all items of the shop."""
    scores_BW = np.asarray(scores_BW, np.float64)
    own_B1 = np.take_along_axis(scores_BW, np.searchsorted(items, asked.target_B)[:, None], 1)
    if candidates_BJ is None:
        return (scores_BW >= own_B1).sum(1)  # the target itself is among them
    return (np.take_along_axis(scores_BW, candidates_BJ, 1) >= own_B1).sum(1) + 1


def table(
    ranks: dict[str, list[np.ndarray]], person_B: Int[np.ndarray, " B"], draws: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row for each model with intervals over people, and ours minus each floor. Seeds are averaged row by row."""
    people, at_B = np.unique(person_B, return_inverse=True)
    size_U = np.bincount(at_B).astype(float)
    weight_SU = metrics.resamples(len(people), draws)
    sums, spread = {}, {}
    for row, seeds in ranks.items():
        found = [gains(rank_B) for rank_B in seeds]
        sums[row] = {
            name: np.bincount(at_B, np.mean([gain[name] for gain in found], 0)) for name in found[0]
        }
        spread[row] = {name: float(np.std([g[name].mean() for g in found])) for name in found[0]}
    share = lambda sum_U: (sum_U.sum() / size_U.sum(), weight_SU @ sum_U / (weight_SU @ size_U))
    rows, paired = [], []
    for row, by_name in sums.items():
        told: dict[str, Any] = {"model": row}
        for name, sum_U in by_name.items():
            value, drawn_S = share(sum_U)
            lo, hi = np.percentile(drawn_S, (2.5, 97.5))
            told |= {
                name: value,
                f"{name}_lo": lo,
                f"{name}_hi": hi,
                f"{name}_sd": spread[row][name],
            }
        rows.append(told)
    for row in set(sums) & {"popularity", "linear mapping"}:
        for name in ("MRR", "N@10", "R@10"):
            value, drawn_S = share(sums["cross-domain"][name] - sums[row][name])
            lo, hi = np.percentile(drawn_S, (2.5, 97.5))
            told = {
                "a": "cross-domain",
                "b": row,
                "metric": name,
                "diff": value,
                "lo": lo,
                "hi": hi,
            }
            paired.append(told)
    return rows, sorted(paired, key=lambda told: (told["b"], told["metric"]))


def gains(rank_B: Int[np.ndarray, " B"]) -> dict[str, np.ndarray]:
    """Reciprocal rank, and hit and discounted gain at each k, by row."""
    found = {"MRR": 1 / rank_B}
    for k in KS:
        hit_B = (rank_B <= k).astype(float)
        found |= {f"R@{k}": hit_B, f"N@{k}": hit_B / np.log2(1 + rank_B)}
    return found


if __name__ == "__main__":
    config.run(main, CrossShopConfig, __doc__)
