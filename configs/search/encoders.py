"""BM25, MiniLM and MPNet on questions whose right text is known: a bank's answers, notes, a bank's documents.

    python -m jaxrec.hub.fetch mpnet
    JAXREC_DATA=... python -m eval.encoders configs/search/encoders.py

COST. Two CPU cores: MPNet reads half a million tokens, some 20 minutes; MiniLM three; both are kept in
~/.cache/jaxrec/sentences, and BM25 is nothing. `--sets bank-faqs` alone takes a quarter of that. Needs the extra
`talk`.
NUMBER. The bank's answers, R@1 / R@10: BM25 .358 / .726, MiniLM .416 / .815, MPNet .448 / .849.
"""

from jaxrec.eval.encoders import EncodersConfig

config = EncodersConfig()
