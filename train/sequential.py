"""Train a sequence recommender (SASRec, HSTU or GRU) on packed histories, and say how it ranks.

    python -m train.sequential configs/recommend/sequential_sample.py
    python -m train.sequential --data.name amazon14-beauty --recommender.loss.kind full
    python -m train.sequential --data.path runs/store                  a store of histories (jaxrec.data.tokenise)

Leave-one-out: each person's last item is the test's, the one before decides when to stop. Writes OUT/model, which
`Sequential.load` reads, and the run's log and checkpoints to OUT/fit; a run that was stopped goes on.
"""

import dataclasses
from pathlib import Path

import numpy as np

from jaxrec import config, ranking, results
from jaxrec.data.histories import Histories, from_lists, histories, leave_one_out
from jaxrec.data.interaction_sets import DataConfig, read
from jaxrec.data.store.events import open_histories, summary
from jaxrec.data.store.manifest import is_store
from jaxrec.recommenders.sequential import Sequential, SequentialConfig
from jaxrec.world.shops import make_shops


@dataclasses.dataclass(frozen=True)
class TrainSequentialConfig:
    """A run on one data set."""

    data: DataConfig = DataConfig()  # without a name and a path: the people of the sample world
    recommender: SequentialConfig = SequentialConfig()
    out: str = "runs/sequential"


def main(cfg: TrainSequentialConfig) -> dict[str, float]:
    """Fits, saves OUT/model, and gives Recall and NDCG of the test people, ranked among all items."""
    split = leave_one_out(people(cfg.data))
    out = Path(cfg.out)
    fitted = Sequential(cfg.recommender).fit(split.train, split.valid, out / "fit")
    fitted.save(out / "model")
    found = ranking.measures(fitted.ranks(split.test, cfg.recommender.mask_seen))
    print(", ".join(f"{name} {value:.4f}" for name, value in found.items()))
    print(", ".join(f"{name} {value}" for name, value in fitted.facts.items()))
    results.conclude([out / "model"])
    return found


def people(data: DataConfig) -> Histories:
    """The histories of a data set or a store, or those of the sample world's people where none is named."""
    if data.path and is_store(str(data.path)):
        print(summary(str(data.path)), flush=True)
        return open_histories(str(data.path))
    if data.name or data.path:
        found = read(data)
        print(found.summary(), flush=True)
        return histories(found.interactions)
    print("no data set is named (--data.path FILE): the people of the sample world", flush=True)
    shops = make_shops()
    rows = from_lists([person.items_T for person in shops.people], len(shops.catalog))
    times_T = np.concatenate([person.times_T for person in shops.people])
    return dataclasses.replace(rows, time_T=times_T)


if __name__ == "__main__":
    config.run(main, TrainSequentialConfig, __doc__)
