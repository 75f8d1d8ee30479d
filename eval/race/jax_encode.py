"""Our sentence encoder on MiniLM, tokenising included."""

from eval.race import shape
from eval.race.jax_decode import versions
from eval.race.worker import Work


def prepare(count: int = 512) -> dict[str, Work]:
    """Vectors of `shape.texts(count)`."""
    from jaxrec.models.sentence import SentenceEncoder

    texts = list(shape.texts(count))
    encode = SentenceEncoder.load(shape.minilm_folder())
    run = lambda: encode(texts)
    return {"work": Work(run, run, versions())}
