"""Floor 3: all finders together, loaded when they are first needed (five seconds of CPU), and conversations of tenants.

private = PrivacyFilter()
talk = private.conversation("corner_bakery", owner="maria")
answer = talk.unmask(model(talk.mask(question)), reader="maria")
"""

import dataclasses
import functools
import secrets

from jaxrec.privacy.masking import Conversation, tenant_key
from jaxrec.privacy.spans import KINDS, Find, PrivacyError, Span, over_windows, plain


@dataclasses.dataclass(frozen=True)
class PrivacyConfig:
    """What is masked."""

    languages: tuple[str, ...] = ("en", "ru")  # whose names are found: en, ru; (): numbers alone
    kinds: tuple[str, ...] = KINDS  # of spans; what is not named here stays in the text

    def __post_init__(self) -> None:
        if wrong := [kind for kind in self.kinds if kind not in KINDS]:
            raise PrivacyError(
                f"there is no kind {wrong[0]!r} to mask; there are {', '.join(KINDS)}"
            )


class PrivacyFilter:
    """Finds what is private in texts. Loads its taggers at the first text (or by `load`), and downloads nothing.

    cfg: what is masked. secret: of which tenants' keys are made; None: one that lives as long as this object.
    """

    def __init__(self, cfg: PrivacyConfig | None = None, secret: bytes | None = None):
        self.cfg = cfg or PrivacyConfig()
        self._secret = secret or secrets.token_bytes(32)

    @functools.cached_property
    def _finders(self) -> tuple[Find, ...]:
        from jaxrec.privacy.analyzer import numbers_finder
        from jaxrec.privacy.names import names_finder

        return (numbers_finder(), *(names_finder(language) for language in self.cfg.languages))

    def load(self) -> "PrivacyFilter":
        """Loads the finders now. Raises PrivacyError, with what to do, where a package or a tagger is missing."""
        _ = self._finders
        return self

    def find(self, text: str) -> list[Span]:
        """What is private in a text of any length: spans in order that don't overlap."""
        return over_windows(self._find, plain(text))

    def conversation(self, tenant: str, owner: str, name: str = "") -> Conversation:
        """A conversation's own placeholders. tenant: whose assistant. owner: who talks. name: of the conversation."""
        key = tenant_key(self._secret, tenant)
        return Conversation(self._find, tenant=tenant, owner=owner, key=key, name=name)

    def _find(self, text: str) -> list[Span]:
        wanted = set(self.cfg.kinds)
        return [span for find in self._finders for span in find(text) if span.kind in wanted]
