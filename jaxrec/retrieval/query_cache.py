"""Floor 2: vectors of queries that were asked before, in this process's memory, a file, or a Redis that many share.

    cache = open_cache("memory://?bytes=64000000", encoder="all-mpnet-base-v2", dim=768)
    cache = open_cache("sqlite:///srv/queries.sqlite", encoder="all-mpnet-base-v2", dim=768)
    cache = open_cache("redis://host:6379/0?ttl=86400", encoder="all-mpnet-base-v2", dim=768)
    q_BD = cache.embed(texts, embed)

A key is the hash of the encoder's name and of the text in Unicode's composed form without surrounding blanks, so that
no encoder reads another one's vectors and Redis is told no text.
"""

import sqlite3
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import parse_qs, urlsplit, urlunsplit

import numpy as np
from jaxtyping import Float

from jaxrec.files import content_hash
from jaxrec.retrieval.top_k import SearchError

Embed = Callable[[Sequence[str]], Float[np.ndarray, "B D"]]
_MEMORY_BYTES = 64_000_000
_OVERHEAD = 200  # of an entry in memory, beside its vector: key, links, object headers


@runtime_checkable
class Store(Protocol):
    """Bytes by key. `get` gives None for what is not there."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]: ...

    def put(self, values: Mapping[bytes, bytes]) -> None: ...

    def close(self) -> None: ...


class MemoryStore:
    """The entries used last, as many as fit into `most` bytes. Thread-safe."""

    def __init__(self, most: int = _MEMORY_BYTES):
        if most < 1:
            raise SearchError(f"a cache of {most} bytes holds nothing")
        self.most, self.bytes = most, 0
        self._held: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values, which thereby become those used last."""
        with self._lock:
            for key in keys:
                if key in self._held:
                    self._held.move_to_end(key)
            return [self._held.get(key) for key in keys]

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Takes entries in; the ones used longest ago go until all fit. One that never fits is not kept."""
        with self._lock:
            for key, value in values.items():
                if key in self._held:
                    self.bytes -= len(self._held.pop(key)) + _OVERHEAD
                self._held[key] = value
                self.bytes += len(value) + _OVERHEAD
            while self.bytes > self.most:
                _, value = self._held.popitem(last=False)
                self.bytes -= len(value) + _OVERHEAD

    def close(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._held.clear()
            self.bytes = 0


class SqliteStore:
    """Entries in a file that outlives the process, the newest `most` of them. Thread-safe.

    A file that can't be written (a folder for reading only, a full disk) keeps nothing new, and what is there is read.
    """

    def __init__(self, path: str | Path, most: int = 100_000):
        self.most, self._lock = most, threading.Lock()
        try:
            self._file = sqlite3.connect(path, check_same_thread=False, timeout=5.0)
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS entry (key BLOB PRIMARY KEY, value BLOB)"
            )
        except sqlite3.OperationalError:
            self._file = sqlite3.connect(":memory:", check_same_thread=False)
            self._file.execute("CREATE TABLE entry (key BLOB PRIMARY KEY, value BLOB)")
        except sqlite3.DatabaseError as error:
            raise SearchError(f"{path} is no file of query vectors ({error}): remove it") from None

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values."""
        one = "SELECT value FROM entry WHERE key = ?"
        with self._lock:
            rows = [self._file.execute(one, (key,)).fetchone() for key in keys]
        return [None if row is None else row[0] for row in rows]

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Takes entries in; the oldest go beyond `most`."""
        # Every insert, a replacing one too, takes the next rowid: the lowest ones are the oldest entries.
        trim = "DELETE FROM entry WHERE rowid <= (SELECT max(rowid) FROM entry) - ?"
        with self._lock:
            try:
                self._file.executemany("INSERT OR REPLACE INTO entry VALUES (?, ?)", values.items())
                self._file.execute(trim, (self.most,))
                self._file.commit()
            except sqlite3.OperationalError:  # read only, full, or held by another: nothing is lost
                self._file.rollback()

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


class RedisStore:
    """Entries in a Redis server under `jaxrec:query:`. How much it keeps is its own `maxmemory` setting.

    ttl_s: seconds after which an entry goes (0: never). Raises SearchError without the package or the server; an
    error while it runs is raised too, so that nobody searches without a cache and does not know.
    """

    def __init__(self, url: str, ttl_s: int = 0, timeout_s: float = 2.0):
        try:
            import redis
        except ImportError:
            raise SearchError(
                "a redis:// cache needs the package redis: pip install 'jaxrec[redis]'"
            ) from None
        self._errors = redis.RedisError
        self._ttl = ttl_s
        # Without the password, which an error message should not show.
        parts = urlsplit(url)
        self._where = f"{parts.hostname}:{parts.port or 6379}{parts.path}"
        try:
            self._redis: Any = redis.Redis.from_url(
                url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
            )
            self._redis.ping()
        except (self._errors, ValueError) as error:
            raise SearchError(
                f"Redis at {self._where} does not answer ({error}); start it, or set the cache to memory://"
            ) from None

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values, in one round trip."""
        return self._call(lambda: self._redis.mget([_name(key) for key in keys])) if keys else []

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Takes entries in, in one round trip."""

        def send() -> None:
            with self._redis.pipeline(transaction=False) as pipe:
                for key, value in values.items():
                    pipe.set(_name(key), value, ex=self._ttl or None)
                pipe.execute()

        if values:
            self._call(send)

    def close(self) -> None:
        """Ends the connections; the entries stay."""
        self._redis.close()

    def _call(self, do: Callable[[], Any]) -> Any:
        try:
            return do()
        except self._errors as error:
            raise SearchError(f"Redis at {self._where} failed: {error}") from error


class QueryCache:
    """Vectors [dim] of queries by text, for one encoder. hits and misses count the distinct texts asked for."""

    def __init__(self, store: Store, encoder: str, dim: int):
        self.encoder, self.dim, self._store = encoder, dim, store
        self.hits = self.misses = 0
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str], embed: Embed) -> Float[np.ndarray, "B D"]:
        """float32 vectors of the texts; `embed` is called once, with those that are not here, each a single time.

        Raises SearchError where `embed` gives another shape or an entry has another width.
        """
        keys = [self._key(text) for text in texts]
        distinct = {key: text for key, text in zip(keys, texts, strict=True)}
        values = dict(zip(distinct, self._store.get(list(distinct)), strict=True))
        lost = [key for key, value in values.items() if value is None]
        with self._lock:
            self.hits += len(distinct) - len(lost)
            self.misses += len(lost)
        if lost:
            made = np.asarray(embed([distinct[key] for key in lost]), np.float32)
            if made.shape != (len(lost), self.dim):
                raise SearchError(
                    f"the encoder gave {made.shape} for {len(lost)} texts; expected width {self.dim}"
                )
            fresh = {key: row.tobytes() for key, row in zip(lost, made, strict=True)}
            self._store.put(fresh)
            values |= fresh
        out_BD = np.empty((len(texts), self.dim), np.float32)
        for row, key in zip(out_BD, keys, strict=True):
            if len(values[key]) != 4 * self.dim:
                raise SearchError(
                    f"the cache holds vectors of {len(values[key]) // 4} numbers under {self.encoder!r}, "
                    f"expected {self.dim}; clear it or name the encoder otherwise"
                )
            row[:] = np.frombuffer(values[key], np.float32)
        return out_BD

    def close(self) -> None:
        """Ends the store's connections (memory: forgets)."""
        self._store.close()

    def _key(self, text: str) -> bytes:
        text = unicodedata.normalize("NFC", text).strip()
        return bytes.fromhex(content_hash(f"{self.encoder}\0{text}"))


def open_cache(url: str, *, encoder: str, dim: int) -> QueryCache:
    """The cache that a setting names: `memory://` (`?bytes=N`), `sqlite:///path`, `redis://host:port/db`, `rediss://`.

    The last two take `?ttl=S`. Raises SearchError for any other setting, and at once where Redis does not answer.
    """
    parts = urlsplit(url)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if parts.scheme == "memory":
        store: Store = MemoryStore(_whole(options, "bytes", _MEMORY_BYTES))
    elif parts.scheme == "sqlite" and parts.path:
        store = SqliteStore(parts.path)
    elif parts.scheme in ("redis", "rediss"):
        ttl = _whole(options, "ttl", 0)
        store = RedisStore(urlunsplit(parts._replace(query="")), ttl)
    else:
        raise SearchError(
            f"the query cache is memory://, sqlite:///path or redis://host:port/db, not {url!r}"
        )
    if options:
        raise SearchError(
            f"the query cache {parts.scheme}:// knows no option {sorted(options)[0]!r}"
        )
    return QueryCache(store, encoder, dim)


def _whole(options: dict[str, str], name: str, default: int) -> int:
    value = options.pop(name, str(default))
    if not value.isdigit():
        raise SearchError(f"the query cache's {name} is {value!r}; it should be a whole number")
    return int(value)


def _name(key: bytes) -> bytes:
    return b"jaxrec:query:" + key
