"""Floor 0: the shape letters, and the plain types that need no jax.

Array names end in the letters of their axes wherever a shape is not obvious (`z_seq_BLD`); the same letters
stand in jaxtyping annotations (`Float[Array, "B L D"]`) and, in lower case, in einsum strings (`"bld,bdr->blr"`).

    B batch     L sequence   M memory (keys)   D model    F feed-forward   H heads   K head size    V vocabulary
    G key heads (grouped)    N layers          R rank     P prefix         A adapter E profile (p)  X distance buckets
    I items     U users      Q code levels     C codes per level           J shortlist              T turns
    S slots of the serving engine              W concatenated layers, or any width that is none of the above
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Catalog:
    """The things one can be recommended, row i of every field being item i."""

    title: tuple[str, ...]
    description: tuple[str, ...]
    shop: tuple[str, ...]
    category: tuple[str, ...]
    attributes: tuple[Mapping[str, str], ...]
    price_I: Float[np.ndarray, "I"]

    def __len__(self) -> int:
        return len(self.title)

    def text(self, item: int) -> str:
        """What an encoder reads of an item."""
        return f"{self.title[item]}. {self.description[item]}"


@dataclass(frozen=True)
class Person:
    """A person's events in the order of time: items of a catalogue, and Unix seconds.

    `cold` names the shops in which this person has no event at all.
    """

    id: str
    items_T: Int[np.ndarray, "T"]
    times_T: Int[np.ndarray, "T"]
    cold: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shortlist:
    """Candidates for each row, best first; item -1 (score -inf) where a row has fewer than J."""

    items_BJ: Int[np.ndarray, "B J"]
    scores_BJ: Float[np.ndarray, "B J"]
