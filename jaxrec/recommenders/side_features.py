"""Floor 4: what is known of people and items (age, occupation, genres, year) as numbers of feature values."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from jaxrec.data.interaction_sets import InteractionSet
from jaxrec.models.items.deepmf import DeepMFError

AGES = (18, 25, 35, 45, 50, 56)  # MovieLens' own groups


@dataclasses.dataclass(frozen=True)
class SideFeatures:
    """For each person and each item the numbers of its feature values, -1 where a row has fewer."""

    user_UF: np.ndarray
    item_IF: np.ndarray
    user_values: int
    item_values: int

    @classmethod
    def of_words(
        cls, users: Sequence[Iterable[str]], items: Sequence[Iterable[str]]
    ) -> "SideFeatures":
        """From words a row, such as {"occupation=writer", "age=25"}; a word that one row alone has is left out."""
        user_UF, user_values = _numbered(users)
        item_IF, item_values = _numbered(items)
        return cls(user_UF, item_IF, user_values, item_values)

    @classmethod
    def of_set(cls, data: InteractionSet) -> "SideFeatures":
        """Age group, gender and occupation of people, genres and year of items; nothing where the set knows none."""
        users: list[list[str]] = [[] for _ in range(data.interactions.n_users)]
        for name in {"age", "gender", "occupation"} & set(data.people):
            values = data.people[name]
            told = [_age(v) if name == "age" else f"{name}={v}" for v in values]
            users = [[*row, word] for row, word in zip(users, told, strict=True)]
        size = data.interactions.n_items
        genres, years = data.items.category or ((),) * size, data.items.year or ("",) * size
        items = [
            [f"genre={genre}" for genre in row] + ([_year(year)] if year else [])
            for row, year in zip(genres, years, strict=True)
        ]
        return cls.of_words(users, items)

    @classmethod
    def of_ids(
        cls, user_UF: Int[np.ndarray, "U F"], item_IF: Int[np.ndarray, "I G"]
    ) -> "SideFeatures":
        """From numbers that were given before (a saved model's)."""
        return cls(
            user_UF, item_IF, int(user_UF.max(initial=-1)) + 1, int(item_IF.max(initial=-1)) + 1
        )


def _numbered(rows: Sequence[Iterable[str]]) -> tuple[np.ndarray, int]:
    rows = [sorted(set(row)) for row in rows]
    if not rows:
        raise DeepMFError("side features of nobody: there is not one row")
    words, count = np.unique([word for row in rows for word in row], return_counts=True)
    number = {word: n for n, word in enumerate(words[count > 1].tolist())}
    known = [[number[word] for word in row if word in number] for row in rows]
    ids_UF = np.full((len(rows), max(1, *map(len, known))), -1, np.int32)
    for row, ids in enumerate(known):
        ids_UF[row, : len(ids)] = ids
    return ids_UF, max(len(number), 1)


def _age(age: str) -> str:
    """An age in years as MovieLens' group; "age=?" where it is no number."""
    return f"age={np.searchsorted(AGES, int(age), side='right')}" if age.isdigit() else "age=?"


def _year(year: str) -> str:
    """A year of release; before 1980 its five years."""
    digits = "".join(c for c in year if c.isdigit())[:4]
    if len(digits) < 4:
        return "year=?"
    return f"year={digits}" if int(digits) >= 1980 else f"year={int(digits) // 5 * 5}s"
