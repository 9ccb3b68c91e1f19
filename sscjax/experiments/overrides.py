"""Configs by name, file or module, and fields of a config set from a dict, checked."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sscjax import configs
from sscjax.configs import default
from sscjax.errors import UserError


def config_of(config: ConfigDict | ModuleType | str | os.PathLike[str]) -> ConfigDict:
    """A fresh config that may be changed.

    Args:
      config: a config, which is copied; a module such as `sscjax.configs.three_class`; the name of
        one of these, or a file.

    Raises:
      UserError: there is no such config, or it is none of a run.
    """
    if isinstance(config, ConfigDict):
        fresh = config.copy_and_resolve_references()
    elif isinstance(config, ModuleType):
        fresh = _of_module(config, str(config.__name__))
    elif isinstance(config, str | os.PathLike):
        path = Path(config)
        fresh = _of_module(_imported(_file_of(path)), str(path))
    else:
        raise UserError(
            f"config is a {type(config).__name__}: expected a ConfigDict, a module of "
            "sscjax.configs, a name such as 'three_class', or a file"
        )
    if "protocol" not in fresh or "stages" not in fresh:
        raise UserError(
            f"config {fresh.get('name', config)!r} is none of a run: expected one like "
            "configs/three_class.py"
        )
    return fresh


def _of_module(module: ModuleType, name: str) -> ConfigDict:
    get = getattr(module, "get_config", None)
    fresh = get() if callable(get) else None
    if not isinstance(fresh, ConfigDict):
        raise UserError(f"config {name}: expected a function get_config() -> ConfigDict")
    return fresh


def _file_of(path: Path) -> Path:
    """The file itself, or the package's of that name, as on the command line."""
    if path.is_file():
        return path
    if path.parent.name in ("", "configs") and path.suffix in ("", ".py"):
        own = configs.file_of(path.stem)
        if own is not None:
            return own
    beside = [file.stem for file in path.parent.glob("*.py")] if path.parent.name else []
    near = difflib.get_close_matches(path.stem, beside or configs.names(), n=1, cutoff=0.5)
    if near:
        hint = f"; did you mean {str(path.with_name(near[0] + path.suffix))!r}?"
    else:
        hint = f": expected a file, or {', '.join(configs.names())}"
    raise UserError(f"config {str(path)!r} does not exist{hint}")


def _imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"sscjax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"config {path}: expected a Python file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError, NameError, AttributeError, OSError) as error:
        raise UserError(f"config {path} cannot be read ({error}): correct the file") from error
    return module


def set_fields(config: ConfigDict, fields: Mapping[str, Any], block: str = "") -> ConfigDict:
    """Set fields by their dotted names, such as `stages.head.epochs`; returns the config.

    Args:
      config: changed in place.
      fields: values by name.
      block: where the names begin, such as `model`.

    Raises:
      UserError: there is no such field, or its type is another.
    """
    for name, value in fields.items():
        full = f"{block}.{name}" if block else name
        *parents, last = full.split(".")
        inner: Any = config
        for parent in parents:
            inner = inner.get(parent) if isinstance(inner, ConfigDict) else None
        if not isinstance(inner, ConfigDict) or last not in inner:
            raise UserError(_unknown(config, full, block))
        if isinstance(inner[last], ConfigDict):
            if not isinstance(value, Mapping):
                raise UserError(f"{full} is a block of fields: set {full}.NAME")
            set_fields(config, value, full)
            continue
        try:
            inner[last] = _plain(value, inner[last])
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{full}={value!r}: expected {type(inner[last]).__name__}, as {inner[last]!r}"
            ) from error
    return config


def set_texts(config: ConfigDict, texts: Mapping[str, str]) -> ConfigDict:
    """Set fields by their dotted names from the texts of a command line; returns the config.

    Args:
      config: changed in place.
      texts: values by name, read as the type that the field has. Tuples of words need no quotes:
        `normal,early,late` and `(normal,early,late)` are as `('normal','early','late')`.

    Raises:
      UserError: there is no such field, or the text is no value of its type.
    """
    known = {name: config_value(config, name) for name in names(config)}
    for name, text in texts.items():
        if name not in known:
            inside = next((field for field in known if field.startswith(f"{name}.")), None)
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean --config.{near[0]}?" if near else ""
            if inside:
                hint = f", it is a block of fields such as --config.{inside}"
            raise UserError(f"--config.{name}: the config has no such field{hint}")
        try:
            value = from_text(name, text, known[name])
        except (KeyError, SyntaxError, TypeError, ValueError) as error:
            kind = _KINDS.get(type(known[name]), type(known[name]).__name__)
            raise UserError(
                f"--config.{name}={text}: expected {kind}, such as {known[name]!r}"
            ) from error
        set_fields(config, {name: value})
    return config


_KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "values with commas between them",
}


def config_value(config: ConfigDict, name: str) -> Any:
    """The value of a field by its dotted name."""
    value: Any = config
    for part in name.split("."):
        value = value[part]
    return value


def from_text(name: str, text: str, before: Any) -> Any:
    """A value as the command line gives it, of the type of the value before.

    Raises:
      ValueError, KeyError, TypeError or SyntaxError: it is none of that type.
    """
    if isinstance(before, bool):
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    if isinstance(before, tuple):
        # All fields of the default that are empty hold words.
        words = all(isinstance(value, str) for value in _default(name, before))
        return _words(name, text) if words else _numbers(text)
    return type(before)(text)


def _default(name: str, before: tuple[Any, ...]) -> tuple[Any, ...]:
    """The field in configs/default.py, whose type holds where a config has emptied it."""
    try:
        value = config_value(default.get_config(), name)
    except KeyError:
        return before
    return value if isinstance(value, tuple) and not before else before


def _words(name: str, text: str) -> tuple[str, ...]:
    """Words in quotes or without, in brackets or without; an entry of a search has commas in it."""
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        value = None
    entries = value if isinstance(value, tuple | list) else (value,)
    if all(isinstance(entry, str) for entry in entries):
        return tuple(entries)
    inner = re.sub(r"^\s*[(\[](.*?),?\s*[)\]]\s*$", r"\1", text, flags=re.DOTALL)
    if not inner.strip():
        return ()
    separator = r",(?=\s*[\w.]+=)" if name == "cv.search" else ","
    parts = [part.strip().strip("'\"") for part in re.split(separator, inner)]
    if not all(parts):
        raise ValueError("an empty word")
    return tuple(parts)


def _numbers(text: str) -> tuple[Any, ...]:
    value = ast.literal_eval(text)
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    if not all(type(number) in (int, float) for number in values):
        raise ValueError("no numbers")
    return values


def _plain(value: Any, before: Any) -> Any:
    """The value as a config holds it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(before, tuple) and isinstance(value, list | np.ndarray):
        value = tuple(np.asarray(value).tolist() if isinstance(value, np.ndarray) else value)
    if isinstance(value, bool) is not isinstance(before, bool):
        raise TypeError("a truth value and something else")
    return value


def _unknown(config: ConfigDict, full: str, block: str) -> str:
    known = [name for name in names(config) if name.startswith(block)]
    near = difflib.get_close_matches(full, known, n=1, cutoff=0.5)
    strip = len(block) + 1 if block else 0
    hint = f"; did you mean {near[0][strip:]!r}?" if near else ""
    return f"config has no field {full!r}{hint}"


def names(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """The dotted names of all fields."""
    for key, value in config.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, ConfigDict):
            yield from names(value, name)
        else:
            yield name


def default_folder(name: str, protocol: str) -> Path:
    """Where a run lies for which no folder is named.

    Args:
      name: `config.name`.
      protocol: `config.protocol`.
    """
    return Path("runs") / (name if protocol in ("holdout", "auto") else f"{name}-{protocol}")
