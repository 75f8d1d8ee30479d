"""Floor 4: what the reference policy gives every answer of a data set: computed once, kept on disk, gone on with.

    FOLDER/HASH.npy     float32 [rows], nats; NaN where a row is not done yet

HASH is of the reference's weights and of the very token rows, so that numbers of another model or of other data are
never taken for these. A run that was stopped goes on where the file ends.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PyTree

from jaxrec import mesh as meshes
from jaxrec.checkpoint import fingerprint
from jaxrec.config import RunError
from jaxrec.data.store.reading import StoredRows, StoredSide
from jaxrec.files import content_hash, open_atomically
from jaxrec.models.language.tuned_lm import LM
from jaxrec.objectives.prefer import answers
from jaxrec.structs import Pairs, Thumbs


class ReferenceFailed(RunError, ValueError):
    """Reference log-probabilities that cannot be computed, or are not finite."""


def with_reference(
    lm: LM, tree: PyTree, rows: Any, folder: str | Path, mesh: jax.sharding.Mesh, batch: int = 32
) -> Any:
    """`Pairs` or `Thumbs` with the log-probabilities that `tree`, as it is now, gives both of their sides.

    Args:
      lm: the model.
      tree: all its parts.
      rows: `Pairs` or `Thumbs` of numpy arrays, or the rows of a store of pairs.
      folder: where what is computed once is kept.
      mesh: that a batch is placed on.
      batch: rows a call; must divide by data x fsdp.

    Raises what `reference_log_probs` raises.
    """
    told = lambda side: reference_log_probs(lm, tree, side, folder, mesh, batch)
    if isinstance(rows, StoredRows):
        sides = {name: told(StoredSide(rows, name)) for name in ("chosen", "rejected")}
        return rows.with_columns({f"{name}_reference_B": found for name, found in sides.items()})
    if isinstance(rows, Pairs):
        return rows.replace(
            chosen_reference_B=told(rows.chosen), rejected_reference_B=told(rows.rejected)
        )
    if isinstance(rows, Thumbs):
        return rows.replace(
            answer_reference_B=told(rows.answer), mismatched_reference_B=told(rows.mismatched)
        )
    raise TypeError(f"Pairs, Thumbs or StoredRows, not {type(rows).__name__}")


def reference_log_probs(
    lm: LM, tree: PyTree, rows: Any, folder: str | Path, mesh: jax.sharding.Mesh, batch: int = 32
) -> Float[np.ndarray, " B"]:
    """log p of each answer under `tree`, nats. What an earlier call left in the folder is not computed again.

    Args:
      lm: the model.
      tree: all its parts.
      rows: `Tokens` or `Turns` of numpy arrays, or a `StoredSide`.
      folder: where the numbers lie, under the hash of weights and rows.
      mesh: that a batch is placed on.
      batch: rows a call; must divide by data x fsdp.

    Raises ReferenceFailed where one is not finite, naming the row, and in a job of several processes, which would
    need each other's rows: there the reference is switched off in the step.
    """
    if jax.process_count() > 1:
        raise ReferenceFailed(
            "reference log-probabilities are computed by one process: set reference='switched'"
        )
    meshes.check_batch(mesh, batch)
    stored = isinstance(rows, StoredSide)
    size = len(rows) if stored else len(jax.tree.leaves(rows)[0])
    take = lambda which: (
        rows[which] if stored else jax.tree.map(lambda x: np.asarray(x)[which], rows)
    )
    path = Path(folder) / f"{_key(lm, tree, rows)}.npy"
    told_B = _opened(path, size)
    ask = jax.jit(lambda tree, part: answers(lm, tree, part).log_p_B)
    todo = np.flatnonzero(np.isnan(told_B))
    for start in range(0, len(todo), batch):
        which = todo[start : start + batch]
        full = np.resize(which, batch)  # the last call is filled up with rows it has anyway
        with meshes.within(mesh):
            found = np.asarray(ask(tree, meshes.place_batch(mesh, take(full), batch)))[: len(which)]
        if not np.isfinite(found).all():
            bad = int(which[np.flatnonzero(~np.isfinite(found))[0]])
            raise ReferenceFailed(
                f"the reference gives row {bad} a log-probability that is not finite: look at its weights and at"
                " that row"
            )
        told_B[which] = found
        # Written at every batch, so that a run that is stopped loses one batch and not the whole data set.
        told_B.flush()
    return np.array(told_B)


def _opened(path: Path, size: int) -> np.memmap:
    """The file of this model and data, made new where there is none."""
    if not path.is_file():
        with open_atomically(path, "wb") as file:
            np.save(file, np.full(size, np.nan, np.float32))
    return np.load(path, mmap_mode="r+")


def _key(lm: LM, tree: PyTree, rows: Any) -> str:
    parts: list[Any] = [f"{lm!r} {fingerprint(tree)}"]
    if isinstance(rows, StoredSide):
        return content_hash(*parts, rows.name, rows.identity, digits=24)
    for keys, leaf in jax.tree_util.tree_leaves_with_path(rows):
        parts += [f"{meshes.path_of(keys)} {leaf.shape} {leaf.dtype}", np.asarray(leaf)]
    return content_hash(*parts, digits=24)
