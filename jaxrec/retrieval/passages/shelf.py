"""Floor 2: the indexes of many tenants in one folder, each in a folder of its own, and never one for another.

shelf = Shelf("indexes", encoder)
shelf.of("luna-coffee").search("do you ship to Norway?")
"""

import re
import shutil
import threading
from collections import OrderedDict
from pathlib import Path

from jaxrec.files import content_hash
from jaxrec.retrieval.passages.encoder import TextEncoder
from jaxrec.retrieval.passages.folder import HEAD, PassageIndexConfig
from jaxrec.retrieval.passages.index import PassageIndex
from jaxrec.retrieval.top_k import SearchError


class Shelf:
    """Opens a tenant's index when it is asked for, and keeps the last ones open.

    root: the folder of all indexes. encoder: what makes vectors. config: of indexes that are begun. open_at_once: how
    many stay open.
    """

    def __init__(
        self,
        root: str | Path,
        encoder: TextEncoder,
        config: PassageIndexConfig | None = None,
        open_at_once: int = 64,
    ):
        self.root, self.encoder, self.config = Path(root), encoder, config
        self._most, self._open = max(open_at_once, 1), OrderedDict[str, PassageIndex]()
        self._lock = threading.Lock()

    def of(self, tenant: str) -> PassageIndex:
        """A tenant's index. Raises SearchError where there is none, and what `PassageIndex.open` raises."""
        with self._lock:
            if tenant not in self._open:
                folder = folder_of(self.root, tenant)
                if (
                    not (folder / HEAD).is_file()
                    and not folder.with_name(folder.name + ".old").is_dir()
                ):
                    raise SearchError(f"{tenant!r} has no index in {self.root}: build one first")
                self._open[tenant] = PassageIndex.open(folder, self.encoder, tenant=tenant)
            self._open.move_to_end(tenant)
            while len(self._open) > self._most:
                self._open.popitem(last=False)
            return self._open[tenant]

    def begin(self, tenant: str) -> PassageIndex:
        """A tenant's index, an empty one where there is none yet; `keep` writes it."""
        if (folder_of(self.root, tenant) / HEAD).is_file() or tenant in self._open:
            return self.of(tenant)
        return PassageIndex(tenant, self.encoder, self.config)

    def keep(self, index: PassageIndex) -> None:
        """Writes an index to its tenant's folder."""
        index.save(folder_of(self.root, index.tenant))
        with self._lock:
            self._open[index.tenant] = index

    def forget(self, tenant: str) -> bool:
        """Deletes a tenant's index with all that is in it; whether there was one."""
        with self._lock:
            self._open.pop(tenant, None)
            folder = folder_of(self.root, tenant)
            there = [p for p in (folder, folder.with_name(folder.name + ".old")) if p.is_dir()]
            for path in there:
                shutil.rmtree(path)
            return bool(there)


def folder_of(root: str | Path, tenant: str) -> Path:
    """Where a tenant's index lies: its name as far as it can be one of a folder, and a hash of all of it.

    So no name leads out of `root`, and no two lead to one place. Raises SearchError for an empty name.
    """
    if not tenant.strip():
        raise SearchError("a tenant's name is empty")
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", tenant)[:40].strip("-")
    return Path(root) / f"{plain or 'tenant'}-{content_hash(tenant, digits=12)}"
