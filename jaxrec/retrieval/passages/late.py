"""Floor 2: late interaction: every token of a question looks for the token of a passage that is most like it.

MaxSim (Khattab & Zaharia, SIGIR 2020): the mean over the question's tokens of the highest cosine to one of the
passage's. Passages' tokens are kept as whole numbers of 8 bits, 1/127 apart: unit vectors' numbers lie in [-1, 1].
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from jaxrec.retrieval.top_k import SearchError

_SCALE = 127.0


@dataclasses.dataclass(frozen=True)
class PassageTokens:
    """The tokens of I passages one after the other: passage i has the rows start_I[i]:start_I[i + 1], one at least."""

    codes_TW: Int[np.ndarray, "T W"]  # int8
    start_I: Int[np.ndarray, " I"]  # I + 1 of them

    def __len__(self) -> int:
        return len(self.start_I) - 1

    @classmethod
    def of(cls, matrices: Sequence[np.ndarray]) -> "PassageTokens":
        """Of a matrix [L, W] each. Raises SearchError for numbers that are not finite, and widths that differ."""
        width = matrices[0].shape[1] if len(matrices) else 0
        rows = [np.asarray(m, np.float32) for m in matrices]
        if any(m.ndim != 2 or m.shape[1] != width for m in rows):
            raise SearchError("the encoder's token vectors differ in width")
        # A text without tokens gets a row of zeros: it is like nothing, and every passage has its place.
        rows = [m if len(m) else np.zeros((1, width), np.float32) for m in rows]
        start_I = np.cumsum([0, *(len(m) for m in rows)])
        whole_TW = np.concatenate(rows) if rows else np.zeros((0, width), np.float32)
        return cls(np.round(unit(whole_TW) * _SCALE).astype(np.int8), start_I)

    def chosen(self, rows: Sequence[int] | np.ndarray) -> "PassageTokens":
        """Those of some passages, in their order."""
        parts = [self.codes_TW[self.start_I[i] : self.start_I[i + 1]] for i in rows]
        start_I = np.cumsum([0, *map(len, parts)])
        empty = np.zeros((0, self.codes_TW.shape[1]), np.int8)
        return PassageTokens(np.concatenate([empty, *parts]), start_I)

    def joined(self, other: "PassageTokens") -> "PassageTokens":
        """These passages, then the other ones."""
        if not len(self) or not len(other):
            return self if len(self) else other
        if self.codes_TW.shape[1] != other.codes_TW.shape[1]:
            raise SearchError("the encoder's token vectors have another width than before")
        start_I = np.concatenate([self.start_I, self.start_I[-1] + other.start_I[1:]])
        return PassageTokens(np.concatenate([self.codes_TW, other.codes_TW]), start_I)

    def save(self, folder: Path) -> None:
        """Two files in a folder that is there."""
        np.save(folder / "tokens.npy", self.codes_TW)
        np.save(folder / "token_starts.npy", self.start_I)

    @classmethod
    def load(cls, folder: Path) -> "PassageTokens | None":
        """What `save` wrote, the codes left in their file; None where nothing was written."""
        if not (folder / "tokens.npy").is_file():
            return None
        codes_TW = np.load(folder / "tokens.npy", mmap_mode="r")
        return cls(codes_TW, np.load(folder / "token_starts.npy"))


def max_sim(
    query_LW: Float[np.ndarray, "L W"], tokens: PassageTokens, rows: Sequence[int] | np.ndarray
) -> Float[np.ndarray, " J"]:
    """Of each of these passages; 0 of all for a question without tokens. Raises SearchError for another width."""
    if not len(rows) or not len(query_LW):
        return np.zeros(len(rows), np.float32)
    if query_LW.shape[1] != tokens.codes_TW.shape[1]:
        raise SearchError(
            f"a question's tokens have width {query_LW.shape[1]}, the passages' {tokens.codes_TW.shape[1]}"
        )
    mine = tokens.chosen(rows)
    like_TL = mine.codes_TW.astype(np.float32) @ unit(query_LW).T
    best_JL = np.maximum.reduceat(like_TL, mine.start_I[:-1], axis=0)
    return best_JL.mean(1) / _SCALE


def unit(x_LW: Float[np.ndarray, "L W"]) -> Float[np.ndarray, "L W"]:
    """Rows of length 1; a row of zeros stays. Raises SearchError for numbers that are not finite."""
    x_LW = np.asarray(x_LW, np.float32)
    if not np.isfinite(x_LW).all():
        raise SearchError("a token's vector is not finite")
    return x_LW / np.maximum(np.linalg.norm(x_LW, axis=1, keepdims=True), 1e-12)
