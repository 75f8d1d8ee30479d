"""Where the public data sets lie: the folder that JAXREC_DATA names, one subfolder a set."""

import os
from pathlib import Path

from jaxrec.config import RunError


class DataMissing(RunError, FileNotFoundError):
    """A data set that is asked for is not there."""


def dataset(name: str) -> Path:
    """The folder of one data set. Raises DataMissing saying what to set or to fetch."""
    root = os.environ.get("JAXREC_DATA")
    if not root:
        raise DataMissing(
            f"data set {name!r}: set JAXREC_DATA to the folder that holds the public data sets"
        )
    folder = Path(root) / name
    if not folder.is_dir():
        there = (
            sorted(p.name for p in Path(root).iterdir() if p.is_dir())
            if Path(root).is_dir()
            else []
        )
        raise DataMissing(
            f"there is no data set {name!r} in JAXREC_DATA={root}; there are: {', '.join(there)}"
        )
    return folder
