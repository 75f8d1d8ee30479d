"""Floor 3: sentences to vectors of length 1, by a frozen BERT or MPNet (Sentence-BERT, Reimers 2019)."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxrec import hub
from jaxrec.data.text import best_fit
from jaxrec.hub.tokenizer import Tokenizer
from jaxrec.nn.encoder import Encoder, EncoderConfig, segment_means, unit
from jaxrec.nn.low_precision import for_serving

# Widths of a text that is read alone: few, so that few programs are compiled, and close enough to waste little.
LENGTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
# Lengths of rows that several texts share. A text goes to rows in which two such would fit: then little stays empty,
# and attention, which reads a whole row for each token, is still a small part of the work.
ROWS = (96, 192, 384, 512)
BLOCK = 4096  # texts that are packed together


class SentenceEncoder:
    """Texts to normalised float32 vectors: several texts share a row, so that next to nothing is computed for
    padding.

    One program for each length of row that occurs (and for small batches); a text that comes alone is read alone.

    Args:
      cfg: of the encoder.
      params: its weights.
      tokenizer: texts to ids.
      tokens: of a batch, all rows together.
      limit: tokens after which a text is cut, which is said on stderr when it happens first; at most the model's own
        limit (`own_limit`), which it is when None.
      weights: "bfloat16" halves the kernels' bytes, which answers a single query a quarter faster on a CPU that has
        such products (measured in docs/search.md).
    """

    layers: tuple[int, ...] = (-1,)  # the hidden states that `_vector` makes a text's vector of

    def __init__(
        self,
        cfg: EncoderConfig,
        params: PyTree,
        tokenizer: Tokenizer,
        tokens: int = 2048,
        limit: int | None = None,
        weights: str = "float32",
    ):
        self.cfg, self.params = for_serving(cfg, params, weights)
        self.tokenizer, self.tokens = tokenizer, tokens
        self.limit = own_limit(cfg, tokenizer, limit)
        self._cut_said = False
        self.dim = cfg.d_model
        self._embed = jax.jit(self._forward, static_argnames="most")

    @classmethod
    def load(cls, source: str | Path | None = None, **options: int | str) -> "SentenceEncoder":
        """MiniLM, or any BERT or MPNet by folder, published name ("mpnet") or hub id (errors: see `hub.minilm`)."""
        return cls(*hub.minilm(source), **options)

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "U D"]:
        """One vector for each text, in order. Raises TypeError for a single text, and for what is no text."""
        if isinstance(texts, str):
            raise TypeError("texts are encoded as a list: put the single one in a list")
        texts = list(texts)
        out = np.zeros((len(texts), self.dim), np.float32)
        for start in range(0, len(texts), BLOCK):
            block = texts[start : start + BLOCK]
            rows, cut = self.tokenizer.encode_cut(block, self.limit)
            if cut and not self._cut_said:
                say_cut(cut, len(block), self.limit)
                self._cut_said = True
            # all batches are sent off before the first is waited for
            sent = [self._alone(rows[0])] if len(rows) == 1 else self._packed(rows)
            for which_N, row_N, segment_N, vectors_BSD in sent:
                out[start + which_N] = np.asarray(vectors_BSD)[row_N, segment_N]
        return out

    def _alone(self, ids: list[int]) -> "Sent":
        # A single text waits for no others to share a row with: its row is as short as it can be.
        width = min(next(n for n in LENGTHS if n >= min(len(ids), LENGTHS[-1])), self.limit)
        return self._send([ids], np.array([0]), [(0, 0, 1)], width, size=1, most=1)

    def _packed(self, rows: list[list[int]]) -> list["Sent"]:
        """Best fit by falling length, among texts of about the same length."""
        known = sorted({min(length, self.cfg.max_length) for length in ROWS})
        # two tokens at least, so that a row of L tokens never has more than L / 2 texts
        lengths_N = np.array([max(len(ids), 2) for ids in rows])
        kind_N = np.minimum(np.searchsorted(known, 2 * lengths_N), len(known) - 1)
        sent = []
        for kind in np.unique(kind_N):
            length = known[kind]
            which = np.flatnonzero(kind_N == kind)
            which = which[np.argsort(-lengths_N[which], kind="stable")]
            places, count = best_fit(lengths_N[which].tolist(), length)
            full = max(self.tokens // length, 1)
            for at in range(0, count, full):
                here = [n for n, (row, _, _) in enumerate(places) if at <= row < at + full]
                size = _size(min(count - at, full), full)
                mine = [
                    (row - at, first, segment)
                    for row, first, segment in map(places.__getitem__, here)
                ]
                texts = [rows[which[n]] for n in here]
                sent.append(self._send(texts, which[here], mine, length, size, length // 2))
        return sent

    def _send(
        self,
        texts: list[list[int]],
        which: np.ndarray,
        places: list[tuple[int, int, int]],
        length: int,
        size: int,
        most: int,
    ) -> "Sent":
        """`size` rows of `length` tokens on their way, each text at its place (row, first token, segment)."""
        ids_BL = np.full((size, length), self.tokenizer.pad_id, np.int32)
        # Positions begin anew with each text, so that a text's vector does not depend on its neighbours in the row.
        segments_BL, positions_BL = np.zeros_like(ids_BL), np.zeros_like(ids_BL)
        for ids, (row, first, segment) in zip(texts, places, strict=True):
            span = slice(first, first + len(ids))
            ids_BL[row, span], segments_BL[row, span] = ids, segment
            positions_BL[row, span] = np.arange(len(ids))
        # Segments count from 1, because 0 is padding; the vectors of a row count from 0.
        row_N, _, segment_N = np.array(places).T
        vectors_BSD = self._embed(self.params, ids_BL, segments_BL, positions_BL, most=most)
        return Sent(which, row_N, segment_N - 1, vectors_BSD)

    def _forward(
        self, params: PyTree, ids_BL: Array, segments_BL: Array, positions_BL: Array, most: int
    ) -> Float[Array, "B S D"]:
        out = Encoder(self.cfg).apply(
            {"params": params}, ids_BL, segments_BL > 0,
            positions_BL=positions_BL, segments_BL=segments_BL, hidden=self.layers,
        )  # fmt: skip
        return self._vector([segment_means(x_BLD, segments_BL, most) for x_BLD in out.hidden])

    def _vector(self, means: list[Float[Array, "B S D"]]) -> Float[Array, "B S D"]:
        """A text's vector from the means over its tokens of the hidden states `layers`."""
        return unit(means[0])


def own_limit(cfg: EncoderConfig, tokenizer: Tokenizer, limit: int | None = None) -> int:
    """How many tokens of a text an encoder reads: `limit`, but no more than its authors' own limit and its positions.

    MiniLM's own limit is 256 tokens, MPNet's 384, though both have positions for 512: texts longer than that were
    never seen in training.
    """
    bounds = (limit, tokenizer.own_limit, cfg.max_length, LENGTHS[-1])
    return min(bound for bound in bounds if bound is not None)


def say_cut(cut: int, texts: int, limit: int) -> None:
    """Says that texts lose their end, on stderr."""
    if cut:
        print(
            f"{cut:,} of {texts:,} texts are longer than {limit} tokens, and are read up to there",
            file=sys.stderr,
            flush=True,
        )


def _size(rows: int, full: int) -> int:
    """How many rows a batch of `rows` is given: few sizes, so that few programs are compiled, and not much larger."""
    quarter = max(full // 4, 1)
    if rows <= quarter:
        return min(1 << (rows - 1).bit_length(), quarter)
    return min(-(-rows // quarter) * quarter, full)


class Sent(NamedTuple):
    """Vectors on their way: that of text `which_N[n]` will be `vectors_BSD[row_N[n], segment_N[n]]`."""

    which_N: np.ndarray
    row_N: np.ndarray
    segment_N: np.ndarray
    vectors_BSD: Array
