"""Floor 3: Presidio's analyzer without a downloaded model: the words of a blank spaCy pipeline are all it is given.

Its own default engine downloads a model of some hundred megabytes at the first call. Names come from `names`; what
Presidio does here is numbers and addresses, for which the words before them are enough.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from jaxrec.privacy.documents import OURS, recognizers
from jaxrec.privacy.spans import Find, PrivacyError, Span

LEAST = 0.4  # scores that count
LANGUAGE = (
    "en"  # Presidio's word for "all of them": no recogniser here asks which language a text is in
)


def numbers_finder() -> Find:
    """text -> spans of numbers and addresses. Raises PrivacyError where the extra `privacy` isn't installed."""
    try:
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    except ModuleNotFoundError as error:
        raise missing(error) from None

    registry = RecognizerRegistry(recognizers=recognizers(), supported_languages=[LANGUAGE])
    analyzer = AnalyzerEngine(
        registry=registry,
        nlp_engine=_blank_engine(),
        supported_languages=[LANGUAGE],
        default_score_threshold=LEAST,
    )

    def find(text: str) -> list[Span]:
        if not any(c.isdigit() or c == "@" for c in text):
            return []  # nothing that is looked for here comes without a digit or an @
        found = analyzer.analyze(text, language=LANGUAGE)
        return [Span(f.start, f.end, OURS.get(f.entity_type, f.entity_type)) for f in found]

    return find


def missing(error: ModuleNotFoundError) -> PrivacyError:
    """What to install where a library of the extra is not there."""
    return PrivacyError(f"masking needs the package {error.name}: pip install 'jaxrec[privacy]'")


def _blank_engine() -> Any:
    import spacy
    from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine

    class Words(NlpEngine):
        """Words in lower case are their own lemmas: context words are stems, which Presidio looks for inside words."""

        def __init__(self) -> None:
            self.nlp = spacy.blank("xx")

        def load(self) -> None:
            pass

        def is_loaded(self) -> bool:
            return True

        def process_text(self, text: str, language: str) -> NlpArtifacts:
            words = self.nlp(text)
            return NlpArtifacts(
                entities=[],
                tokens=words,
                tokens_indices=[word.idx for word in words],
                lemmas=[word.lower_ for word in words],
                nlp_engine=self,
                language=language,
            )

        def process_batch(
            self,
            texts: Iterable[str],
            language: str,
            batch_size: int = 1,
            n_process: int = 1,
            **kwargs: Any,
        ) -> Iterator[tuple[str, NlpArtifacts]]:
            for text in texts:
                yield text, self.process_text(text, language)

        def is_stopword(self, word: str, language: str) -> bool:
            return False

        def is_punct(self, word: str, language: str) -> bool:
            return not any(c.isalnum() or c == "№" for c in word)

        def get_supported_entities(self) -> list[str]:
            return []

        def get_supported_languages(self) -> list[str]:
            return [LANGUAGE]

    return Words()
