"""Floor 2: what makes vectors of texts, and the name by which an index knows that it was the same."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jaxrec.retrieval.top_k import SearchError

Embed = Callable[[Sequence[str]], np.ndarray]  # [B, D]
EmbedTokens = Callable[[Sequence[str]], Sequence[np.ndarray]]  # of each text [L, W]


@dataclasses.dataclass(frozen=True)
class TextEncoder:
    """The callables that an index is given.

    name: of weights and settings; vectors of different names are never compared. passages: texts to vectors.
    queries: questions to vectors of the same space, `passages` without. tokens: texts to a matrix each, a row a token,
    for the late interaction; without it there is none.
    """

    name: str
    passages: Embed
    queries: Embed | None = None
    tokens: EmbedTokens | None = None

    def embed_passages(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors [B, D] in float32. Raises SearchError for numbers that are not finite, and for another shape."""
        return self._unit(self.passages, texts)

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of questions, [B, D]. Raises SearchError as `embed_passages` does."""
        return self._unit(self.queries or self.passages, texts)

    def _unit(self, embed: Embed, texts: Sequence[str]) -> np.ndarray:
        vectors_BD = np.asarray(embed(list(texts)), np.float32)
        if vectors_BD.ndim != 2 or len(vectors_BD) != len(texts):
            raise SearchError(
                f"encoder {self.name} gave {vectors_BD.shape} for {len(texts)} texts; a vector each is wanted"
            )
        if not np.isfinite(vectors_BD).all():
            raise SearchError(f"encoder {self.name} gave numbers that are not finite")
        return vectors_BD / np.maximum(np.linalg.norm(vectors_BD, axis=1, keepdims=True), 1e-12)
