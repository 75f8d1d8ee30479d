"""Our sentence encoder on MiniLM or MPNet, tokenising included."""

from bench.race import shape
from bench.race.jax_decode import versions
from bench.race.worker import Work


def prepare(count: int = 512, model: str = "minilm", weights: str = "float32") -> dict[str, Work]:
    """Vectors of `shape.texts(count)`. weights: of the kernels, as `SentenceEncoder` takes them."""
    from jaxrec.models.text.sentence import SentenceEncoder

    texts = list(shape.texts(count))
    encode = SentenceEncoder.load(shape.encoder_folder(model), weights=weights)
    run = lambda: encode(texts)
    return {"work": Work(run, run, versions())}
