"""Floor 2: the passages of one tenant by words and by meaning: made, changed document by document, searched, kept.

    index = PassageIndex.build("luna-coffee", documents, encoder)
    index.save("indexes/luna-coffee")
    index = PassageIndex.open("indexes/luna-coffee", encoder, tenant="luna-coffee")
    found = index.search("do you ship to Norway?", 3)
    found.quotes[0].text, found.quotes[0].citation

An index belongs to one tenant and one encoder; it is not opened as another's, nor with vectors of another kind.
"""

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxrec.retrieval.passages import folder as folders
from jaxrec.retrieval.passages.cutting import passages_of
from jaxrec.retrieval.passages.document import Document, Passage
from jaxrec.retrieval.passages.encoder import TextEncoder
from jaxrec.retrieval.passages.folder import Contents, PassageIndexConfig
from jaxrec.retrieval.passages.fusion import Parts, share_of_highest
from jaxrec.retrieval.passages.late import PassageTokens, max_sim
from jaxrec.retrieval.passages.quotes import Found, Hit, joined
from jaxrec.retrieval.passages.word_index import WordIndex
from jaxrec.retrieval.top_k import SearchError

HITS = 12  # passages that a search tells of, besides those that it quotes


class PassageIndex:
    """The passages of one tenant. Searches may run beside each other and beside a change; changes wait for each other.

    tenant: whose it is. encoder: what makes vectors. config: how it is made and searched.
    """

    def __init__(self, tenant: str, encoder: TextEncoder, config: PassageIndexConfig | None = None):
        self.tenant, self.encoder, self.config = tenant, encoder, config or PassageIndexConfig()
        nothing = WordIndex.build([], self.config.language)
        self._contents = Contents({}, (), np.zeros((0, 0), np.float32), None, nothing)
        self._changing = threading.Lock()

    # -------------------------------------------------------------------------------- making

    @classmethod
    def build(
        cls,
        tenant: str,
        documents: Iterable[Document],
        encoder: TextEncoder,
        config: PassageIndexConfig | None = None,
    ) -> "PassageIndex":
        """An index of all documents. Raises SearchError where two have one id, or none holds a passage.

        tenant: whose they are. documents: in any order. encoder: what makes vectors. config: of the index.
        """
        index = cls(tenant, encoder, config)
        index.put(*documents)
        if not len(index):
            raise SearchError(f"the documents of {tenant!r} hold no text: there is nothing to find")
        return index

    @classmethod
    def open(
        cls,
        folder: str | Path,
        encoder: TextEncoder,
        *,
        tenant: str | None = None,
        verify: bool = True,
    ) -> "PassageIndex":
        """The index that `save` wrote.

        folder: its place. encoder: the one that it was made with. tenant: whose it must be; None: anybody's. verify:
        checksums, not sizes alone. Raises SearchError for a missing or damaged index, and for one of another encoder
        or tenant.
        """
        where, head = folders.read_head(folder, verify)
        if tenant is not None and head["tenant"] != tenant:
            raise SearchError(f"{where} is the index of {head['tenant']!r}, not of {tenant!r}")
        if head["encoder"] != encoder.name:
            raise SearchError(
                f"{where} holds vectors of {head['encoder']!r}, not of {encoder.name!r}: open it with that encoder,"
                " or `reindex` it"
            )
        index = cls.__new__(cls)
        index.tenant, index.encoder, index._changing = head["tenant"], encoder, threading.Lock()
        index._contents, index.config = folders.read(where, head)
        if index._late != (index._contents.tokens is not None):
            raise SearchError(
                f"{where} was made {'without' if index._late else 'with'} tokens' vectors, the encoder given makes"
                f" {'some' if index._late else 'none'}: `reindex` it"
            )
        return index

    def save(self, folder: str | Path) -> None:
        """Writes the index, whole or not at all; an older one there is replaced, and nothing of it stays."""
        folders.write(self._contents, folder, self.tenant, self.encoder.name, self.config)

    def __len__(self) -> int:
        """How many passages there are."""
        return len(self._contents.passages)

    @property
    def documents(self) -> tuple[Document, ...]:
        """In the order in which they came."""
        return tuple(self._contents.documents.values())

    @property
    def passages(self) -> tuple[Passage, ...]:
        """Of all documents, those of one side by side."""
        return self._contents.passages

    # -------------------------------------------------------------------------------- changing

    def put(self, *documents: Document) -> int:
        """Adds documents, or replaces those of the same ids; gives how many passages were embedded.

        What is there already with the same words costs nothing, so that putting twice is putting once. A document
        without text is kept and never found. Raises SearchError where two of these have one id.
        """
        with self._changing:
            return self._put(documents)

    def remove(self, id: str) -> bool:
        """Takes a document out with all that was made of it; whether it was there. After `save` no file has a trace."""
        with self._changing:
            old = self._contents
            if id not in old.documents:
                return False
            left = {name: document for name, document in old.documents.items() if name != id}
            kept = [i for i, passage in enumerate(old.passages) if passage.document != id]
            self._contents = self._made(
                left,
                [old.passages[i] for i in kept],
                old.vectors_ID[kept],
                old.tokens.chosen(kept) if old.tokens is not None else None,
            )
            return True

    @property
    def _late(self) -> bool:
        """Whether the late interaction has a say; tokens are made and kept only then."""
        return self.encoder.tokens is not None and self.config.fusion.late > 0

    def _put(self, documents: Sequence[Document]) -> int:
        old, fresh = self._contents, {document.id: document for document in documents}
        if len(fresh) < len(documents):
            twice = next(d.id for d in documents if fresh[d.id] is not d)
            raise SearchError(f"two documents have the id {twice!r}")
        if all(old.documents.get(id) == document for id, document in fresh.items()):
            return 0
        known = {passage.indexed: i for i, passage in enumerate(old.passages)}
        kept = [i for i, passage in enumerate(old.passages) if passage.document not in fresh]
        new = [p for document in fresh.values() for p in passages_of(document, self.config.cut)]
        lost = list(dict.fromkeys(p.indexed for p in new if p.indexed not in known))
        # Rows of the old vectors for what they know already, behind them the rows of what is new.
        place = known | {text: len(old.passages) + i for i, text in enumerate(lost)}
        rows = [*kept, *(place[p.indexed] for p in new)]
        vectors_ID, tokens = old.vectors_ID, old.tokens
        if lost:
            made_ID = self.encoder.embed_passages(lost)
            if len(old.passages) and made_ID.shape[1] != vectors_ID.shape[1]:
                raise SearchError(
                    f"encoder {self.encoder.name} gives width {made_ID.shape[1]}, the index holds"
                    f" {vectors_ID.shape[1]}: `reindex` it"
                )
            vectors_ID = np.concatenate([vectors_ID, made_ID]) if len(old.passages) else made_ID
            if self._late:
                more = PassageTokens.of(self.encoder.tokens(lost))
                tokens = more if tokens is None else tokens.joined(more)
        self._contents = self._made(
            old.documents | fresh,
            [*(old.passages[i] for i in kept), *new],
            vectors_ID[rows],
            tokens.chosen(rows) if tokens is not None else None,
        )
        return len(lost)

    def _made(
        self,
        documents: dict[str, Document],
        passages: Sequence[Passage],
        vectors_ID: np.ndarray,
        tokens: PassageTokens | None,
    ) -> Contents:
        # How rare a word is depends on all passages, so the words are counted anew: 2 s of CPU for 10,000 passages.
        words = WordIndex.build([p.indexed for p in passages], self.config.language)
        return Contents(documents, tuple(passages), np.asarray(vectors_ID), tokens, words)

    # -------------------------------------------------------------------------------- searching

    def search(self, question: str, k: int = 5) -> Found:
        """The k passages that answer best, as quotes, neighbours joined. Raises SearchError for an empty index."""
        return self.search_all([question], k)[0]

    def search_all(self, questions: Sequence[str], k: int = 5) -> list[Found]:
        """`search` for several questions, which are embedded together."""
        if k < 1:
            raise SearchError(f"k is {k}; it is at least 1")
        contents = self._contents  # one moment's, whatever changes meanwhile
        if not len(contents.passages):
            raise SearchError(
                f"the index of {self.tenant!r} is empty: put documents with text into it first"
            )
        if not len(questions):
            return []
        vectors_BD = self.encoder.embed_queries(questions)
        tokens_B = self.encoder.tokens(questions) if self._late else [None] * len(questions)
        return [
            self._found(contents, *asked, k)
            for asked in zip(questions, vectors_BD, tokens_B, strict=True)
        ]

    def _found(
        self,
        contents: Contents,
        question: str,
        vector_D: Float[np.ndarray, " D"],
        tokens_LW: np.ndarray | None,
        k: int,
    ) -> Found:
        if len(vector_D) != contents.vectors_ID.shape[1]:
            raise SearchError(
                f"a question's vector has width {len(vector_D)}, the passages' {contents.vectors_ID.shape[1]}"
            )
        fusion = self.config.fusion
        cosine_I = contents.vectors_ID @ vector_D
        words_I = share_of_highest(contents.words.scores(question))
        first_I = fusion.score(Parts(cosine_I, words_I, np.zeros_like(cosine_I)))
        rows_J = _highest(first_I, max(self.config.shortlist, k))
        late_J = np.zeros(len(rows_J), np.float32)
        if tokens_LW is not None and contents.tokens is not None:
            late_J = max_sim(tokens_LW, contents.tokens, rows_J)
        parts = Parts(cosine_I[rows_J], words_I[rows_J], late_J)
        score_J = fusion.score(parts)
        order = np.lexsort((rows_J, -score_J))
        hits = [
            Hit(
                contents.passages[rows_J[j]],
                float(score_J[j]),
                {name: float(part[j]) for name, part in zip(Parts._fields, parts, strict=True)},
            )
            for j in order[: max(k, HITS)]
        ]
        quotes = joined(hits[:k], contents.documents, self.config.joined)
        return Found(question, quotes, tuple(hits), contents.words.rarity(question))


def reindex(
    folder: str | Path, encoder: TextEncoder, config: PassageIndexConfig | None = None
) -> PassageIndex:
    """The documents of an index with another encoder or other settings: built beside it, then put in its place.

    Whoever opens the folder meanwhile gets the old one, whole. config: None keeps the settings. Raises SearchError.
    """
    where, head = folders.read_head(folder, verify=True)
    documents = folders.read_documents(where)
    config = config or folders.config_of(head)
    index = PassageIndex(head["tenant"], encoder, config)
    index.put(*documents.values())
    index.save(folder)
    return index


def _highest(score_I: Float[np.ndarray, " I"], k: int) -> np.ndarray:
    """The rows of the k highest scores, best first; equal ones by number."""
    rows = np.arange(len(score_I))
    if len(score_I) > 4 * k:
        bound = np.partition(score_I, -k)[-k]
        rows = np.flatnonzero(score_I >= bound)
    return rows[np.lexsort((rows, -score_I[rows]))][:k]
