"""Floor 1: semantic ids: every item as a short tuple of codes, coarse to fine (TIGER, Rajput 2023). Plain numpy.

Row i of a table holds item i's codes, one a level. Quantising gives the same tuple to items that are much alike
(collisions); a generative recommender must tell them apart, so one of two ways makes all tuples distinct:

    extra code   a further level numbers the items of a tuple 0, 1, 2, ... (the paper's)
    reassign     the items of a tuple but the closest one take the nearest free code of the last level
"""

import dataclasses
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxrec.config import RunError


class ItemCodesError(RunError, ValueError):
    """A table of semantic ids that cannot be read, or cannot be made distinct."""


@dataclasses.dataclass(frozen=True)
class ItemCodes:
    """`codes_IQ` (level q holds 0...sizes[q]-1) and what is known of how they were made."""

    codes_IQ: np.ndarray
    sizes: tuple[int, ...]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.codes_IQ.ndim != 2 or self.codes_IQ.shape[1] != len(self.sizes):
            raise ItemCodesError(
                f"codes of shape {self.codes_IQ.shape} for {len(self.sizes)} levels"
            )
        if len(self.codes_IQ) and (
            self.codes_IQ.min() < 0 or (self.codes_IQ.max(0) >= self.sizes).any()
        ):
            raise ItemCodesError(f"a code lies outside its level's {self.sizes}")

    def __len__(self) -> int:
        return len(self.codes_IQ)

    @property
    def levels(self) -> int:
        """Q, how many codes name an item."""
        return len(self.sizes)

    def save(self, folder: str | Path) -> None:
        """Writes FOLDER/codes.npy and FOLDER/facts.json."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "codes.npy", self.codes_IQ.astype(np.int32))
        facts = {**self.facts, "sizes": list(self.sizes)}
        (folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")


def load(folder: str | Path) -> ItemCodes:
    """What `save` wrote. Raises ItemCodesError where the folder is not whole."""
    folder = Path(folder)
    try:
        facts = json.loads((folder / "facts.json").read_text())
        codes_IQ = np.load(folder / "codes.npy")
        return ItemCodes(codes_IQ.astype(np.int64), tuple(facts.pop("sizes")), facts)
    except (OSError, ValueError, KeyError) as error:
        raise ItemCodesError(
            f"no table of semantic ids can be read in {folder} ({error}): make one with jaxrec.train.semantic_id"
        ) from error


def read_published(path: str | Path, n_items: int) -> ItemCodes:
    """LETTER's files (plain or gzip): {"item number": ["<a_183>", "<b_70>", ...]}, numbers from 0, levels by letter.

    Raises ItemCodesError for a damaged file, or one that lacks an item.
    """
    path = Path(path)
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        named = json.loads(raw)
        rows = [
            [int(word.strip("<>").split("_")[1]) for word in named[str(i)]] for i in range(n_items)
        ]
        codes_IQ = np.array(rows, np.int64)
        if codes_IQ.ndim != 2:
            raise ValueError("items have different numbers of codes")
    except KeyError as error:
        raise ItemCodesError(f"{path} has no codes for item {error}") from error
    except (OSError, ValueError, IndexError, AttributeError) as error:
        raise ItemCodesError(f"{path} holds no semantic ids ({error})") from error
    sizes = tuple(int(2 ** np.ceil(np.log2(top + 1))) for top in codes_IQ.max(0))
    return ItemCodes(codes_IQ, sizes, {"source": path.name, "collisions": collision_rate(codes_IQ)})


def check_vectors(vectors_IE: Float[np.ndarray, "I E"]) -> None:
    """Raises ItemCodesError for vectors of which no codes can be made: fewer than two, not finite, or all alike."""
    if vectors_IE.ndim != 2 or len(vectors_IE) < 2:
        raise ItemCodesError(
            f"semantic ids tell items apart by their vectors: at least 2 are needed, not {len(vectors_IE)}"
        )
    wrong = np.flatnonzero(~np.isfinite(vectors_IE).all(1))
    if len(wrong):
        raise ItemCodesError(
            f"the vectors of {len(wrong):,} items are not finite (NaN or infinity), item {wrong[0]}'s first: "
            "make them anew"
        )
    if not np.ptp(vectors_IE, axis=0).any():
        raise ItemCodesError(
            f"the vectors of all {len(vectors_IE):,} items are the same: nothing tells the items apart, take others"
        )
    with np.errstate(over="ignore", under="ignore"):
        spread = np.square(vectors_IE - vectors_IE.mean(0, keepdims=True)).astype(np.float32).mean()
    if not np.isfinite(spread) or not spread:
        raise ItemCodesError(
            "the vectors' numbers are too large or too small: scale them to about 1"
        )


# ------------------------------------------------------------------------------------------- figures


def tuples(codes_IQ: Int[np.ndarray, "I Q"]) -> Int[np.ndarray, " I"]:
    """The number of each item's tuple among the distinct ones, which are in lexicographic order."""
    return np.unique(codes_IQ, axis=0, return_inverse=True)[1].reshape(-1)


def collision_rate(codes_IQ: Int[np.ndarray, "I Q"]) -> float:
    """The share of items that another item's tuple already names: 1 - distinct / items."""
    return 1 - len(np.unique(codes_IQ, axis=0)) / max(len(codes_IQ), 1)


def usage(codes_IQ: Int[np.ndarray, "I Q"], sizes: tuple[int, ...]) -> dict[str, list[float]]:
    """By level: `usage`, the share of codes that any item has, and `perplexity`, exp of the codes' entropy."""
    found: dict[str, list[float]] = {"usage": [], "perplexity": []}
    for codes_I, size in zip(codes_IQ.T, sizes, strict=True):
        share = np.bincount(codes_I, minlength=size) / len(codes_I)
        real = share[share > 0]
        found["usage"].append(float((share > 0).mean()))
        found["perplexity"].append(float(np.exp(-(real * np.log(real)).sum())))
    return found


# ---------------------------------------------------------------------------------------- collisions


def extra_code(codes: ItemCodes) -> ItemCodes:
    """One level more, which numbers the items of each tuple in the order of their numbers. All 0: it still stands."""
    number_I = tuples(codes.codes_IQ)
    order = np.argsort(number_I, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(number_I))])
    extra_I = np.empty(len(codes), np.int64)
    extra_I[order] = np.arange(len(codes)) - first[number_I[order]]
    size = int(extra_I.max(initial=0)) + 1
    whole_IQ = np.concatenate([codes.codes_IQ, extra_I[:, None]], 1)
    return dataclasses.replace(codes, codes_IQ=whole_IQ, sizes=(*codes.sizes, size))


def reassign(codes: ItemCodes, distance_IC: Float[np.ndarray, "I C"]) -> ItemCodes:
    """Distinct tuples by the last level alone; `distance_IC` is each item's distance to that level's codes.

    Prefix by prefix it is the assignment of items to codes with the least total distance (the Hungarian algorithm), so
    an item without a rival keeps its code wherever that costs nobody more. Raises ItemCodesError where a prefix has
    more items than the level has codes.
    """
    from scipy.optimize import linear_sum_assignment

    whole_IQ = codes.codes_IQ.copy()
    number_I = tuples(codes.codes_IQ)
    prefix_I = (
        tuples(codes.codes_IQ[:, :-1]) if codes.levels > 1 else np.zeros(len(codes), np.int64)
    )
    crowded = np.unique(prefix_I[np.bincount(number_I)[number_I] > 1])
    for prefix in crowded:
        items = np.flatnonzero(prefix_I == prefix)
        if len(items) > codes.sizes[-1]:
            raise ItemCodesError(
                f"{len(items)} items share all codes but the last, which has {codes.sizes[-1]}: take more levels"
            )
        rows, columns = linear_sum_assignment(distance_IC[items])
        whole_IQ[items[rows], -1] = columns
    return dataclasses.replace(codes, codes_IQ=whole_IQ)
