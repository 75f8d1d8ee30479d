"""Floor 3: item texts to vectors by a frozen sentence encoder, computed once and kept under the hash of what they need.

z of an item = for each of its parts (a post, a reply) the mean over tokens of the top K layers' hidden states, side by
side: the LFE's Z with mean pooling, before any projection.
"""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrec import checkpoint
from jaxrec.files import content_hash, open_atomically
from jaxrec.hub import minilm
from jaxrec.models.text.sentence import SentenceEncoder, own_limit

FEW = 100  # texts that are read in a moment


class TopLayers(SentenceEncoder):
    """Several layers' hidden states, each averaged over the tokens and put side by side.

    cfg, params, tokenizer, options: as of `SentenceEncoder`. layers: which hidden states.
    """

    def __init__(self, cfg, params, tokenizer, layers: Sequence[int] = (-2, -1), **options: int):
        super().__init__(cfg, params, tokenizer, **options)
        self.layers = tuple(layers)
        self.dim = len(self.layers) * cfg.d_model

    def _vector(self, means: list[Array]) -> Array:
        return jnp.concatenate(means, -1)


def item_vectors(
    parts: Sequence[tuple[str, ...]],
    *,
    source: str | None = None,
    layers: Sequence[int] = (-2, -1),
    limit: int = 256,
    cache: str | Path,
) -> Float[np.ndarray, "I D"]:
    """z of each item. Items of unequal numbers of parts are each read as one text.

    Args:
      parts: the texts of each item.
      source: a BERT or MPNet; None: MiniLM.
      layers: whose hidden states are put side by side.
      limit: tokens of a text at most, and at most the encoder's own limit.
      cache: a folder where the vectors are kept as one file, which a further run with the same texts, weights and
        settings reads.
    """
    if len({len(own) for own in parts}) > 1:
        # Side by side needs as many vectors of each item; of unequal numbers one text is made.
        parts = [("\n".join(own),) for own in parts]
    cfg, params, tokenizer = minilm(source)
    limit = own_limit(cfg, tokenizer, limit)
    # Everything that a vector depends on is in the name of the file: nothing stale can be read.
    said = repr((parts, cfg, tuple(layers), limit, checkpoint.fingerprint(params)))
    path = Path(cache).expanduser() / f"{content_hash(said, digits=32)}.npy"
    if not path.is_file():
        encoder = TopLayers(cfg, params, tokenizer, layers, limit=limit)
        # Each text once, alike lengths together; the text itself breaks ties, so that every run has the same chunks.
        texts = sorted({text for own in parts for text in own}, key=lambda text: (len(text), text))
        vectors = _read_in_chunks(encoder, texts, path)
        _save(path, side_by_side(parts, texts, vectors))
        for partial in path.parent.glob(f"{path.stem}-*.npy"):
            partial.unlink()
    return np.load(path)


def side_by_side(
    parts: Sequence[tuple[str, ...]], texts: Sequence[str], vectors: Float[np.ndarray, "N D"]
) -> Float[np.ndarray, "I X"]:
    """Each item's vectors of its parts, one after the other; row n of `vectors` being that of `texts[n]`."""
    at = {text: i for i, text in enumerate(texts)}
    return np.stack([np.concatenate([vectors[at[text]] for text in own]) for own in parts])


def _read_in_chunks(
    encoder: TopLayers, texts: list[str], path: Path, size: int = 1024
) -> np.ndarray:
    """Vectors of texts that come sorted by length; what a stopped run has finished is read, not made again."""
    if len(texts) > FEW:
        print(f"reading {len(texts):,} texts by the frozen backbone, once", flush=True)
    chunks = []
    for start in range(0, len(texts), size):
        # A chunk a file: an interrupted run goes on from the last one that was whole.
        kept = path.with_name(f"{path.stem}-{start}.npy")
        if not kept.is_file():
            _save(kept, encoder(texts[start : start + size]))
        chunks.append(np.load(kept))
    return np.concatenate(chunks)


def _save(path: Path, array: np.ndarray) -> None:
    with open_atomically(path, "wb") as file:
        np.save(file, array)
