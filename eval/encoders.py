"""Which encoder finds the right text? Words against sentence encoders, each alone, on questions with one right text.

    python -m eval.encoders configs/search/encoders.py
    python -m eval.encoders configs/search/encoders.py --sets bank-faqs --encoders bm25 minilm

Every query is compared with all texts of its set (`jaxrec.data.readers.retrieval_sets`); a text scored like the right
one stands before it. An encoder is "bm25" (stems, Okapi's formula) or what `SentenceEncoder.load` takes: "minilm",
"mpnet", a folder, a hub id. Nothing is tuned, so there is nothing to hold out; intervals are 95 %, bootstrap over
queries, and the gaps between encoders are paired. Writes OUT/SET.json, a file for each set.
"""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxrec import config, ranking
from jaxrec.config import RunError
from jaxrec.data.readers import retrieval_sets
from jaxrec.data.readers.retrieval_sets import RetrievalSet
from jaxrec.files import content_hash, open_atomically
from jaxrec.results import print_table, write_results

WORDS = "bm25"
KS = (1, 5, 10)
MEASURES = (*(f"R@{k}" for k in KS), "mrr")


@dataclasses.dataclass(frozen=True)
class EncodersConfig:
    """Which encoders on which sets."""

    sets: tuple[str, ...] = tuple(retrieval_sets.SETS)
    encoders: tuple[str, ...] = (WORDS, "minilm", "mpnet")  # gaps are those to the last one
    draws: int = 2000  # of the bootstrap
    seed: int = 0
    cache: str = "~/.cache/jaxrec/sentences"  # vectors, by a hash of encoder and texts
    out: str = "results/encoders"


def main(cfg: EncodersConfig) -> list[Path]:
    """Measures, prints and writes set by set; gives the files. Raises RunError for an unknown set or no encoder."""
    if not cfg.encoders or len(set(cfg.encoders)) < len(cfg.encoders):
        raise RunError("encoders: name one or more, each once, such as bm25 minilm mpnet")
    for (
        name
    ) in cfg.encoders:  # an encoder that isn't there is told before others have read for minutes
        if name != WORDS:
            folder_of(name)
    sets = [retrieval_sets.read(name) for name in dict.fromkeys(cfg.sets)]
    return [measured(cfg, one) for one in sets]


def measured(cfg: EncodersConfig, one: RetrievalSet) -> Path:
    """One set by all encoders; the file's path."""
    began = time.perf_counter()
    print(f"{one.name}: {len(one.queries):,} queries, {len(one.texts):,} texts", flush=True)
    rank = {name: ranks(name, one, Path(cfg.cache)) for name in cfg.encoders}
    rows, paired = compared(rank, cfg.draws, cfg.seed)
    size = {"set": one.name, "queries": len(one.queries), "texts": len(one.texts)}
    rows = [size | row for row in rows]
    print_table(rows, ("row", *MEASURES))
    path = write_results(
        cfg.out, "encoders", rows, [{"dataset": one.name, **pair} for pair in paired], cfg, cfg.seed,
        time.perf_counter() - began, filename=f"{one.name}.json", headline=cfg.encoders[-1],
        command="python -m eval.encoders configs/search/encoders.py"
        f" --sets {one.name} --encoders {' '.join(cfg.encoders)}",
    )  # fmt: skip
    print(f"wrote {path}\n", flush=True)
    return path


def ranks(name: str, one: RetrievalSet, cache: Path) -> Int[np.ndarray, "N"]:
    """The place of each query's right text by one encoder, from 1."""
    if name == WORDS:
        from jaxrec.retrieval.passages.word_index import WordIndex

        index = WordIndex.build(one.texts)
        scores_NI = np.stack([index.scores(query) for query in one.queries])
    else:
        q_ND, i_ID = (vectors(name, texts, cache) for texts in (one.queries, one.texts))
        scores_NI = q_ND @ i_ID.T
    return ranking.ranks(scores_NI, one.right_N)


def folder_of(name: str) -> Path:
    """Where an encoder lies. Raises ModelMissing."""
    from jaxrec.hub import find
    from jaxrec.hub.minilm import minilm_folder

    return minilm_folder() if name == "minilm" else find(name)


def vectors(name: str, texts: list[str], cache: Path) -> Float[np.ndarray, "I D"]:
    """The vectors of texts, kept under a hash of them and of the encoder's own weights."""
    from jaxrec.models.language.model_folder import base_hash
    from jaxrec.models.text.sentence import SentenceEncoder

    folder = folder_of(name)
    key = content_hash(base_hash(folder), *texts, digits=32)
    path = cache.expanduser() / f"{key}.npy"
    if not path.is_file():
        print(f"{name} reads {len(texts):,} texts, once", flush=True)
        found = SentenceEncoder.load(folder)(texts)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_atomically(path, "wb") as file:
            np.save(file, found)
    return np.load(path)


def compared(
    rank: Mapping[str, Int[np.ndarray, "N"]], draws: int, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(a row an encoder: each measure with its interval; the gaps of the last encoder to the others)."""
    gains = {name: gains_of(rank_N) for name, rank_N in rank.items()}
    n = len(next(iter(rank.values())))
    # How often each query is drawn: the same for all encoders, so that gaps are of the same queries.
    weight_SN = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), draws) / n
    rows = []
    for name, gain_MN in gains.items():
        lo_M, hi_M = np.percentile(weight_SN @ gain_MN.T, (2.5, 97.5), axis=0)
        row: dict[str, Any] = {"row": name}
        for m, measure in enumerate(MEASURES):
            bounds = {f"{measure}_lo": float(lo_M[m]), f"{measure}_hi": float(hi_M[m])}
            row |= {measure: float(gain_MN[m].mean())} | bounds
        rows.append(row)
    *others, last = gains
    paired = []
    for other in others:
        gap_MN = gains[last] - gains[other]
        lo_M, hi_M = np.percentile(weight_SN @ gap_MN.T, (2.5, 97.5), axis=0)
        for m, measure in enumerate(MEASURES):
            pair = {"a": last, "b": other, "metric": measure, "diff": float(gap_MN[m].mean())}
            paired.append(pair | {"lo": float(lo_M[m]), "hi": float(hi_M[m])})
    return rows, paired


def gains_of(rank_N: Int[np.ndarray, "N"]) -> Float[np.ndarray, "M N"]:
    """What each query counts in each of MEASURES."""
    return np.stack([*(rank_N <= k for k in KS), 1 / rank_N]).astype(np.float64)


if __name__ == "__main__":
    config.run(main, EncodersConfig, __doc__)
