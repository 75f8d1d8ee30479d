"""Make semantic ids for a catalogue: texts to vectors, vectors to codes, every item's tuple its own.

    python -m train.semantic_id configs/recommend/beauty_semantic_id.py
    python -m train.semantic_id configs/recommend/beauty_semantic_id.py --ids.kind rqkmeans

OUT/codes.npy is the table, OUT/facts.json says how it is: collisions before and after, usage and perplexity of each
level, and the part of the vectors' variance that the codes leave unexplained. beauty_generative reads it.
"""

import dataclasses
from pathlib import Path

import numpy as np

from jaxrec import config, results
from jaxrec.data.histories import histories, leave_one_out
from jaxrec.data.interaction_sets import DataConfig, read
from jaxrec.data.item_codes import ItemCodesError
from jaxrec.recommenders.item_codes import (
    SemanticIdConfig,
    make,
    taken_together,
    text_vectors,
)


@dataclasses.dataclass(frozen=True)
class TrainSemanticIdConfig:
    """Whose items, and how they are coded."""

    data: DataConfig = DataConfig("amazon14-beauty")
    texts: bool = True  # vectors of the items' texts
    encoder: str = ""  # of them: MiniLM, or "mpnet", a folder, a hub id
    together: int = 0  # and dimensions of who is taken near whom, of the training part alone
    ids: SemanticIdConfig = SemanticIdConfig()
    out: str = "runs/semantic_id"


def main(cfg: TrainSemanticIdConfig) -> dict[str, object]:
    """Writes the table and gives its facts. Raises ItemCodesError where there is nothing to make vectors of."""
    found = read(cfg.data)
    print(found.summary(), flush=True)
    parts = []
    if cfg.texts:
        texts = found.items.texts()
        if not texts:
            raise ItemCodesError(
                f"{found.name} has no texts of its items: take --together 64 --no-texts"
            )
        parts.append(text_vectors(texts, cfg.ids.tokens, cfg.encoder))
    if cfg.together:
        train = leave_one_out(histories(found.interactions)).train
        parts.append(taken_together(train, cfg.together))
    if not parts:
        raise ItemCodesError("neither texts nor together: there is nothing to make vectors of")
    codes = make(np.concatenate(parts, axis=1), cfg.ids, Path(cfg.out) / "fit")
    codes.save(cfg.out)
    for name, value in codes.facts.items():
        print(f"{name:18} {value}")
    results.conclude([cfg.out])
    return dict(codes.facts)


if __name__ == "__main__":
    config.run(main, TrainSemanticIdConfig, __doc__)
