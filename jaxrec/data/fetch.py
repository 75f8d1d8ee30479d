"""Fetches public data sets from the hosts that publish them: `python -m jaxrec.data.fetch NAME [--to DIR]`.

    python -m jaxrec.data.fetch --list
    python -m jaxrec.data.fetch ml-1m --to ~/data

Whatever is half done is taken up again by the same command; a set appears under its name only when it is whole and its
checksums are right. Where a host publishes no checksum, the sums of what came are kept in SHA256SUMS beside the files,
so that later damage is seen. Each set has its own licence: it is named, and it is yours to keep.

Tried against a server on this machine (tests/test_fetch.py), not run against the real hosts.
"""

import argparse
import http.client
import json
import os
import re
import shutil
import stat
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from jaxrec.config import RunError
from jaxrec.data.hosts import SETS, PublicFile, PublicSet
from jaxrec.files import content_hash, file_hash

CHUNK = 1 << 18
TRIES = 3  # of a connection that breaks
TIMEOUT_S = 60
SUMS = "SHA256SUMS"


class FetchError(RunError):
    """What kept a data set from being fetched."""


def fetch(name: str, to: Path, sets: Mapping[str, PublicSet] = SETS, pause_s: float = 2.0) -> Path:
    """Fetches one set into `to/name`, and says where that is. A set that is there is checked and left as it is.

    sets: what there is, by name. pause_s: seconds before a broken download goes on, doubled each time.

    Raises FetchError: an unknown name, no connection, a checksum that is wrong, a download that stays cut short, an
    archive that would write outside its folder, and a folder of that name which did not come from here.
    """
    if name not in sets:
        raise FetchError(f"there is no public set {name!r}; `--list` names them")
    folder = to.expanduser() / name
    if folder.exists():
        check_sums(folder)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.parent / f".{name}.fetching"
    whole = staging / "whole"
    shutil.rmtree(whole, ignore_errors=True)  # unpacking starts anew, downloads do not
    whole.mkdir(parents=True)
    for file in sets[name].files:
        got = staging / Path(file.url).name
        got = got.with_name(f"{content_hash(file.url, digits=8)}-{got.name}")
        if not got.exists():
            download(file, got, pause_s)
        place = whole / file.to
        if file.unpack:
            unpack(got, place)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(got, place) if _same_disk(got, place.parent) else shutil.copy2(got, place)
    write_sums(whole)
    os.replace(whole, folder)
    shutil.rmtree(staging)
    return folder


def download(file: PublicFile, to: Path, pause_s: float = 2.0) -> None:
    """One file, taken up where an earlier attempt stopped; it bears its name only once its checksum is right."""
    part, notes = to.with_name(f"{to.name}.part"), to.with_name(f"{to.name}.json")
    wanted = _published_md5(file)
    for attempt in range(TRIES):
        try:
            _continue(file.url, part, notes)
            break
        except (
            urllib.error.HTTPError
        ) as error:  # the host answered, and asking again changes nothing
            raise FetchError(f"{file.url}: the host says {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException, _CutShort) as error:
            if attempt + 1 == TRIES:
                raise FetchError(
                    f"{file.url}: {_reason(error)}; run the same command again to go on"
                ) from None
            time.sleep(pause_s * 2**attempt)
    for kind, right in {"sha256": file.sha256, "md5": wanted}.items():
        if right and (found := file_hash(part, kind)) != right:
            part.unlink()
            notes.unlink(missing_ok=True)
            raise FetchError(
                f"{file.url}: its {kind} is {found}, it should be {right}: the download is thrown away"
            )
    notes.unlink(missing_ok=True)
    os.replace(part, to)


def unpack(archive: Path, folder: Path) -> None:
    """A zip file's contents, without the one folder that holds them all.

    Raises FetchError for a path that leads out of the folder (before anything is written), and for damage.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [member for member in zipped.infolist() if not member.is_dir()]
            paths = [_inside(archive, member) for member in members]
            tops = {path.parts[0] for path in paths}
            strip = len(tops) == 1 and all(len(path.parts) > 1 for path in paths)
            for member, path in zip(members, paths, strict=True):
                place = folder.joinpath(*path.parts[strip:])
                place.parent.mkdir(parents=True, exist_ok=True)
                with zipped.open(member) as source, place.open("wb") as target:
                    shutil.copyfileobj(source, target, CHUNK)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        archive.unlink()
        raise FetchError(f"{archive.name}: not a whole zip file ({error}): thrown away") from None


def _inside(archive: Path, member: zipfile.ZipInfo) -> PurePosixPath:
    """A member's path. zipfile turns backslashes into slashes only on Windows; here they are refused."""
    path = PurePosixPath(member.filename)
    outside = path.is_absolute() or ".." in path.parts or "\\" in member.filename
    outside |= not path.parts or ":" in path.parts[0] or stat.S_ISLNK(member.external_attr >> 16)
    if outside:
        raise FetchError(
            f"{archive.name}: it would write outside its folder: {member.filename!r}: nothing unpacked"
        )
    return path


class _CutShort(Exception):
    """A connection that ended before the file did."""


def _continue(url: str, part: Path, notes: Path) -> None:
    """Asks for what is missing. A host that has another file by now (ETag) or no ranges sends it whole."""
    have = part.stat().st_size if part.exists() else 0
    known = json.loads(notes.read_text()) if have and notes.exists() else {}
    headers = {"User-Agent": "jaxrec-fetch"}
    if have and known.get("tag"):
        headers |= {"Range": f"bytes={have}-", "If-Range": known["tag"]}
    elif have:
        part.unlink()
    if have and have == known.get("size"):
        return
    try:
        answer = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S
        )
    except urllib.error.HTTPError as error:
        if (
            error.code != 416
        ):  # the range lies behind the end: what we have is not part of this file
            raise
        part.unlink()
        raise _CutShort("what was there did not belong to this file") from None
    with answer:
        going_on = answer.status == 206
        length = answer.headers.get("Content-Length")
        start = have if going_on else 0
        size = start + int(length) if length else None
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        notes.write_text(json.dumps({"tag": "" if tag.startswith("W/") else tag, "size": size}))
        with part.open("ab" if going_on else "wb") as out:
            _copy(answer, out, start, size, Path(url).name)
    if size is not None and part.stat().st_size != size:
        raise _CutShort(f"cut short at {part.stat().st_size:,} of {size:,} bytes")


def _copy(
    answer: http.client.HTTPResponse, out: IO[bytes], start: int, size: int | None, name: str
) -> None:
    with tqdm(total=size, initial=start, unit="B", unit_scale=True, desc=name, disable=None) as bar:
        while block := answer.read(CHUNK):
            out.write(block)
            bar.update(len(block))


def _published_md5(file: PublicFile) -> str:
    """The sum that the host publishes beside the file, where it does."""
    if not file.md5_url:
        return ""
    try:
        with urllib.request.urlopen(file.md5_url, timeout=TIMEOUT_S) as answer:
            text = answer.read(1000).decode("ascii", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(f"{file.md5_url}: {_reason(error)}") from None
    found = re.search(r"\b[0-9a-fA-F]{32}\b", text)
    if not found:
        raise FetchError(f"{file.md5_url}: no MD5 in it: {text[:60]!r}")
    return found[0].lower()


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", error)
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError):
        return f"no connection ({inner})"
    return str(inner) or type(error).__name__


def _same_disk(a: Path, b: Path) -> bool:
    return a.stat().st_dev == b.stat().st_dev


def write_sums(folder: Path) -> None:
    """Writes SHA256SUMS: a line for each file that is in the folder, however deep."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    lines = [f"{file_hash(p)}  {p.relative_to(folder).as_posix()}\n" for p in files]
    (folder / SUMS).write_text("".join(lines))


def check_sums(folder: Path) -> None:
    """Raises FetchError where a folder was not fetched, or a file of it is missing or is another than what came."""
    sums = folder / SUMS
    if not sums.is_file():
        raise FetchError(f"{folder} is there already, and was not fetched by this command")
    for line in sums.read_text().splitlines():
        right, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file() or file_hash(path) != right:
            raise FetchError(f"{path} is not what was fetched: remove {folder} and fetch it again")


def listing(sets: Mapping[str, PublicSet] = SETS) -> str:
    """A line for each set: name, whether its checksum is known beforehand, what it is."""
    rows = []
    for name, public in sets.items():
        known = all(file.sha256 or file.md5_url for file in public.files)
        rows.append(f"{name:44}{'checksum known' if known else 'no checksum':16}{public.about}")
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Ends the program with one line and status 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m jaxrec.data.fetch", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", nargs="?", help="which set")
    parser.add_argument(
        "--to", type=Path, default=None, help="the folder of data sets; JAXREC_DATA"
    )
    parser.add_argument("--list", action="store_true", help="name all sets")
    asked = parser.parse_args(argv)
    if asked.list:
        print(listing())
        return
    root = asked.to or os.environ.get("JAXREC_DATA")
    try:
        if not asked.name or not root:
            raise FetchError(
                "say which set (`--list` names them) and where to (--to or JAXREC_DATA)"
            )
        folder = fetch(asked.name, Path(root))
        public = SETS[asked.name]
        print(f"{folder}: {public.about}\nlicence: {public.licence}")
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
