"""Floor 3: the vector of each token of a text, by a frozen sentence encoder: what BERTScore compares."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.hub.tokenizer import pad
from jaxrec.models.text.sentence import SentenceEncoder
from jaxrec.nn.encoder import Encoder

WIDTH, BATCH = 128, 32


class TokenVectors:
    """Texts to a float32 matrix [tokens, D] of each: the last hidden states, the two marks at the ends left out.

    One program: rows of WIDTH tokens (fewer, where the encoder reads fewer), BATCH at a time. What a text has beyond
    that is not compared.
    """

    def __init__(self, encoder: SentenceEncoder):
        self.encoder, self.width = encoder, min(WIDTH, encoder.limit)
        model = Encoder(encoder.cfg)
        self._run = jax.jit(
            lambda params, ids, mask: model.apply({"params": params}, ids, mask).hidden[0]
        )

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """One matrix for each text, in order; of an empty text one without rows."""
        tokenizer = self.encoder.tokenizer
        rows = tokenizer.encode_all(texts, limit=self.width)
        found: list[np.ndarray] = []
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            # The last batch is filled up with empty rows, so that there is one program.
            ids, mask = pad(part + [[]] * (BATCH - len(part)), self.width, tokenizer.pad_id)
            hidden_BLD = np.asarray(
                self._run(self.encoder.params, jnp.array(ids), jnp.array(mask)), np.float32
            )
            # BERT's marks [CLS] and [SEP] stand in every text and would always find each other.
            found += [hidden_BLD[i, 1 : len(row) - 1] for i, row in enumerate(part)]
        return found
