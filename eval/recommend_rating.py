"""Predicted ratings: RMSE and MAE of DeepMF beside its floors, over random folds or the published ones.

    python -m eval.recommend_rating configs/recommend/ml100k_deepmf.py      # DeepMF exactly as specified
    python -m eval.recommend_rating configs/recommend/ml100k_best.py        # random 5-fold, the best variants
    python -m eval.recommend_rating configs/recommend/ml100k_u1.py          # u1.base / u1.test

"5-fold": random parts of all ratings, each held out once (Surprise's KFold); a value is the mean over folds, and its
deviation that over seeds. "blocks": five blocks of the file's order, which in ML-100K are u1 .. u5. No number of a
test part is looked at before the end: epochs are chosen on ratings cut from the training part (`fit.valid_share`), and
a model with `refit` is then trained on that whole part. A model of several members is the mean of their predictions
and says so. `timed`: the model also reads *when* the rating asked for was given, and training ratings given around it.
"""

import dataclasses
import json
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxrec import config, files, results
from jaxrec.data import splits
from jaxrec.data.histories import Interactions, histories
from jaxrec.data.interaction_sets import DataConfig, read
from jaxrec.eval.rating_floors import bias_floor, mean_floor, svd_floor
from jaxrec.recommenders.deepmf import DeepMF, DeepMFConfig
from jaxrec.recommenders.side_features import SideFeatures

Predict = Callable[[Interactions, Interactions, int], tuple[np.ndarray, list[int]]]


@dataclasses.dataclass(frozen=True)
class RatingModel:
    """A row of the table: one DeepMF, or several whose predictions are averaged."""

    name: str
    members: tuple[DeepMFConfig, ...]


@dataclasses.dataclass(frozen=True)
class RatingConfig:
    """One table of predicted ratings."""

    name: str = "ratings"  # the file of results, and of parts under `runs`
    data: DataConfig = DataConfig("ml-100k")
    protocol: Literal["5-fold", "blocks"] = "5-fold"
    folds: tuple[int, ...] = (0, 1, 2, 3, 4)  # which of the five are held out
    fold_seed: int = 0
    models: tuple[RatingModel, ...] = (RatingModel("DeepMF as specified", (DeepMFConfig(),)),)
    floors: bool = True
    seeds: tuple[int, ...] = (0, 1, 2)  # of the models; the folds stay
    bar: str = ""
    peer: str = ""
    runs: str = (
        "runs/recommend"  # finished parts are kept here, so that a run goes on where it stopped
    )
    out: str = "results/recommend"


def main(cfg: RatingConfig) -> list[dict[str, Any]]:
    """Fits every model on every fold and seed, writes OUT/NAME.json and gives its rows."""
    if not cfg.seeds or not cfg.models or not set(cfg.folds) <= set(range(5)) or not cfg.folds:
        raise config.ConfigError("name at least one model, one seed, and folds out of 0..4")
    began = time.perf_counter()
    data = read(cfg.data)
    events = data.interactions
    if events.rating_T is None:
        raise config.ConfigError(f"{data.name} has no ratings to predict")
    print(data.summary(), flush=True)
    if len(events) < 10:
        raise config.ConfigError(f"{data.name}: {len(events)} ratings are too few for five parts")
    cut = (
        splits.folds(events, 5, cfg.fold_seed)
        if cfg.protocol == "5-fold"
        else splits.block_folds(events, 5)
    )
    parts = [cut[fold] for fold in cfg.folds]
    features = SideFeatures.of_set(data)
    low, high = float(events.rating_T.min()), float(events.rating_T.max())
    rows = []
    for name, predict, seeds, facts in contenders(cfg, features):
        told = dict(
            facts, data=config.to_dict(cfg.data), protocol=cfg.protocol, fold_seed=cfg.fold_seed
        )
        found = [
            part_of(cfg, name, told, predict, fold, seed, *parts[n], (low, high))
            for seed in seeds
            for n, fold in enumerate(cfg.folds)
        ]
        rows.append(row_of(cfg, data.name, name, facts, found, len(seeds)))
        results.print_table(rows[-1:], ["model", "RMSE", "RMSE_sd", "MAE", "epoch", "wall_s"])
    results.write_results(
        cfg.out, "recommend", rows, config=cfg, wall_s=time.perf_counter() - began,
        filename=f"{cfg.name}.json", bar=cfg.bar, peer=cfg.peer,
    )  # fmt: skip
    return rows


def contenders(
    cfg: RatingConfig, features: SideFeatures
) -> list[tuple[str, Predict, tuple[int, ...], dict[str, Any]]]:
    """(name, predict, seeds, what tells this model from another) of each row; biases and means have no seed."""
    floors: list[tuple[str, Predict, tuple[int, ...], dict[str, Any]]] = []
    if cfg.floors:
        plain = lambda floor: lambda train, test, seed: (floor(train, test), [])
        seeded = lambda train, test, seed: (svd_floor(train, test, seed), [20])
        floors = [
            ("global mean", plain(mean_floor), cfg.seeds[:1], {}),
            ("damped biases", plain(bias_floor), cfg.seeds[:1], {}),
            ("biased MF (Surprise's SVD, SGD)", seeded, cfg.seeds, {}),
        ]
    models = [
        (
            model.name,
            lambda train, test, seed, model=model: deepmf(model, features, train, test, seed),
            cfg.seeds,
            {
                "members": [config.to_dict(member) for member in model.members],
                "timed": any(member.shape.context for member in model.members),
            },
        )
        for model in cfg.models
    ]
    return floors + models


def deepmf(
    model: RatingModel, features: SideFeatures, train: Interactions, test: Interactions, seed: int
) -> tuple[np.ndarray, list[int]]:
    """Mean prediction of a model's members, and the epochs that each was trained for."""
    rows, total, epochs = histories(train), np.zeros(len(test)), []
    for number, member in enumerate(model.members):
        own = dataclasses.replace(member.fit, seed=1000 * seed + number)
        fitted = DeepMF(dataclasses.replace(member, fit=own), features).fit(rows)
        total += fitted.predict(test.user_T, test.item_T, test.time_T)
        epochs.append(fitted.facts["epoch"])
    return total / len(model.members), epochs


def part_of(
    cfg: RatingConfig, name: str, told: Mapping[str, Any], predict: Predict, fold: int, seed: int,
    train: Interactions, test: Interactions, limits: tuple[float, float],
) -> dict[str, Any]:  # fmt: skip
    """One fold with one seed; read from RUNS where this very part was finished before."""
    key = files.content_hash(json.dumps([name, told], sort_keys=True), digits=12)
    path = Path(cfg.runs) / cfg.name / f"{key}_fold_{fold}_seed_{seed}.json"
    if path.is_file():
        return {"trained": results.kept_origin(path)} | json.loads(path.read_text())
    began = time.perf_counter()
    rating_T, epochs = predict(train, test, seed)
    error_T = np.clip(rating_T, *limits) - test.rating_T
    part = {
        "model": name, "fold": fold, "seed": seed, "epochs": epochs,
        "rmse": float(np.sqrt((error_T**2).mean())), "mae": float(np.abs(error_T).mean()),
        "wall_s": time.perf_counter() - began,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "trained": results.origin(),
    }  # fmt: skip
    files.write_json(path, part)
    return part


def row_of(
    cfg: RatingConfig,
    dataset: str,
    name: str,
    facts: Mapping[str, Any],
    parts: list[dict[str, Any]],
    seeds: int,
) -> dict[str, Any]:
    """A row: means over folds, then mean and deviation over seeds; the deviation over folds beside it."""
    shape = (seeds, len(cfg.folds))
    rmse, mae = (np.array([part[key] for part in parts]).reshape(shape) for key in ("rmse", "mae"))
    spread = lambda x: float(x.std(ddof=1)) if len(x) > 1 else None
    where = (
        f"random 5-fold (seed {cfg.fold_seed})"
        if cfg.protocol == "5-fold"
        else "blocks of the file"
    )
    named = [f"u{f + 1}" if cfg.protocol == "blocks" else str(f + 1) for f in cfg.folds]
    wall, peak = sum(part["wall_s"] for part in parts), max(part["peak_mb"] for part in parts)
    epochs = [epoch for part in parts for epoch in part["epochs"]]
    return {
        "model": name, "dataset": dataset, "protocol": f"{where}, held out: {', '.join(named)}",
        "seeds": seeds, "folds": len(cfg.folds), "members": len(facts.get("members", ())) or None,
        "timed": facts.get("timed", False),
        "RMSE": float(rmse.mean()), "RMSE_sd": spread(rmse.mean(1)), "RMSE_sd_folds": spread(rmse.mean(0)),
        "MAE": float(mae.mean()), "MAE_sd": spread(mae.mean(1)),
        "epoch": float(np.mean(epochs)) if epochs else None,
        "wall_s": round(wall, 1), "peak_mb": round(peak),
        "trained": results.distinct(part["trained"] for part in parts),
    }  # fmt: skip


if __name__ == "__main__":
    config.run(main, RatingConfig, __doc__)
