"""Floor 1: checkpoints of a run that goes on, and parameters of a stage that is finished. Orbax underneath.

    FOLDER/120/              one checkpoint: state/ (arrays) and meta/ (frozen weights' hash, the loop's own numbers)
    FOLDER/120.damaged/      one that could not be read, moved aside
    FOLDER/config.json       the configuration of the run that wrote last

Saving is asynchronous and atomic: a checkpoint appears under its number when all of it is written, and older
ones go only after that. A state is restored onto whatever mesh the new run has.
"""

import itertools
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import config as configs
from jaxrec import files, processes
from jaxrec import mesh as meshes
from jaxrec.run_record import RunRecord
from jaxrec.structs import TrainState

Tree = Any
_log = logging.getLogger(__name__)
_LIST = "files.json"
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
)  # what orbax and tensorstore raise over missing or cut files


class CheckpointError(configs.RunError):
    """A checkpoint that cannot be written, or that does not belong to this run."""


class Checkpoints:
    """The checkpoints of one run: the newest `keep` of them.

    frozen: `fingerprint` of the frozen weights; a resume onto others is refused. config: written beside them.
    record: the run's settings and data; a resume that changes one that matters is refused, unless `allow_changes`.
    Errors of an asynchronous save are raised by the next `save`, by `wait` or by leaving the context.
    folder: where they lie.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keep: int = 2,
        frozen: str = "",
        config: Any = None,
        record: RunRecord | None = None,
        allow_changes: bool = False,
    ):
        self.record, self.allow_changes = record, allow_changes
        self.changed: list[str] = []  # since the restored checkpoint, "name: before -> now"
        self.folder, self.frozen, self.keep = Path(folder).absolute(), frozen, keep
        self._config = configs.to_dict(config) if config is not None else None
        self._saving = 0
        logging.getLogger("absl").addFilter(_raised_anyway)
        self._orbax = self._open()

    def _open(self) -> Any:
        import orbax.checkpoint as ocp  # heavy: only those who save or restore pay for it

        after = ocp.AsyncOptions(post_finalization_callback=self._list_files)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self.keep, create=True, cleanup_tmp_directories=True, async_options=after
        )
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        try:
            return ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)
        except OSError as error:
            raise CheckpointError(f"cannot keep checkpoints in {self.folder}: {error}") from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        try:
            self.wait()
        except CheckpointError as failed:
            if kind is None:
                raise
            _log.error("%s", failed)  # the error that ends the run comes first
        finally:
            self._orbax.close()
            logging.getLogger("absl").removeFilter(_raised_anyway)

    def steps(self) -> list[int]:
        """The steps that can be restored, ascending."""
        return sorted(self._orbax.all_steps())

    def save(self, state: TrainState, loop: Mapping[str, Any] | None = None) -> None:
        """Begins to write the state, data source included; returns as soon as the state may be donated."""
        import orbax.checkpoint as ocp

        step = int(state.step)
        if step in self._orbax.all_steps():
            return
        self.wait()  # one save at a time
        self._saving = step
        meta = {"frozen": self.frozen, "loop": dict(loop or {})}
        meta |= {"record": self.record.as_dict()} if self.record else {}
        parts = ocp.args.Composite(
            state=ocp.args.StandardSave(_as_dict(state)), meta=ocp.args.JsonSave(meta)
        )
        try:
            self._orbax.save(step, args=parts)
            if self._config is not None and jax.process_index() == 0:
                files.write_json(self.folder / "config.json", self._config, 2, default=str)
        except Exception as error:
            raise self._failed(f"step {step}", error) from error

    def wait(self) -> None:
        """Until everything is on disk. Raises CheckpointError if it could not be written."""
        try:
            self._orbax.wait_until_finished()
            self._orbax.check_for_errors()
        except Exception as error:
            raise self._failed("the last checkpoint", error) from error

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """(state, the loop's numbers) of the newest good checkpoint, or None if there is none.

        `like` gives structure, shapes and the layout of the new mesh. A checkpoint that cannot be read is moved aside
        with a warning and the one before is taken. Raises CheckpointError if a checkpoint is sound but of another
        model, of other frozen weights, settings or data, or if there are checkpoints and none of them can be read.
        """
        found = self.steps()
        for step in reversed(found):
            try:
                saved, meta = self._describe(step)
            except _UNREADABLE as error:
                self._move_aside(step, error)
                continue
            # Before anything is read: arrays of another shape would make orbax fail, and a sound checkpoint of
            # another run would be taken for a damaged one and moved aside.
            self._refuse_strangers(step, saved, meta, like)
            try:
                return self._read(step, like), meta["loop"]
            except _UNREADABLE as error:
                self._move_aside(step, error)
        if found:
            raise CheckpointError(
                f"none of the checkpoints {found} in {self.folder} can be read; they were renamed to "
                "STEP.damaged. Start again in another folder, or without resume."
            )
        return None

    def _list_files(self) -> None:
        """The size of each file, by which a cut one is known; written just before the checkpoint takes its number."""
        if jax.process_index() == 0:
            for folder in self.folder.glob(f"{self._saving}.orbax-checkpoint-tmp*"):
                files.write_json(folder / _LIST, _sizes(folder), 2)

    def _check_files(self, step: int) -> None:
        """Raises ValueError for a file that is cut or gone, before orbax stumbles over it in many threads at once.

        Damage that keeps a file's size is left to the reading itself: its checksums find it.
        """
        folder = self.folder / str(step)
        if not (folder / _LIST).is_file():
            raise ValueError(f"{_LIST} is gone")
        found = _sizes(folder)
        for name, size in json.loads((folder / _LIST).read_text()).items():
            if found.get(name) != size:
                raise ValueError(f"{name} has {found.get(name, 'no')} bytes, {size} were written")

    def _describe(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        import orbax.checkpoint as ocp

        self._check_files(step)
        saved = self._orbax.item_metadata(step)["state"]
        if saved is None:
            raise ValueError("its metadata cannot be read")
        meta = self._orbax.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
        return _leaves(saved.tree), meta["meta"]

    def _read(self, step: int, like: TrainState) -> TrainState:
        import orbax.checkpoint as ocp

        wanted = ocp.args.Composite(
            state=ocp.args.StandardRestore(jax.tree.map(_abstract, _as_dict(like)))
        )
        state = self._orbax.restore(step, args=wanted)["state"]
        return TrainState(**state)

    def _refuse_strangers(
        self, step: int, saved: Mapping[str, Any], meta: Mapping[str, Any], like: TrainState
    ) -> None:
        where = f"checkpoint {step} in {self.folder}"
        self.changed = self._changes(meta)
        if self.changed and not self.allow_changes:
            raise CheckpointError(
                f"{where} was made with other settings or data: {'; '.join(self.changed)}. Put them back, name another"
                " --out, or go on all the same with --loop.allow-changes"
            )
        if meta["frozen"] != self.frozen:
            raise CheckpointError(
                f"{where} was trained on other frozen weights (hash {meta['frozen'] or 'of none'}; these have "
                f"{self.frozen or 'none'}): give it those, or start in another folder"
            )
        mine = _leaves(_as_dict(like))
        for path in sorted(saved.keys() ^ mine.keys()):
            side = "holds" if path in saved else "lacks"
            raise CheckpointError(f"{where} is of another run: it {side} {path}")
        for path, leaf in mine.items():
            if tuple(saved[path].shape) != np.shape(leaf):
                raise CheckpointError(
                    f"{where} is of another model: {path} has the shape {tuple(saved[path].shape)} there "
                    f"and {np.shape(leaf)} here"
                )

    def _changes(self, meta: Mapping[str, Any]) -> list[str]:
        """What matters and is not as in the run that wrote this checkpoint."""
        if self.record is None or "record" not in meta:
            return []
        same_frozen = bool(self.frozen) and meta["frozen"] == self.frozen
        return self.record.changes(meta["record"], same_frozen)

    def _move_aside(self, step: int, error: Exception) -> None:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        _log.warning(
            "checkpoint %d in %s is damaged and is not used (%s)", step, self.folder, reason
        )
        self._orbax.close()
        if jax.process_index() == 0:
            aside = self.folder / f"{step}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / str(step)).rename(aside)
        # No process may list the folder while the first one is still renaming in it.
        processes.meet(f"checkpoint-{step}-moved")
        self._orbax = self._open()

    def _failed(self, what: str, error: Exception) -> CheckpointError:
        kept = (
            [int(p.name) for p in self.folder.iterdir() if p.name.isdigit()]
            if self.folder.is_dir()
            else []
        )
        full = "No space left" in str(error) or getattr(error, "errno", None) == 28
        why = "the disk is full" if full else f"{type(error).__name__}: {str(error)[:300]}"
        return CheckpointError(
            f"{what} could not be saved to {self.folder}: {why}. "
            f"Checkpoints that are there and good: {sorted(kept) or 'none'}"
        )


# ------------------------------------------------------------------------------------------ finished stages


def save_params(path: str | Path, params: Tree, facts: Mapping[str, Any] | None = None) -> None:
    """Parameters of a finished stage (nested dicts of arrays) into folder `path`, replacing what was there.

    `facts` (JSON: the model's config, the step, a score) lies beside them in facts.json. Atomic: the folder holds the
    old parameters or the new ones.
    """
    import orbax.checkpoint as ocp

    path = Path(path).absolute()
    fresh = path.with_name(path.name + ".new")
    try:
        with ocp.StandardCheckpointer() as writer:
            writer.save(fresh / "params", params, force=True)
        if jax.process_index() == 0:
            files.write_json(fresh / "facts.json", dict(facts or {}), 2, default=str)
            files.put_in_place(fresh, path)
    except Exception as error:
        raise CheckpointError(f"the parameters could not be saved to {path}: {error}") from error
    processes.meet(f"saved-{path.name}")


def load_params(
    path: str | Path, mesh: jax.sharding.Mesh | None = None, rules: meshes.Rules = meshes.RULES
) -> Tree:
    """The parameters that `save_params` wrote: numpy arrays, or placed on `mesh` by the rules."""
    import orbax.checkpoint as ocp

    folder = _whole(path) / "params"
    with ocp.StandardCheckpointer() as reader:
        try:
            saved = reader.metadata(folder).item_metadata.tree
            shape = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
            like = jax.tree.map(shape, saved)
            if mesh is None:
                like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
            else:
                place = lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at)
                like = jax.tree.map(place, like, meshes.shardings(mesh, like, rules))
            return reader.restore(folder, like)
        except Exception as error:
            raise CheckpointError(f"the parameters in {folder} cannot be read: {error}") from error


def load_facts(path: str | Path) -> dict[str, Any]:
    """The facts that `save_params` wrote beside the parameters."""
    facts = _whole(path) / "facts.json"
    try:
        return json.loads(facts.read_text())
    except ValueError as error:
        raise CheckpointError(f"{facts} is damaged: {error}") from error


def _whole(path: str | Path) -> Path:
    folder = files.whole_folder(path, "facts.json")
    if folder is None:
        raise CheckpointError(f"there are no saved parameters in {Path(path).absolute()}")
    return folder


# ------------------------------------------------------------------------------------------ hash


def fingerprint(tree: Tree) -> str:
    """A hash of weights by path, shape, type and value; the same on any mesh. "" for no weights.

    Each leaf is summed on the devices where it lies (two position-dependent sums of its bits, modulo 2^32: integer
    addition does not mind the order), so nothing is gathered. It tells weights apart; it is no defence against forgery.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        return ""
    sums = [_sums(jnp.asarray(leaf)) for _, leaf in leaves]  # all are under way before one is read
    parts = (
        (f"{meshes.path_of(keys)} {np.shape(leaf)} {leaf.dtype}", np.asarray(own))
        for (keys, leaf), own in zip(leaves, sums, strict=True)
    )
    return files.content_hash(*itertools.chain.from_iterable(parts), digits=16)


@jax.jit
def _sums(leaf: jax.Array) -> jax.Array:
    width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[leaf.dtype.itemsize]
    bits = (
        leaf.astype(jnp.uint8) if leaf.dtype == bool else jax.lax.bitcast_convert_type(leaf, width)
    )
    bits = bits.astype(jnp.uint32)
    place, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        place += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    # Knuth's multiplicative hash: neighbouring places get unrelated factors, so that values which changed places
    # change the sum.
    mixed = (place * jnp.uint32(2654435761)) ^ (place >> 15)
    # An odd factor can be undone modulo 2^32, so a single changed value always changes the sum.
    odd = mixed * 2 + 1
    return jnp.stack([jnp.sum(bits * odd), jnp.sum((bits ^ mixed) * (odd ^ (bits >> 7)))])


# ------------------------------------------------------------------------------------------ inside


def _as_dict(state: TrainState) -> dict[str, Tree]:
    """Plain dict for orbax; numpy scalars become 0-d arrays, as it saves those and then cannot read them back."""
    parts = {name: getattr(state, name) for name in ("step", "params", "opt", "extra", "source")}
    return jax.tree.map(
        lambda leaf: leaf if isinstance(leaf, jax.Array) else np.asarray(leaf), parts
    )


def _abstract(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return leaf


def _leaves(tree: Tree) -> dict[str, Any]:
    return {meshes.path_of(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _raised_anyway(record: logging.LogRecord) -> bool:
    """Drops the tracebacks that orbax logs of errors which it then raises: the one clear line would drown."""
    return not (record.exc_info and "orbax" in record.pathname)


def _sizes(folder: Path) -> dict[str, int]:
    """Of the parts' files; those beside the parts are orbax's own, which it still rewrites."""
    paths = sorted(path for path in folder.glob("*/**/*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in paths}
