"""Floor 2: the one error of this room that a user can mend."""

from jaxrec.config import RunError


class SearchError(RunError, ValueError):
    """Vectors, queries, files or settings that cannot be searched; the message says what to do."""
