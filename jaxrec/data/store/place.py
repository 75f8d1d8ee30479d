"""Where a store lies, and its small files: a local folder or a bucket, through tensorstore's key-value stores.

    runs/store                  a folder
    s3://BUCKET/PREFIX          credentials as AWS has them (environment, ~/.aws, the machine's role); another
                                server than Amazon's is named by AWS_ENDPOINT_URL_S3, or AWS_ENDPOINT_URL
    gs://BUCKET/PREFIX          credentials as Google has them

What is written under a name is there whole or not at all: the local driver renames, buckets do it by themselves.
"""

import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorstore as ts

from jaxrec.config import RunError

_TRIES = 4  # of a request that a bucket's server does not answer
_CACHE_BYTES = (
    32 << 20
)  # of decoded indexes and chunks, in all; a shuffled reader seldom meets a chunk twice
_URL = re.compile(r"(s3|gs|file|memory)://(.*)", re.DOTALL)


class StoreError(RunError, ValueError):
    """A store that cannot be written or read, or is not what is asked for."""


def is_url(where: str) -> bool:
    """Whether a source's name is the address of a key-value store."""
    return _URL.fullmatch(where) is not None


@functools.cache
def context() -> ts.Context:
    """What all arrays of this process share: a small cache, a few threads, and how often a request is repeated."""
    retries = {"max_retries": _TRIES, "initial_delay": "200ms", "max_delay": "2s"}
    return ts.Context(
        {
            "cache_pool": {"total_bytes_limit": _CACHE_BYTES},
            "data_copy_concurrency": {"limit": 2},
            "file_io_concurrency": {"limit": 8},
            "s3_request_retries": retries,
            "gcs_request_retries": retries,
        }
    )


class Place:
    """A folder or a bucket's prefix, and what lies in it by name ("store.json", "shards/000001.json").

    Every method raises StoreError, in one line, where the place cannot be reached or does not let us in.
    """

    def __init__(self, where: str):
        self.where = where.rstrip("/")

    def spec(self, name: str = "") -> dict[str, Any]:
        """tensorstore's description of the key-value store below a name, which ends in "/" or is empty."""
        found = _URL.fullmatch(self.where)
        if found is None or found[1] == "file":
            folder = Path(found[2] if found else self.where).absolute()
            return {"driver": "file", "path": f"{folder}/{name}"}
        bucket, _, prefix = found[2].partition("/")
        path = f"{prefix}/{name}" if prefix else name
        if found[1] == "memory":
            return {"driver": "memory", "path": f"{bucket}/{path}"}
        if found[1] == "gs":
            return {"driver": "gcs", "bucket": bucket, "path": path}
        return {"driver": "s3", "bucket": bucket, "path": path, **_s3_server()}

    def read(self, name: str) -> bytes | None:
        """The content under a name; None where there is none."""
        found = self._do(lambda: self._kv.read(name).result(), f"read {name}")
        return found.value if found.state == "value" else None

    def read_all(self, names: list[str]) -> list[bytes]:
        """The contents under many names, all asked for at once. Raises StoreError where one is missing."""
        asked = self._do(lambda: [self._kv.read(name) for name in names], "read")
        found = [
            self._do(one.result, f"read {name}") for one, name in zip(asked, names, strict=True)
        ]
        for one, name in zip(found, names, strict=True):
            if one.state != "value":
                raise StoreError(f"{self.where}: {name} is missing; the store is not whole")
        return [one.value for one in found]

    def write(self, name: str, content: bytes) -> None:
        """Puts content under a name, in place of what was there."""
        self._do(lambda: self._kv.write(name, content).result(), f"write {name}")

    def names(self, prefix: str) -> list[str]:
        """The names that begin with a prefix, in order."""
        keys = ts.KvStore.KeyRange(prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1))
        found = self._do(lambda: self._kv.list(keys).result(), f"list {prefix}")
        return sorted(name.decode() for name in found if not name.endswith(b"__lock"))

    @functools.cached_property
    def _kv(self) -> ts.KvStore:
        return self._do(lambda: ts.KvStore.open(self.spec(), context=context()).result(), "open")

    def _do(self, ask: Any, what: str) -> Any:
        try:
            return ask()
        except (ValueError, OSError, RuntimeError) as error:
            raise StoreError(f"{self.where}: cannot {what}: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """What a tensorstore error says, in one short line."""
    text = " ".join(str(error).split())
    for mark, reason in _REASONS.items():
        if mark in text:
            return reason
    text = re.sub(r" \[(source locations|request|tensorstore_spec)=.*", "", text)
    text = re.sub(r"\[[^\]]*\]", "", text)
    return " ".join(text.split())[:240]


_REASONS: Mapping[str, str] = {
    "NoSuchBucket": "there is no such bucket",
    "AccessDenied": "access is denied to these credentials",
    "PERMISSION_DENIED": "access is denied to these credentials",
    "InvalidAccessKeyId": "the access key is not known there",
    "SignatureDoesNotMatch": "the secret key is not the right one",
    "UNAUTHENTICATED": "the credentials are not accepted",
}


def _s3_server() -> dict[str, Any]:
    """Which server, region and credentials, as the environment says; what it does not say is found as AWS does."""
    named: dict[str, Any] = {}
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        named["aws_region"] = region
    if address := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        named = {"aws_region": "us-east-1", **named, "endpoint": address.rstrip("/")}
    if "AWS_ACCESS_KEY_ID" in os.environ:  # else files and the machine's role are tried one by one
        named["aws_credentials"] = {"type": "environment"}
    return named
