"""Train a generative recommender: semantic ids in, the next item's codes out; stops by beam search on validation.

    python -m train.generative_rec configs/recommend/generative_sample.py
    python -m train.generative_rec configs/recommend/generative_sample.py --recommender.model.form flat --out runs/flat

OUT/model is what the recommender's `load` reads. A row of the tables comes from
`python -m eval.recommend configs/recommend/beauty_generative.py`.
"""

import dataclasses
from pathlib import Path

from jaxrec import config, ranking, results
from jaxrec.data.histories import Histories, histories, leave_one_out
from jaxrec.data.interaction_sets import DataConfig, read
from jaxrec.data.store.events import open_histories, summary
from jaxrec.data.store.manifest import is_store
from jaxrec.recommenders.generative_rec import GenerativeRec, GenerativeRecConfig
from jaxrec.world.events import interaction_set
from jaxrec.world.shops import make_shops


@dataclasses.dataclass(frozen=True)
class TrainGenerativeRecConfig:
    """A run on one data set."""

    data: DataConfig = DataConfig()  # without a name and a path: the people of the sample world
    recommender: GenerativeRecConfig = GenerativeRecConfig()
    out: str = "runs/generative_rec"


def main(cfg: TrainGenerativeRecConfig) -> dict[str, float]:
    """Fits, saves OUT/model, and gives Recall and NDCG of the test people's lists, ranked among all items."""
    split = leave_one_out(people(cfg.data))
    out = Path(cfg.out)
    fitted = GenerativeRec(cfg.recommender).fit(split.train, split.valid, out / "fit")
    fitted.save(out / "model")
    listed = fitted.recommend(split.test.histories, 10, mask_seen=cfg.recommender.mask_seen)
    measures = ranking.measures(ranking.ranks_in_lists(listed.items_BJ, split.test.target_B))
    print(", ".join(f"{name} {value:.4f}" for name, value in measures.items()))
    print(", ".join(f"{name} {value}" for name, value in fitted.facts.items()))
    results.conclude([out / "model"])
    return measures


def people(data: DataConfig) -> Histories:
    """The histories of a data set or of a store (read whole), or of the sample world's people where none is named."""
    if data.path and is_store(str(data.path)):
        print(summary(str(data.path)), flush=True)
        return open_histories(str(data.path)).in_memory()
    named = data.name or data.path
    if not named:
        print("no data set is named (--data.path FILE): the people of the sample world", flush=True)
    found = read(data) if named else interaction_set(make_shops())
    print(found.summary(), flush=True)
    return histories(found.interactions)


if __name__ == "__main__":
    config.run(main, TrainGenerativeRecConfig, __doc__)
