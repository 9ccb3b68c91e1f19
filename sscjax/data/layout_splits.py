"""Folders train, val and test: what lies below them, or why they cannot be read as splits."""

from __future__ import annotations

from collections.abc import Sequence

from sscjax.data import folder_names, names
from sscjax.data.folder_names import some
from sscjax.data.folder_view import NoClassesError, View
from sscjax.data.layout import option, path_option, split_of


def below_splits(view: View) -> View | None:
    """What lies below folders train, val and test; None where these are none."""
    split_like = [top for top in view.tops if split_of(top)]
    others = [top for top in view.tops if not split_of(top)]
    if len({split_of(top) for top in split_like}) < 2:
        if all(map(folder_names.is_part, view.tops)):
            likely = f"level/class{'/patient' if view.level(2) else ''}"
            raise view.refusal(
                f"the folders {some(view.tops)} are splits or folds by their names; rename them "
                "train, val or test to read these",
                [f"{option(likely)} reads all without them"] * bool(view.level(1))
                + [f"{option('class')} if they are classes"],
            )
        refuse_splits_inside(view)
        return None
    shown = ", ".join(split_like)
    if others:
        raise view.refusal(
            f"the folders {shown} are splits by their names, beside {some(others)}; move these "
            "away to read the splits",
            [f"{option('class/patient')} takes all of them for classes"],
        )
    kids = view.kids()
    bare = [top for top in split_like if not kids[top] or (top,) in view.dirs]
    if not any(kids.values()):
        raise NoClassesError(
            f"{view.folder}: the folders {shown} are splits by their names and hold no class "
            "folders; expected split/class/image.png, or a table with a column for the image and "
            "one for the label"
        )
    if bare:
        raise view.refusal(
            f"the folders {shown} are splits by their names, and {some(bare)} has images without "
            "a class folder",
            [
                "move those without a class away",
                path_option(f"{view.folder}/{_train(sorted(set(split_like) - set(bare)))}"),
            ],
        )
    inner = View(view.folder, "split/", {parts[1:] for parts in view.dirs})
    common = set.intersection(*({names.key(name) for name in kids[top]} for top in split_like))
    if len(inner.tops) == 1 or (
        len(common) == 1 and folder_names.containers(inner.tops) == inner.tops
    ):
        deeper = inner.level(1)
        if not deeper:
            raise NoClassesError(
                f"{view.folder}: the folders {shown} are splits by their names, and hold "
                f"{some(inner.tops)} but no class folders; expected split/class/image.png, or a "
                "table with a column for the image and one for the label"
            )
        raise view.refusal(
            f"the folders {shown} are splits by their names, and {some(inner.tops)} in them is no "
            f"class; the classes are probably {some(deeper)}",
            [option("split/level/class")],
        )
    if len(common) < 2 and not inner.patients_first():
        raise view.refusal(
            f"the folders {shown} are splits by their names, and have other folders in them "
            f"({'; '.join(f'{top}: {some(kids[top])}' for top in split_like)}), expected the same "
            "classes in each",
            [
                path_option(f"{view.folder}/{_train(split_like)}") + " reads one of them",
                f"{option('split/class')} takes all names for classes",
            ],
        )
    return inner


def refuse_splits_inside(view: View) -> None:
    """Refuse train, val and test below the classes, which no patient is called."""
    below = view.level(1)
    if len({split_of(name) for name in below}) > 1 and all(split_of(name) for name in below):
        raise view.refusal(
            f"the folders {some(below)} below the classes are splits by their names",
            [option("class/split")],
        )


def _train(splits: Sequence[str]) -> str:
    """The folder of the training images, if it is there."""
    return next((top for top in splits if split_of(top) == "train"), splits[0] if splits else "")
