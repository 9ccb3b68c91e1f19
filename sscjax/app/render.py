"""Pages from their templates: everything that comes from outside is escaped."""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape

import sscjax
from sscjax.system import files, whole_run


def render(template: str, **context: Any) -> str:
    """A page as HTML.

    Args:
      template: name of a file in `templates`.
      **context: what it shows.
    """
    return _environment().get_template(template).render(version=sscjax.__version__, **context)


@functools.cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("sscjax.app", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        name=_name,
        moment=_moment,
        url=functools.partial(quote, safe=""),
        about=whole_run.about,
    )
    return made


def _name(text: object) -> Markup:
    """A name that somebody else chose: it cannot reverse the direction of the line around it."""
    return Markup("<bdi>{}</bdi>").format(escape(files.escaped(str(text))))


def _moment(stamp: str) -> Markup:
    """The name of a folder of results as date and time; another name as it is."""
    date, _, clock = stamp.partition("_")
    return _name(f"{date}, {clock.replace('-', ':')}" if clock else stamp)
