"""Floor 1: who is tested on what: folds over people *and* items, and judgements laid out by person.

Fold f's test: the people of fold f on the items of fold f. Its training side: all other people on all other items. The
k examples of a test person are their judgements of *training* items, so no text of a test question has ever been seen.
"""

import dataclasses

import numpy as np

from jaxrec.data.judgements import JudgementError, Judgements

FEWEST_PEOPLE = 10


@dataclasses.dataclass(frozen=True)
class Fold:
    """Three sets of judgements, as masks over all of them."""

    train_N: np.ndarray
    support_N: np.ndarray
    test_N: np.ndarray


@dataclasses.dataclass(frozen=True)
class Cards:
    """The judgements of some people, a row each, in random order; padded where mask is False."""

    person_U: np.ndarray  # -1 where a row was added to fill the shape
    item_US: np.ndarray
    label_US: np.ndarray
    mask_US: np.ndarray

    def first(self, k: int) -> np.ndarray:
        """The mask of each person's first k judgements (of all, where there are fewer)."""
        return self.mask_US & (np.cumsum(self.mask_US, 1) <= k)


def assign_folds(data: Judgements, folds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(fold of each person, fold of each item), each language spread evenly over the folds.

    Raises JudgementError for fewer than 10 people or too few items.
    """
    people, items = len(data.people), len(data.parts)
    if people < FEWEST_PEOPLE:
        raise JudgementError(
            f"{people} people are too few to test on unseen ones: at least {FEWEST_PEOPLE} are needed"
        )
    if min(people, items) < 2 * folds or folds < 3:
        raise JudgementError(
            f"{folds} folds of {people} people and {items} items: use from 3 to fewer folds"
        )
    rng = np.random.default_rng(seed)
    return _even(data.language_of_people(), folds, rng), _even(data.language_I, folds, rng)


def _even(group: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """A random fold for each, group after group, so that every group is spread over all folds."""
    order = rng.permutation(len(group))
    order = order[np.argsort(group[order], kind="stable")]
    fold = np.empty(len(group), int)
    fold[order] = np.arange(len(group)) % folds
    return fold


def split(
    data: Judgements, person_fold: np.ndarray, item_fold: np.ndarray, f: int, validation: bool
) -> Fold:
    """The test split of fold f, or the validation split inside its training side.

    Validation asks the people of fold f+1 about the items of fold f+2, trained on the three folds that are left of
    each. Such a judgement is in no fold's test, so choices made there have seen none of the judgements that count.

    data: all judgements. person_fold, item_fold: the fold, 0 to 4, of each person and of each item.
    """
    n = int(person_fold.max()) + 1
    who, what = ((f + 1) % n, (f + 2) % n) if validation else (f, f)
    person_N, item_N = person_fold[data.person_N], item_fold[data.item_N]
    seen = ~np.isin(item_N, (f, what))
    return Fold(
        ~np.isin(person_N, (f, who)) & seen,
        (person_N == who) & seen,
        (person_N == who) & (item_N == what),
    )


def cards(
    data: Judgements, chosen_N: np.ndarray, people: np.ndarray, rows: int, width: int, seed: int
) -> Cards:
    """The chosen judgements of `people`, up to `width` each, padded to `rows` rows: one program serves all folds.

    data: all judgements. chosen_N: which of them may be taken. people: their numbers. seed: of the order in a row.
    """
    rng = np.random.default_rng(seed)
    person_U = np.full(rows, -1)
    person_U[: len(people)] = people
    item_US, label_US, mask_US = (np.zeros((rows, width), kind) for kind in (int, int, bool))
    for row, person in enumerate(people):
        own = rng.permutation(np.flatnonzero(chosen_N & (data.person_N == person)))[:width]
        item_US[row, : len(own)] = data.item_N[own]
        label_US[row, : len(own)] = data.label_N[own]
        mask_US[row, : len(own)] = True
    return Cards(person_U, item_US, label_US, mask_US)
