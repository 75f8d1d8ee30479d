"""Train a generative recommender: semantic ids in, the next item's codes out; stops by beam search on validation.

    python -m train.generative_rec configs/recommend/generative_sample.py
    python -m train.generative_rec configs/recommend/generative_sample.py --recommender.model.form flat --out runs/flat

OUT/model is what the recommender's `load` reads. A row of the tables comes from
`python -m eval.recommend configs/recommend/beauty_generative.py`.
"""

import dataclasses
from pathlib import Path

from jaxrec import config, ranking, results
from jaxrec.data.histories import histories, leave_one_out
from jaxrec.data.interaction_sets import DataConfig, read
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
    named = cfg.data.name or cfg.data.path
    if not named:
        print("no data set is named (--data.path FILE): the people of the sample world", flush=True)
    found = read(cfg.data) if named else interaction_set(make_shops())
    print(found.summary(), flush=True)
    split = leave_one_out(histories(found.interactions))
    out = Path(cfg.out)
    fitted = GenerativeRec(cfg.recommender).fit(split.train, split.valid, out / "fit")
    fitted.save(out / "model")
    listed = fitted.recommend(split.test.histories, 10, mask_seen=cfg.recommender.mask_seen)
    measures = ranking.measures(ranking.ranks_in_lists(listed.items_BJ, split.test.target_B))
    print(", ".join(f"{name} {value:.4f}" for name, value in measures.items()))
    print(", ".join(f"{name} {value}" for name, value in fitted.facts.items()))
    results.conclude([out / "model"])
    return measures


if __name__ == "__main__":
    config.run(main, TrainGenerativeRecConfig, __doc__)
