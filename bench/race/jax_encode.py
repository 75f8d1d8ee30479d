"""Our sentence encoder on MiniLM, tokenising included."""

from bench.race import shape
from bench.race.jax_decode import versions
from bench.race.worker import Work


def prepare(count: int = 512) -> dict[str, Work]:
    """Vectors of `shape.texts(count)`."""
    from jaxrec.models.text.sentence import SentenceEncoder

    texts = list(shape.texts(count))
    encode = SentenceEncoder.load(shape.minilm_folder())
    run = lambda: encode(texts)
    return {"work": Work(run, run, versions())}
