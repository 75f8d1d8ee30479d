"""What a search costs: the question's encoding, words, vectors, late interaction, quotes, over many passages."""

import time

import numpy as np

from jaxrec.data.question_sets import QuestionSet
from jaxrec.models.text.kept_vectors import TextVectors
from jaxrec.models.text.passage_encoder import passage_encoder
from jaxrec.retrieval.passages.cutting import CutConfig
from jaxrec.retrieval.passages.document import Document
from jaxrec.retrieval.passages.encoder import TextEncoder
from jaxrec.retrieval.passages.folder import PassageIndexConfig
from jaxrec.retrieval.passages.fusion import Fusion
from jaxrec.retrieval.passages.index import PassageIndex

ASKED, WARM = 60, 10


def row(
    texts: TextVectors,
    data: QuestionSet,
    passages: int,
    source: str,
    late: bool,
) -> dict:
    """CPU milliseconds of all threads for one question: the median and the 95th percentile, in whole and by stage.

    texts: whose vectors the passages get, over and over. data: their texts, and the questions. passages: of the index.
    source: of the encoder that reads the questions. late: with the late interaction.
    """
    which = np.arange(passages) % len(data.texts)
    numbered = [f"{data.texts[i].strip()} {copy}" for copy, i in enumerate(which)]
    place = {text: i for text, i in zip(numbered, which, strict=True)}
    tokens = texts.tokens
    own = lambda i: tokens.codes_TW[tokens.start_I[i] : tokens.start_I[i + 1]].astype(np.float32)
    made = TextEncoder(
        "read before",
        lambda asked: np.stack([texts.vectors_ID[place[text]] for text in asked]),
        tokens=(lambda asked: [own(place[text]) for text in asked]) if late else None,
    )
    config = PassageIndexConfig(
        cut=CutConfig(0, 10**7), fusion=Fusion(1.0, 0.2, 1.0 if late else 0.0)
    )
    documents = [Document(str(i), text, kind="plain") for i, text in enumerate(numbered)]
    index = PassageIndex.build("speed", documents, made, config)
    index.encoder = encoder = passage_encoder(source, late)
    asked = [data.questions[i % len(data.questions)] for i in range(ASKED + WARM)]
    whole, encoding = [], []
    for question in asked:
        start = time.process_time()
        index.search(question)
        whole.append(time.process_time() - start)
    for question in asked:
        # Another text, for the encoder remembers its last one.
        start = time.process_time()
        encoder.embed_queries([f"{question} "])
        encoding.append(time.process_time() - start)
    ms = lambda seconds, q: float(np.quantile(seconds[WARM:], q) * 1e3)
    return {
        "set": data.name, "row": "CPU ms a question", "texts": len(index), "questions": ASKED,
        "p50_ms": ms(whole, 0.5), "p95_ms": ms(whole, 0.95), "encoding_p50_ms": ms(encoding, 0.5),
    }  # fmt: skip
