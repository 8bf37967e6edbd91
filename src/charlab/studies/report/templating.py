"""The templates that reports are made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

_FOLDER = Path(__file__).parent / "templates"


def environment(*, autoescape: bool = False, **options: Any) -> jinja2.Environment:
    """Returns what renders the templates; whatever they use has to be defined.

    Args:
        autoescape: whether values are escaped for HTML.
        options: of `jinja2.Environment`; for signs other than {{ }}, for instance.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        undefined=jinja2.StrictUndefined,
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )


def source(name: str) -> str:
    """Returns the text of a template that is not rendered."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def finalizer(escape: Callable[[str], str]) -> Callable[[Any], Any]:
    """Returns what escapes every value that a template prints, unless it is `Raw`."""
    return lambda value: value if isinstance(value, Raw) else escape(str(value))


class Raw(str):
    """A text that is escaped already."""

    __slots__ = ()
