"""Saving and restoring; the only module that knows Orbax.

A checkpoint is one tree of arrays and one JSON value, written together: Orbax writes into a
temporary folder and renames it, so that a checkpoint is there whole or not at all.
"""

from __future__ import annotations

import logging
import textwrap
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from sscjax.errors import UserError

# Orbax reports every save in several lines: only its warnings are for our users.
for _name in ("absl", "orbax"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class Checkpoints:
    """The newest checkpoints of a run in one folder, numbered by a growing step.

    Args:
      folder: created when missing.
      keep: how many of the newest are kept.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        # Orbax fails in silence on relative folders.
        self.folder = folder.resolve()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> Checkpoints:
        return self

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

    def save(self, step: int, tree: Any, info: dict[str, Any]) -> None:
        """Write a checkpoint before returning; nothing happens if `step` was saved already."""
        if step in self._manager.all_steps():
            return
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(tree), info=ocp.args.JsonSave(info)
            ),
        )
        if not saved:
            raise RuntimeError(f"Orbax did not save step {step} in {self.folder}")

    def info(self, step: int) -> dict[str, Any]:
        """The JSON value of a checkpoint.

        Raises:
          UserError: the checkpoint is not there or damaged.
        """
        return self._read(step, "info", ocp.args.JsonRestore())

    def restore(self, step: int, like: Any) -> Any:
        """The tree of a checkpoint, in the structure, shapes and dtypes of `like`.

        Raises:
          UserError: the checkpoint does not hold such a tree.
        """
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return _unbound(self._read(step, "state", ocp.args.StandardRestore(target)))

    def _read(self, step: int, item: str, how: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{item: how}))[item]
        except (ValueError, KeyError, OSError) as error:
            raise UserError(
                f"checkpoint {self.folder / str(step)} cannot be read ({_reason(error)}): delete "
                "that folder to go on from the one before, or start anew with --fresh"
            ) from error


def _unbound(tree: Any) -> Any:
    """The tree with arrays as computations make them.

    Orbax binds arrays to a device, and for such JAX compiles every function once more.
    """
    return jax.tree.map(lambda leaf: jnp.array(np.asarray(leaf)), tree)


def _reason(error: Exception) -> str:
    """What Orbax complains of, on one line, without the state of its storage library."""
    text = " ".join(str(error).split()) or type(error).__name__
    return textwrap.shorten(text.partition(" [tensorstore_spec")[0], 200, placeholder=" ...")


def save_model(folder: Path, tree: Any) -> None:
    """Write the tree of a finished stage to `folder`, in place of what is there already."""
    with ocp.StandardCheckpointer() as writer:
        writer.save(folder.resolve(), tree, force=True)


def load_model(folder: Path, like: Any) -> Any:
    """The tree that `save_model` wrote, in the structure of `like`.

    Raises:
      UserError: there is none, or it has another structure.
    """
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    try:
        with ocp.StandardCheckpointer() as reader:
            found = reader.restore(folder.resolve(), target)
    except (ValueError, KeyError, OSError) as error:
        raise UserError(
            f"model {folder} cannot be read ({_reason(error)}): give --fresh to train anew"
        ) from error
    return _unbound(found)
