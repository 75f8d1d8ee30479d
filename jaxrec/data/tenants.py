"""Tenants from wherever they are: the one entrance to every stage that learns from tenants.

    read_tenants("shops/my_shop")            a tenant's folder (see `jaxrec.data.tenant_folder` for what may lie in it)
    read_tenants("shops")                    a folder of such folders
    read_tenants("tenants.jsonl")            a line a tenant: {"key", "guide", "dialogues": [...], ...}, the same parts
    read_tenants("world:train")              the sample world: its training tenants; world:held, the others; world: all
    read_tenants("world:kestrel_travel")     one of them
    read_tenants("world:held:40")            the held-out ones of a world of 40 generated tenants, none hand-written
    read_tenants(["shops", "world:train"])   all of them; no key may come twice

What cannot be read is counted by reason, with its first place, and left out.
"""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrec.config import RunError
from jaxrec.data.instructions import Skipped
from jaxrec.data.tenant import Dialogue, Feedback, Page, Preference, Tenant, Turn
from jaxrec.data.tenant_folder import KNOWN, is_tenant, read_folder, rows_of, tenant_of

__all__ = (
    "Dialogue", "Feedback", "Page", "Preference", "Source", "Tenant", "TenantError", "Turn",
    "choose_tenants", "read_tenants", "with_heldout",
)  # fmt: skip

# A path or a name of the sample world, a tenant as an object of the layout's parts, or one that is there already.
Source = str | Path | Mapping[str, Any] | Tenant


class TenantError(RunError, ValueError):
    """Tenants that cannot be read, or not told apart."""


def read_tenants(sources: Source | Sequence[Source]) -> tuple[list[Tenant], Skipped]:
    """All tenants of one or several sources, in order, and what was left out of them.

    Raises TenantError where a source is missing, holds nobody, or two tenants have one key.
    """
    if isinstance(sources, str | Path | Mapping | Tenant):
        sources = (sources,)
    if not sources:
        raise TenantError(
            "no tenants are given: name a folder of tenants, a .jsonl of them, or the sample world's"
            " (world:train, world:held, world:KEY)"
        )
    skipped, world = Skipped(), functools.cache(_make_world)
    found: dict[str, tuple[Tenant, str]] = {}
    for source in sources:
        own = Skipped()
        tenants = _of(source, own, world)
        for why, count in own.counts.items():
            first = (
                own.first[why].encode("utf-8", "replace").decode()
            )  # a file may be called anything
            skipped.counts[why] = skipped.counts.get(why, 0) + count
            skipped.first.setdefault(why, first)
        for tenant in tenants:
            here = source if isinstance(source, str | Path) else "what was given"
            if tenant.key in found:
                raise TenantError(
                    f"two tenants are called {tenant.key!r}, in {found[tenant.key][1]} and in {here}: rename one"
                )
            found[tenant.key] = (tenant, str(here))
    return [tenant for tenant, _ in found.values()], skipped


def choose_tenants(tenants: Sequence[Tenant], keys: Sequence[str]) -> list[Tenant]:
    """Those of these keys, in the keys' order. Raises TenantError for one that is not there, with the nearest."""
    known = {tenant.key: tenant for tenant in tenants}
    for key in keys:
        if key not in known:
            raise TenantError(f"there is no tenant {key!r}{nearest(key, list(known))}")
    return [known[key] for key in keys]


def with_heldout(tenants: Sequence[Tenant], every: int) -> list[Tenant]:
    """Tenants of whom each `every`-th dialogue is held out where nothing is held out yet; a line says of how many.

    0 holds nothing out.
    """
    split = lambda tenant: not tenant.heldout and 0 < every <= len(tenant.onboarding)
    if count := sum(map(split, tenants)):
        print(f"of {count} tenants each {every}th dialogue is held out to measure on", flush=True)
    return [_split(tenant, every) if split(tenant) else tenant for tenant in tenants]


def nearest(name: str, known: Sequence[str]) -> str:
    """What could be meant: the nearest names, or the first ones; words to end a message with."""
    folded = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(repr(folded[one]) for one in close)}?"
    more = f" and {len(known) - 8} more" if len(known) > 8 else ""
    return f"; there are: {', '.join(list(known)[:8])}{more}" if known else "; there is none"


# ------------------------------------------------------------------------------------------ inside


def _split(tenant: Tenant, every: int) -> Tenant:
    apart = tenant.onboarding[every - 1 :: every]
    rest = tuple(d for d in tenant.onboarding if d not in apart)
    return dataclasses.replace(tenant, onboarding=rest, heldout=apart)


def _of(source: Source, skipped: Skipped, world: Callable[[str], list[Tenant]]) -> list[Tenant]:
    if isinstance(source, Tenant):
        return [source]
    if isinstance(source, Mapping):
        tenant = tenant_of(source, "", "a tenant", skipped)
        if tenant is None:
            raise TenantError(f"a tenant cannot be read: {'; '.join(skipped.lines())}")
        return [tenant]
    if not str(source).strip():
        raise TenantError("the name of a source of tenants is empty")
    path = Path(source).expanduser()
    name, _, rest = str(source).partition(":")
    if name == "world" and not path.exists():
        return _world(rest, world)
    try:
        if path.is_dir():
            tenants = _folder(path, skipped)
        elif path.is_file():
            tenants = _file(path, skipped)
        else:
            raise TenantError(f"there is no file or folder {source}{_of_the_world(str(source))}")
    except OSError as error:
        raise TenantError(f"{error.filename or source}: {error.strerror}") from error
    if not tenants:
        raise TenantError(
            f"{source} holds nobody that can be read: {'; '.join(skipped.lines()) or 'it is empty'}. Looked for"
            f" folders with any of {', '.join(KNOWN)}; or for a .jsonl with a tenant a line"
        )
    return tenants


def _folder(folder: Path, skipped: Skipped) -> list[Tenant]:
    inner = [p for p in sorted(folder.iterdir()) if p.is_dir() and p.name[0] not in ".~_"]
    if is_tenant(folder):
        for path in inner:
            if path.name.casefold() != "pages" and is_tenant(path):
                skipped.add(
                    f"a folder in a tenant's folder ({folder.name} is one itself)", str(path)
                )
        one = read_folder(folder.resolve(), skipped)
        return [one] if one else []
    tenants = []
    for path in inner:
        if is_tenant(path):
            one = read_folder(path, skipped)
            tenants += [one] if one else []
        else:
            names = sorted(p.name for p in path.iterdir())[:3]
            skipped.add(f"a folder that is no tenant's: it holds {', '.join(names) or 'nothing'}"
                        f"{_meant(names)}", path.name)  # fmt: skip
    names = [path.name for path in folder.iterdir() if path.is_file() and path.name[0] != "."]
    if not tenants and names:
        skipped.add(f"files that are no part of a tenant's folder{_meant(names)}", names[0])
    return tenants


def _file(path: Path, skipped: Skipped) -> list[Tenant]:
    if not path.name.casefold().endswith((".jsonl", ".jsonl.gz", ".json")):
        raise TenantError(
            f"{path}: tenants are a folder, or a .jsonl with a tenant a line, not {path.suffix or 'this'}"
        )
    tenants = []
    for where, row in rows_of(path, "", skipped):
        if isinstance(row, Mapping):
            one = tenant_of(row, "", where, skipped)
            tenants += [one] if one else []
        else:
            said = str(row) if isinstance(row, Exception) else "no JSON object"
            skipped.add(said.partition(": line")[0], where)
    return tenants


def _meant(names: Sequence[str]) -> str:
    for name in names:
        if close := difflib.get_close_matches(name.casefold(), KNOWN, n=1, cutoff=0.7):
            return f"; did you mean {close[0]} for {name}?"
    return ""


def _of_the_world(name: str) -> str:
    from jaxrec.world.businesses import KEYS

    return f"; did you mean world:{name}, of the sample world?" if name in KEYS else ""


def _world(rest: str, world: Callable[[str], list[Tenant]]) -> list[Tenant]:
    """Of the sample world a part ("train", "held", "") or a key; behind ":" how large a world is meant."""
    part, _, size = rest.partition(":")
    known = {tenant.key: tenant for tenant in world(size)}
    if part in ("", "train", "held"):
        chosen = [t for t in known.values() if not part or t.held_out == (part == "held")]
        if not chosen:
            raise TenantError(f"world:{rest}: that small a world has no tenants of this part")
        return chosen
    if part not in known:
        hint = nearest(part, ["train", "held", *known])
        raise TenantError(f"the sample world has no tenant {part!r}{hint}")
    return [known[part]]


def _make_world(size: str) -> list[Tenant]:
    """The whole sample world, or one of so many generated tenants."""
    from jaxrec.world.businesses import read_businesses
    from jaxrec.world.tenants import generate

    if size and not (size.isdecimal() and 1 <= int(size) <= 576):
        raise TenantError(f"world: {size!r} is no number of tenants from 1 to 576")
    return generate(n=int(size)) if size else [*generate(), *read_businesses()]
