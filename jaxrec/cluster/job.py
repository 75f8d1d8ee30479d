"""What is done to every shard, and how it is said what went wrong."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxrec.config import RunError


class ClusterError(RunError):
    """The cluster, or what its workers need before the first shard: an address, an installed package, a setup."""


class ShardError(RunError):
    """A shard that can't be made: its name, and why."""


@dataclass(frozen=True)
class Job:
    """What is done to every shard, and how it is called in messages.

    setup gives what a worker keeps between shards (a loaded model), None: nothing. Then `function` takes a shard
    alone, else that and the shard.
    """

    function: Callable[..., Any]
    setup: Callable[[], Any] | None = None
    name: Callable[[int, Any], str] = lambda number, shard: f"shard {number}"

    def begin(self) -> Callable[[Any], Any]:
        """Shard -> result, once `setup` is done. Raises ClusterError where it fails; RunErrors go on as they are."""
        if self.setup is None:
            return self.function
        try:
            kept = self.setup()
        except RunError:
            raise
        except Exception as error:
            raise ClusterError(f"a worker could not be set up: {_told(error)}") from error
        return lambda shard: self.function(kept, shard)

    def failure(self, number: int, shard: Any, error: Exception) -> ShardError:
        """One line that names the shard and says what went wrong; a RunError's own, else with the line of code."""
        return ShardError(f"{self.name(number, shard)}: {_told(error)}")


def _told(error: Exception) -> str:
    """A RunError's own line; of another error its kind, its words and the line of code that it came from."""
    if isinstance(error, RunError):
        return str(error)
    words = " ".join(f"{type(error).__name__}: {error}".split())
    frames = traceback.extract_tb(error.__traceback__)
    return words + (f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else "")
