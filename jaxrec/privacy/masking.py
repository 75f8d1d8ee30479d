"""Floor 3: placeholders in place of what is private, and the words behind them for whom they belong to.

    talk = Conversation(find, tenant="corner_bakery", owner="maria", key=key)
    talk.mask("I am Maria Lopez, +44 20 7946 0958")    # "I am [NAME_1_5b0c11d2], [PHONE_1_e2a90f47]"
    talk.unmask("Thanks, [NAME_1_5b0c11d2]!", reader="maria")                     # "Thanks, Maria Lopez!"
    talk.unmask("Thanks, [NAME_1_5b0c11d2]!", reader="somebody else")             # stays as it is

A placeholder has brackets at its ends alone, and what looks like one in the input is itself replaced by one. So in a
masked text every such piece was put there by `mask`, whatever stands around it, and unmask(mask(x)) == x for every x.
"""

import dataclasses
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jaxrec.privacy.spans import Find, PrivacyError, Span, merged, over_windows, plain

PLACEHOLDER = re.compile(r"\[[A-Z]{2,12}_\d{1,6}_[0-9a-f]{8}\]")
LONGEST = 32  # characters of a placeholder at most
_KNOWN_FROM = 4  # characters of a value that is looked for again by itself


@dataclasses.dataclass(frozen=True)
class Private:
    """What a placeholder stands for, which kind of thing it is, and whose it is."""

    text: str
    kind: str
    owner: str


def tenant_key(secret: bytes, tenant: str) -> bytes:
    """A tenant's own key, of a secret that stays on the server: placeholders of one tenant mean nothing to another."""
    return hmac.new(secret, tenant.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()


class Conversation:
    """The private words of one conversation of one tenant. Equal words of one owner have one placeholder throughout.

    find: text -> spans. tenant, owner: whose conversation, and who talks; words are the owner's unless `mask` is told
    otherwise. key: of the tenant (`tenant_key`). name: of the conversation, which makes its placeholders its own.
    """

    def __init__(self, find: Find, *, tenant: str, owner: str, key: bytes, name: str = ""):
        self.find, self.tenant, self.owner, self.name = find, tenant, owner, name
        self._key = key
        self._behind: dict[str, Private] = {}  # placeholder -> what it stands for
        self._placeholder: dict[Private, str] = {}
        self._known: re.Pattern[str] | None = None

    def mask(self, text: str, owner: str | None = None) -> str:
        """The text with placeholders for all that is private. owner: whose words they are, if not the talker's."""
        read = plain(text)
        spans = [*over_windows(self.find, read), *self._seen_before(read)]
        # One by one, overlapping ones too: [A_1_0000000[B_1_00000000] hides the second behind the first's bracket.
        spans += [Span(*m.span(), "TEXT") for m in PLACEHOLDER.finditer(text)]
        done, made = 0, []
        for span in merged(spans):
            made += [
                text[done : span.start],
                self._stand_in(text[span.start : span.end], span.kind, owner),
            ]
            done = span.end
        return "".join([*made, text[done:]])

    def unmask(self, text: str, reader: str) -> str:
        """The text with the reader's own words in place of placeholders; those of others, and unknown ones, stay."""
        return PLACEHOLDER.sub(lambda found: self._words(found[0], reader), text)

    def unmask_stream(self, pieces: Iterable[str], reader: str) -> Iterator[str]:
        """`unmask` of a text that comes in pieces: what may be the beginning of a placeholder waits for its end."""
        held = ""
        for piece in pieces:
            held += piece
            opened = held.rfind("[")
            waits = opened >= 0 and "]" not in held[opened:] and len(held) - opened < LONGEST
            ready, held = (held[:opened], held[opened:]) if waits else (held, "")
            if ready:
                yield self.unmask(ready, reader)
        if held:
            yield self.unmask(held, reader)

    @property
    def counts(self) -> dict[str, int]:
        """How many different things of each kind have been masked."""
        found: dict[str, int] = {}
        for private in self._behind.values():
            found[private.kind] = found.get(private.kind, 0) + 1
        return found

    def as_dict(self) -> dict[str, Any]:
        """What goes on with a stored chat, as JSON. It holds the private words: keep it where the owner's data lie."""
        behind = {name: dataclasses.asdict(private) for name, private in self._behind.items()}
        return {"tenant": self.tenant, "owner": self.owner, "name": self.name, "behind": behind}

    @classmethod
    def from_dict(cls, find: Find, key: bytes, held: Mapping[str, Any]) -> "Conversation":
        """The conversation of an `as_dict`. Raises PrivacyError where `held` is none."""
        try:
            talk = cls(find, tenant=held["tenant"], owner=held["owner"], key=key, name=held["name"])
            for name, private in held["behind"].items():
                if not PLACEHOLDER.fullmatch(name):
                    raise ValueError(f"{name!r} is no placeholder")
                talk._keep(name, Private(**private))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PrivacyError(f"this is no stored conversation: {error!r}") from None
        return talk

    def _stand_in(self, words: str, kind: str, owner: str | None) -> str:
        private = Private(words, kind, self.owner if owner is None else owner)
        if private not in self._placeholder:
            number = 1 + self.counts.get(kind, 0)
            while (name := self._named(kind, number)) in self._behind:
                number += 1
            self._keep(name, private)
        return self._placeholder[private]

    def _named(self, kind: str, number: int) -> str:
        # The tag says nothing of the words behind it: a hash of a telephone number is found by trying them all.
        said = json.dumps([self.tenant, self.name, self.owner, kind, number]).encode()
        return f"[{kind}_{number}_{hmac.new(self._key, said, hashlib.sha256).hexdigest()[:8]}]"

    def _keep(self, name: str, private: Private) -> None:
        self._behind[name], self._placeholder[private] = private, name
        self._known = None

    def _words(self, name: str, reader: str) -> str:
        private = self._behind.get(name)
        return private.text if private is not None and private.owner == reader else name

    def _seen_before(self, text: str) -> list[Span]:
        # A tagger that knew a name in one sentence misses it in the next.
        if self._known is None:
            known = {
                plain(p.text): p.kind
                for p in self._behind.values()
                if len(p.text) >= _KNOWN_FROM and p.kind != "TEXT"
            }
            self._kind_of = known
            longest_first = sorted(known, key=len, reverse=True)
            self._known = re.compile(
                "|".join(rf"(?<!\w){re.escape(words)}(?!\w)" for words in longest_first) or r"(?!)"
            )
        return [Span(*m.span(), self._kind_of[m[0]]) for m in self._known.finditer(text)]
