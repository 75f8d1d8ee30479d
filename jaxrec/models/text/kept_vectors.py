"""Floor 3: vectors of texts that are read again and again, in training and in measuring: made once, kept on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrec.files import content_hash, open_atomically
from jaxrec.models.text.passage_encoder import passage_encoder
from jaxrec.retrieval.passages.late import PassageTokens


class TextVectors(NamedTuple):
    """I texts: vectors of length 1, and their tokens where they were asked for."""

    vectors_ID: np.ndarray
    tokens: PassageTokens | None = None


def read_vectors(
    texts: Sequence[str],
    source: str = "minilm",
    *,
    tokens: bool = False,
    cache: str | Path = "~/.cache/jaxrec/passages",
) -> TextVectors:
    """Vectors of many texts, read once and kept under the hash of texts and weights.

    texts: what is read. source: of the encoder, as of `passage_encoder`. tokens: whether their tokens are wanted.
    cache: the folder. Raises ValueError without texts, ModelMissing without weights.
    """
    if not len(texts):
        raise ValueError("no texts to read")
    encoder = passage_encoder(source, late=tokens)
    parts = [part for text in texts for part in (str(len(text)), " ", text)]
    for name in dict.fromkeys((encoder.name, passage_encoder(source, late=True).name)):
        path = Path(cache).expanduser() / f"{content_hash(name, *parts, digits=32)}.npz"
        if path.is_file():
            with np.load(path) as held:
                own = PassageTokens(held["codes"], held["starts"]) if tokens else None
                return TextVectors(held["vectors"], own)
    print(f"reading {len(texts):,} texts by {encoder.name}, once", flush=True)
    vectors_ID = encoder.embed_passages(texts)
    own = PassageTokens.of(encoder.tokens(texts)) if tokens else None
    path = Path(cache).expanduser() / f"{content_hash(encoder.name, *parts, digits=32)}.npz"
    with open_atomically(path, "wb") as file:
        held = {} if own is None else {"codes": own.codes_TW, "starts": own.start_I}
        np.savez(file, vectors=vectors_ID, **held)
    return TextVectors(vectors_ID, own)
