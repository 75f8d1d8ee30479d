"""Floor 4: an assistant that never reads who somebody is: questions masked before it, answers unmasked behind it."""

from collections.abc import Iterator, Sequence
from typing import Any

from jaxrec.assistant.assistant import Conversation, as_turns
from jaxrec.privacy import masking
from jaxrec.privacy.filter import PrivacyFilter

ASKER = "asker"  # whose words a question's are; each question's placeholders are its own


class MaskedAssistant:
    """`Assistant.answers` and `stream` with names, numbers and addresses out of the model's sight; the rest as it is.

    assistant: an `Assistant`. private: what finds them. Raises PrivacyError, with what to do, where it can't load.
    """

    def __init__(self, assistant: Any, private: PrivacyFilter):
        self._assistant, self._private = assistant, private.load()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._assistant, name)

    def answers(
        self, questions: Sequence[Conversation], tenants: Sequence[str | None], **how: Any
    ) -> list[str]:
        """Answers in the order of the questions. tenants: who answers each. how: as of `Assistant.answers`."""
        masked = [self._masked(q, t) for q, t in zip(questions, tenants, strict=True)]
        texts = self._assistant.answers([turns for _, turns in masked], tenants, **how)
        return [talk.unmask(text, ASKER) for (talk, _), text in zip(masked, texts, strict=True)]

    def stream(self, question: Conversation, tenant: str | None, **how: Any) -> Iterator[str]:
        """The answer in pieces. question, tenant, how: as of `Assistant.stream`."""
        talk, turns = self._masked(question, tenant)
        return talk.unmask_stream(self._assistant.stream(turns, tenant, **how), ASKER)

    def _masked(
        self, question: Conversation, tenant: str | None
    ) -> tuple[masking.Conversation, list[tuple[str, str]]]:
        talk = self._private.conversation(tenant or "", ASKER)
        return talk, [(role, talk.mask(said)) for role, said in as_turns(question)]
