"""What a store holds: store.json, written when the last shard is there, and plan.json, written before the first.

STORE/plan.json             what is made of what: a part that is started with something else is refused
STORE/shards/000000.json    a shard's record: it is there when the shard is whole
STORE/rows/000000/...       its arrays (zarr3)
STORE/held/000000.jsonl     its rows that are held out, as they stand in the source
STORE/store.json            the manifest: the plan, all records, the sum of what was dropped
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxrec.data.store.place import Place, StoreError, is_url
from jaxrec.files import content_hash

FORMAT = "jaxrec store 1"
MANIFEST, PLAN = "store.json", "plan.json"


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a store is made.

    kind: texts, chats, pairs or histories. source: names, and sizes where they are files here. length: tokens of a
    row; 0 for histories. pad_id: of the token that fills rows up. writing: the hash of the tokenizer and of how it
    writes conversations. settings: whatever else decides what stands in the rows.
    """

    kind: str
    source: Mapping[str, Any]
    length: int = 0
    pad_id: int = 0
    writing: str = ""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"format": FORMAT, **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True)
class Shard:
    """What a block of the source became.

    rows: of tokens, or people. tokens: that are no padding, or events. read: rows of the source. held: of these, held
    out. dropped, first: what was left out or cut, by reason: how often, and where first. source: the hash of what
    was read. arrays: name -> shape, dtype, sha256. bytes: of the text that was read, where known.
    """

    rows: int
    tokens: int
    read: int
    held: int
    dropped: Mapping[str, int]
    first: Mapping[str, str]
    source: str
    arrays: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A whole store: how it was made, and its shards in order."""

    plan: Plan
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        """Of all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def tokens(self) -> int:
        """Of all shards, padding left out; events of histories."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def identity(self) -> str:
        """A hash of every number in the store, by those of its arrays."""
        sums = [about["sha256"] for shard in self.shards for about in shard.arrays.values()]
        return content_hash("\n".join(sums))

    def dropped(self) -> list[str]:
        """A line a reason, as `instructions.Skipped` has them."""
        counts: dict[str, int] = {}
        first: dict[str, str] = {}
        for shard in self.shards:
            for reason, count in shard.dropped.items():
                counts[reason] = counts.get(reason, 0) + count
                first.setdefault(reason, shard.first[reason])
        return [f"{n} {reason} (first: {first[reason]})" for reason, n in counts.items()]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the sums stand first, for whoever looks into the file."""
        whole = {
            "rows": self.rows,
            "tokens": self.tokens,
            "read": sum(shard.read for shard in self.shards),
            "held": sum(shard.held for shard in self.shards),
            "dropped": self.dropped(),
            "source_sha256": content_hash(*(shard.source for shard in self.shards)),
            "sha256": self.identity,
        }
        shards = [dataclasses.asdict(shard) for shard in self.shards]
        return self.plan.as_dict() | whole | {"shards": shards}


def record_name(number: int) -> str:
    """The name of a shard's record."""
    return f"shards/{number:06d}.json"


def rows_name(number: int, array: str) -> str:
    """The name of one of a shard's arrays."""
    return f"rows/{number:06d}/{array}"


def held_name(number: int) -> str:
    """The name of a shard's held-out rows."""
    return f"held/{number:06d}.jsonl"


def is_store(where: str) -> bool:
    """Whether a source is a store: a URL, or a folder with our plan or manifest. Whether it is whole is not asked."""
    return is_url(where) or any(_is_ours(Path(where) / name) for name in (MANIFEST, PLAN))


def _is_ours(path: Path) -> bool:
    """Whether a file begins as the plan or manifest of a store: other folders may hold such names, too."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b'"format": "jaxrec store' in file.read(100)


def shard_of(record: bytes, where: str) -> Shard:
    """A record as it was written. Raises StoreError for another version's, or a damaged one."""
    try:
        return Shard(**json.loads(record))
    except (ValueError, TypeError) as error:
        raise StoreError(f"{where} is damaged, or of another version of jaxrec") from error


def manifest_of(place: Place) -> Manifest:
    """The manifest of a store. Raises StoreError where there is none, half of one, or one of another version."""
    content = place.read(MANIFEST)
    if content is None:
        if place.read(PLAN) is None:
            if not is_url(place.where) or not place.names("s"):
                raise StoreError(f"there is no store at {place.where}")
            raise StoreError(f"{place.where} holds no store")
        done = len(place.names("shards/"))
        raise StoreError(
            f"the store {place.where} is half written ({done} shards are there): the command that made them goes on"
        )
    try:
        told = json.loads(content)
        shards = tuple(Shard(**shard) for shard in told["shards"])
        names = [field.name for field in dataclasses.fields(Plan)]
        if told["format"] != FORMAT:
            raise StoreError(
                f"{place.where} is a {told['format']!r}, this version reads {FORMAT!r}"
            )
        return Manifest(Plan(**{name: told[name] for name in names}), shards)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise StoreError(f"{place.where}/{MANIFEST} is damaged, or of another version") from error


def write_manifest(place: Place, plan: Plan, records: Iterable[bytes]) -> Manifest:
    """Makes the store whole: the plan and the shards' records as one file."""
    shards = tuple(shard_of(record, f"{place.where}: a record") for record in records)
    made = Manifest(plan, shards)
    place.write(MANIFEST, (json.dumps(made.as_dict(), indent=1) + "\n").encode())
    return made
