"""Floor 3: how what lies on disk says whose it is: by fields of rows, places of folders, and heads of folders."""

import dataclasses
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxrec.privacy.spans import PrivacyError

TENANT_FIELDS = frozenset("tenant tenant_id business business_id".split())
USER_FIELDS = frozenset(
    "user user_id userId person person_id owner customer customer_id reviewerID author".split()
)
# Folders (or keys of a JSON object) whose children are named after people: only there is a name somebody's.
TENANT_SHELVES = frozenset("tenants businesses indexes voices documents".split())
USER_SHELVES = frozenset(
    "users people customers owners chats conversations memories profiles vectors".split()
)
# Of either; within a tenant's folder it is the tenant's users who are named there.
SHELVES = frozenset("deltas adapters features twins".split())
HEADS = (
    "index.json",
    "facts.json",
    "head.json",
    "twin.json",
)  # a file that says whose its whole folder is


@dataclasses.dataclass(frozen=True)
class Who:
    """A tenant, a user, or a user of one tenant: that user's data under other tenants are somebody else's."""

    tenant: str = ""
    user: str = ""

    def __post_init__(self) -> None:
        if not (self.tenant or self.user):
            raise PrivacyError("say who is to be forgotten, by --tenant or --user")
        for name in (self.tenant, self.user):
            if name != name.strip() or "/" in name or "\\" in name or name in (".", ".."):
                raise PrivacyError(
                    f"{name!r} is nobody's name: it has blanks at its ends, or is a path"
                )

    def __str__(self) -> str:
        said = [
            f"{what} {name!r}"
            for what, name in (("user", self.user), ("tenant", self.tenant))
            if name
        ]
        return " of ".join(said)

    @property
    def name(self) -> str:
        """Whom rows and files are searched for."""
        return self.user or self.tenant

    def has_row(self, row: Mapping[str, Any], within: bool = False) -> bool:
        """Whether a row (a JSON object, a table's line) is theirs. within: whether it lies in their tenant's folder."""
        if not self.user:
            return _says(row, TENANT_FIELDS, self.tenant)
        if not _says(row, USER_FIELDS, self.user):
            return False
        return (
            not self.tenant
            or _says(row, TENANT_FIELDS, self.tenant)
            or (within and not TENANT_FIELDS & row.keys())
        )

    def has_key(self, key: str, shelf: str, within: bool = False) -> bool:
        """Whether `key` is them in a folder, or an object, of the name `shelf`."""
        own = USER_SHELVES if self.user else TENANT_SHELVES
        return (
            key == self.name
            and shelf in own | SHELVES
            and (within or not (self.tenant and self.user))
        )

    def has_path(self, path: Path, root: Path) -> bool:
        """Whether a file or folder under `root` is theirs by its name: tenants/NAME, chats/NAME.jsonl, ..."""
        within, shelf = self.within(path.parent, root), path.parent.name
        if (
            not self.user
            and shelf in SHELVES
            and set(path.relative_to(root).parts[:-1]) & TENANT_SHELVES
        ):
            return False
        return any(
            self.has_key(name, shelf, within)
            for name in (path.name, path.stem, path.name.split(".")[0])
        )

    def within(self, folder: Path, root: Path) -> bool:
        """Whether `folder` lies in the tenant's part of `root`."""
        if not self.tenant:
            return False
        parts = (root.name, *folder.relative_to(root).parts)
        shelves = TENANT_SHELVES | SHELVES
        return any(
            name == self.tenant and above in shelves for above, name in itertools.pairwise(parts)
        )

    def mentions(self) -> re.Pattern[bytes]:
        """The name as a word of a file's bytes, as it is and as JSON escapes it."""
        plain = self.name.encode()
        escaped = self.name.encode(
            "ascii", "backslashreplace"
        )  # é is \xe9 to Python and \u00e9 to JSON
        escaped = re.sub(rb"\\x(..)", rb"\\u00\1", escaped)
        forms = sorted({plain, escaped})
        return re.compile(rb"(?<![\w-])(?:" + b"|".join(map(re.escape, forms)) + rb")(?![\w-])")


def _says(row: Mapping[str, Any], fields: frozenset[str], name: str) -> bool:
    return any(
        field in row and not isinstance(row[field], bool) and str(row[field]) == name
        for field in fields
    )
