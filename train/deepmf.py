"""Fit DeepMF to ratings, tell its RMSE on a fifth of them held out, and save it.

    python -m train.deepmf configs/recommend/deepmf_sample.py
    python -m train.deepmf configs/recommend/deepmf_ml100k.py

OUT/model is what `DeepMF.load` reads: it predicts ratings, folds new people in, and its user vectors make personas.
Log and checkpoints are in OUT.
"""

import dataclasses
from pathlib import Path

import numpy as np

from jaxrec import config, processes, results
from jaxrec.data import splits
from jaxrec.data.histories import Interactions, histories
from jaxrec.data.interaction_sets import DataConfig, read
from jaxrec.processes import HostsConfig
from jaxrec.recommenders.deepmf import DeepMF, DeepMFConfig
from jaxrec.recommenders.side_features import SideFeatures
from jaxrec.world.events import rate_items
from jaxrec.world.shops import make_shops


@dataclasses.dataclass(frozen=True)
class DeepMFTraining:
    """One DeepMF on one data set."""

    data: DataConfig = DataConfig()  # without a name or a path: the sample world's ratings
    model: DeepMFConfig = DeepMFConfig()
    test_share: float = 0.2  # of the ratings, held out at random
    seed: int = 0  # of what is held out
    hosts: HostsConfig = HostsConfig()
    out: str = "runs/deepmf"


def main(cfg: DeepMFTraining) -> dict[str, float]:
    """Fits, saves OUT/model, and gives the RMSE on the ratings held out and the epoch that was kept."""
    processes.start(cfg.hosts)
    events, features = ratings(cfg)
    if events.rating_T is None:
        raise config.ConfigError(f"{cfg.data.path or cfg.data.name} has no ratings to learn")
    train, test = splits.ratio_split(events, cfg.test_share, cfg.seed)
    if not len(train) or not len(test):
        raise config.ConfigError(
            f"{len(events)} ratings are too few to hold {cfg.test_share:g} of them out"
        )
    fitted = DeepMF(cfg.model, features).fit(histories(train), out=cfg.out)
    rating_T = fitted.predict(test.user_T, test.item_T, test.time_T)
    rmse = float(np.sqrt(((rating_T - test.rating_T) ** 2).mean()))
    fitted.save(Path(cfg.out) / "model")
    print(f"RMSE {rmse:.4f} on {len(test):,} ratings held out")
    results.conclude([Path(cfg.out) / "model"])
    return {"rmse": rmse, "epoch": fitted.facts["epoch"]}


def ratings(cfg: DeepMFTraining) -> tuple[Interactions, SideFeatures | None]:
    """The events with their ratings, and side features where the model reads them."""
    if not cfg.data.name and cfg.data.path is None:
        print("no data set is named (--data.path FILE): the people of the sample world", flush=True)
        shops = make_shops()
        catalog = shops.catalog
        tags = [attributes["tags"].split() for attributes in catalog.attributes]
        words = [[*tag, shop] for tag, shop in zip(tags, catalog.shop, strict=True)]
        return rate_items(shops), SideFeatures.of_words([()] * len(shops.people), words)
    data = read(cfg.data)
    print(data.summary(), flush=True)
    told = SideFeatures.of_set(data) if cfg.model.shape.features else None
    return data.interactions, told


if __name__ == "__main__":
    config.run(main, DeepMFTraining, __doc__)
