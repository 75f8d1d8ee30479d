"""all-mpnet-base-v2 as the query encoder: what it costs to make a query's vector, one at a time.

Its real weights where `python -m jaxrec.hub.fetch mpnet` was run; otherwise random ones of its shape (12 layers of
width 768), with MiniLM's tokenizer, which cuts English the same way: time does not depend on the weights. Queries have
10 to 12 tokens, the first and last one included.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxrec.hub.minilm import minilm_folder
from jaxrec.hub.published import folder_of
from jaxrec.hub.tokenizer import Tokenizer
from jaxrec.models.text.sentence import SentenceEncoder
from jaxrec.nn.encoder import Encoder, EncoderConfig

MPNET = EncoderConfig(
    vocab=30527, d_model=768, layers=12, heads=12, d_ff=3072, norm_eps=1e-5, max_positions=514,
    first_position=2, types=0, distance_buckets=32,
)  # fmt: skip

QUERIES = (
    "a gift card for my mother who likes gardening",
    "wireless headphones that fit under a bicycle helmet",
    "shampoo for dry hair without any strong smell",
    "strings for an acoustic guitar with a warm tone",
    "how do I change the address of my order",
    "a quiet film about friendship in a small town",
    "sandpaper and tape for painting an old wooden door",
    "a birthday present for a boy who plays chess",
)


def weights_there() -> str:
    """What makes the vectors, for the record: all-mpnet-base-v2, or that its weights are random, for the record."""
    return (
        "all-mpnet-base-v2" if folder_of("mpnet") else "random weights of all-mpnet-base-v2's shape"
    )


def encoder(weights: str, cfg: EncoderConfig = MPNET, seed: int = 0) -> SentenceEncoder:
    """The encoder with random weights of standard deviation 0.02. Raises ModelMissing without MiniLM's tokenizer."""
    ids_BL = jnp.ones((1, 8), jnp.int32)
    params = jax.jit(Encoder(cfg).init)(jax.random.key(seed), ids_BL)["params"]
    return SentenceEncoder(cfg, params, Tokenizer(minilm_folder()), weights=weights)


def query_encoder(weights: str) -> Callable[[int], Float[np.ndarray, "1 D"]]:
    """encode(i) makes the vector of the i-th query; its programs are compiled already."""
    folder = folder_of("mpnet")
    made = SentenceEncoder.load(folder, weights=weights) if folder else encoder(weights)
    for query in QUERIES:
        made([query])

    def encode(i: int) -> Any:
        return made([QUERIES[i % len(QUERIES)]])

    return encode
