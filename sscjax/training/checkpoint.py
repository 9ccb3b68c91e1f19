"""Saving and restoring; the only module that knows Orbax.

A checkpoint is one tree of arrays and one JSON value, written together: Orbax writes into a
temporary folder and renames it, so that a checkpoint is there whole or not at all. Whatever comes
back is compared with a hash that was written with it: Orbax does not see a changed bit everywhere.

The arrays are written end to end, as one for each dtype. For every array that it writes its storage
library keeps half a kilobyte until the process ends, and a week has thousands of checkpoints of
hundreds of arrays each.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import itertools
import json
import logging
import os
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from sscjax.errors import BUSY, UserError
from sscjax.system import files

_LOG = logging.getLogger(__name__)

DAMAGED = ".damaged"
"""Suffix of the folder of a checkpoint that could not be read."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within: Orbax logs nothing.

    It reports every save in several lines, and every failure with the stacks of all its threads,
    although it raises it as well: what users need to know is logged here.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "orbax")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class Checkpoints:
    """The newest checkpoints of a run in one folder, numbered by a growing step.

    Args:
      folder: created when missing.
      keep: how many of the newest are kept.
    """

    @_quiet()
    def __init__(self, folder: Path, keep: int = 2) -> None:
        # Orbax fails in silence on relative folders.
        self.folder = folder.resolve()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> Checkpoints:
        return self

    @_quiet()
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """Step of the newest whole checkpoint, None where there is none."""
        return self._manager.latest_step()

    @_quiet()
    def save(self, step: int, tree: Any, info: dict[str, Any]) -> None:
        """Write a checkpoint before returning; nothing happens if `step` was saved already.

        Raises:
          OSError: the disk is full or cannot be written.
        """
        if step in self._manager.all_steps():
            return
        sums = {"info": _json_sha256(info), "state": tree_sha256(tree)}
        parts = ocp.args.Composite(
            state=ocp.args.StandardSave(_packed(tree)),
            info=ocp.args.JsonSave({"info": info, "sha256": sums}),
        )
        # Even below the newest: a stage that is trained again comes before later ones.
        write = functools.partial(self._manager.save, step, args=parts, force=True)
        if not _written(write, self.folder / str(step)):
            raise RuntimeError(f"Orbax did not save step {step} in {self.folder}")

    @_quiet()
    def newest(
        self, like: Any, wanted: Callable[[dict[str, Any]], bool]
    ) -> tuple[dict[str, Any], Any] | None:
        """JSON value and tree of the newest checkpoint that can be read; None where there is none.

        Newer ones that are damaged are set aside under another name, and the log says so.

        Args:
          like: the tree's structure, shapes and dtypes.
          wanted: whether a checkpoint with this JSON value is of use; older ones than the first
            that is not are not looked at.

        Raises:
          OSError: the machine does not let one be read now; it stays where it is.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                info = self.info(step)
                return (info, self.restore(step, like)) if wanted(info) else None
            except UserError as error:
                aside = self._aside(step)
                try:
                    os.rename(self.folder / str(step), aside)
                except OSError:
                    raise error from None
                _LOG.warning(
                    "checkpoint %s cannot be read (%s): it is kept as %s, and the run resumes from "
                    "what was saved before",
                    *(self.folder / str(step), _reason(error.__cause__ or error), aside.name),
                )
                self._manager.reload()
        return None

    def _aside(self, step: int) -> Path:
        """A free name for a damaged checkpoint: a step written again may be damaged again."""
        first = self.folder / f"{step}{DAMAGED}"
        others = (first.with_name(f"{first.name}.{number}") for number in itertools.count(2))
        free = (path for path in itertools.chain([first], others) if not os.path.lexists(path))
        return next(free)

    def info(self, step: int) -> dict[str, Any]:
        """The JSON value of a checkpoint.

        Raises:
          UserError: the checkpoint is not there or damaged.
        """
        return self._info(step)["info"]

    def _info(self, step: int) -> dict[str, Any]:
        saved = self._read(step, "info", ocp.args.JsonRestore())
        try:
            same = saved["sha256"]["info"] == _json_sha256(saved["info"])
        except (KeyError, TypeError):
            same = False
        if not same:
            raise self._unreadable(step, ValueError("its info is not what was saved"))
        return saved

    def restore(self, step: int, like: Any) -> Any:
        """The tree of a checkpoint, in the structure, shapes and dtypes of `like`.

        Raises:
          UserError: the checkpoint does not hold such a tree.
        """
        sums = self._info(step)["sha256"]
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _packed(like))
        packed = self._read(step, "state", ocp.args.StandardRestore(target))
        try:
            tree = _unpacked(packed, like)
        except (KeyError, ValueError) as error:
            raise self._unreadable(step, error) from error
        if sums.get("state") != tree_sha256(tree):
            raise self._unreadable(step, ValueError("its arrays are not what was saved"))
        return tree

    @_quiet()
    def _read(self, step: int, item: str, how: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{item: how}))[item]
        except Exception as error:  # Orbax may fail in any way on damaged files
            _raise_if_undamaged(error, self.folder / str(step))
            raise self._unreadable(step, error) from error

    def _unreadable(self, step: int, error: Exception) -> UserError:
        unreadable = UserError(
            f"checkpoint {self.folder / str(step)} cannot be read ({_reason(error)}): delete "
            "that folder to resume from the one before, or start again with --fresh"
        )
        unreadable.__cause__ = error
        return unreadable


def _json_sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def tree_sha256(tree: Any) -> str:
    """SHA-256 over every array's place in the tree, dtype, shape and values."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return files.arrays_sha256(
        (jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in leaves
    )


def _packed(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree end to end, one array for each dtype."""
    parts: dict[str, list[np.ndarray]] = {}
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        parts.setdefault(array.dtype.name, []).append(array.ravel())
    return {name: np.concatenate(leaves) for name, leaves in parts.items()}


def _unpacked(packed: dict[str, Any], like: Any) -> Any:
    """The tree that `_packed` made one array of, in the structure of `like`.

    With arrays as computations make them: Orbax binds its own to a device, and for such JAX
    compiles every function once more.
    """
    arrays = {name: np.asarray(array) for name, array in packed.items()}
    taken = dict.fromkeys(arrays, 0)

    def take(leaf: Any) -> jax.Array:
        name, start = np.dtype(leaf.dtype).name, taken[np.dtype(leaf.dtype).name]
        taken[name] += int(np.prod(leaf.shape))
        return jnp.array(arrays[name][start : taken[name]].reshape(leaf.shape))

    return jax.tree.map(take, like)


def _unbound(tree: Any) -> Any:
    """The tree with arrays as computations make them.

    Orbax binds arrays to a device, and for such JAX compiles every function once more.
    """
    return jax.tree.map(lambda leaf: jnp.array(np.asarray(leaf)), tree)


def _reason(error: BaseException) -> str:
    """What Orbax complains of, on one line, without the state of its storage library."""
    text = " ".join(str(error).split()) or type(error).__name__
    return textwrap.shorten(text.partition(" [tensorstore_spec")[0], 200, placeholder=" ...")


_TRIES = 3

# What the disk, or the machine, has against writing, and against reading what is whole. An error of
# the device while reading is damage: a bad sector stays one.
_UNWRITABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE),
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE),
)
_UNDAMAGED = (*sorted(BUSY), errno.EACCES, errno.EPERM, errno.ESTALE)


def _system_error(error: Exception, numbers: Sequence[int], path: Path) -> OSError | None:
    """The error as the system's, if one of `numbers`; the storage library says it in words."""
    if isinstance(error, OSError) and error.errno:
        return error if error.errno in numbers else None
    text = str(error)
    for number in numbers:
        if os.strerror(number) in text:
            return OSError(number, os.strerror(number), str(path))
    return None


def _raise_if_undamaged(error: Exception, path: Path) -> None:
    """Raise what kept a checkpoint from being read, where that says nothing of what it holds."""
    if isinstance(error, MemoryError):
        raise error
    cause = _system_error(error, _UNDAMAGED, path)
    if cause is not None:
        raise OSError(cause.errno, cause.strerror, cause.filename or str(path)) from error


def _written(write: Callable[[], Any], path: Path) -> Any:
    """What `write` returns; it may write to `path` several times.

    Raises:
      OSError: the disk is full or cannot be written, whichever way Orbax says so.
    """
    for left in reversed(range(_TRIES)):
        try:
            return write()
        except TimeoutError:
            # Orbax waits by the clock, which jumps where a computer wakes up from sleep.
            if not left:
                raise
            _LOG.warning("%s: not written in time: trying again", path)
        except Exception as error:
            cause = _system_error(error, _UNWRITABLE, path)
            if cause is not None and cause is not error:
                raise cause from error
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(path)
            raise
    raise AssertionError


@_quiet()
def save_model(folder: Path, tree: Any) -> None:
    """Write the tree of a finished stage to `folder`, in place of what is there already.

    Raises:
      OSError: the disk is full or cannot be written.
    """

    def write() -> None:
        with ocp.StandardCheckpointer() as writer:
            writer.save(folder.resolve(), tree, force=True)

    _written(write, folder)


@_quiet()
def load_model(folder: Path, like: Any) -> Any:
    """The tree that `save_model` wrote, in the structure of `like`.

    Raises:
      UserError: there is none, or it has another structure.
    """
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    try:
        with ocp.StandardCheckpointer() as reader:
            tree = reader.restore(folder.resolve(), target)
    except Exception as error:  # as above
        _raise_if_undamaged(error, folder)
        raise UserError(
            f"model {folder} cannot be read ({_reason(error)}): give --fresh to train again"
        ) from error
    return _unbound(tree)
