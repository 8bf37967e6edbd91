"""Output in Jupyter notebooks: printed lines, a live progress bar, figures as results and as data URIs."""

from __future__ import annotations

import base64
import contextlib
import errno
import io
import os
import re
import sys
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Live(Protocol):
    """A display that is redrawn in place; `rich.live.Live` is another one."""

    def start(self, refresh: bool = False) -> None:
        """Show the display."""

    def refresh(self) -> None:
        """Redraw the display."""

    def stop(self) -> None:
        """Stop redrawing, and leave the last state on display."""


class Output(Console):
    """A console that lets a run continue after its terminal, or the reader of its pipe, such as `head`, has gone.

    In a notebook, it prints plain output: rich would give each line a box of its own and cut off long ones.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `Console` does."""
        if self.is_jupyter:
            plain = Console(file=sys.stdout, force_jupyter=False, force_terminal=True, color_system="standard")
            plain.print(*objects, **options | {"soft_wrap": True})
        else:
            super().print(*objects, **options)

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        """Write what was printed in the block; `Console` enters one for whatever it prints."""
        try:
            super().__exit__(exc_type, exc_value, traceback)
        except OSError as error:
            if error.errno != errno.EIO:  # which every write to a closed terminal raises
                raise
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()  # turns standard output off
        try:
            print("Nothing reads the output any more: the command continues without it.", file=sys.stderr)
        except OSError:  # standard error went the same way, as with `2>&1 | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def replace_missing_characters() -> None:
    """Make standard output replace characters that its encoding lacks, such as "≤", instead of raising an exception."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


class NotebookLive:
    """A progress bar that is redrawn in the output area of a cell, whatever its width, without widgets.

    Args:
        state: function that returns the completed share of the work, and the text next to the bar. The text wraps
            between figures only, that is, at two spaces.
    """

    def __init__(self, state: Callable[[], tuple[float, str]]) -> None:
        self.state = state
        self._handle: Any = None

    def start(self, refresh: bool = False) -> None:
        """Show the bar in the output area of the running cell."""
        from IPython.display import DisplayHandle

        self._handle = DisplayHandle()
        self._handle.display(self._html())

    def refresh(self) -> None:
        """Redraw the bar."""
        if self._handle is not None:
            self._handle.update(self._html())

    def stop(self) -> None:
        """Redraw the bar for the last time."""
        self.refresh()
        self._handle = None

    def _html(self) -> Any:
        from IPython.display import HTML

        share, text = self.state()
        text = re.sub("(?<! ) (?! )", "\N{NO-BREAK SPACE}", text)
        return HTML(
            '<div style="display: flex; flex-wrap: wrap; gap: 0 1em; align-items: center">'
            f'<progress value="{share:.4f}" style="flex: 1 1 8em; max-width: 24em"></progress>'
            '<span style="font-variant-numeric: tabular-nums; white-space: pre-wrap; overflow-wrap: anywhere">'
            f"{escape(text)}</span></div>"
        )


def show_figures() -> None:
    """Make IPython show figures that are a cell's value, which it otherwise does only after pyplot has drawn one."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None:
        from IPython.core.pylabtools import select_figure_formats
        from matplotlib.figure import Figure

        formatters = shell.display_formatter.formatters
        if not any(Figure in formatters[kind].type_printers for kind in ("image/png", "image/svg+xml", "image/jpeg")):
            select_figure_formats(shell, {"png"})


def data_uri(figure: Figure) -> str:
    """Return a figure as a reproducible data URI."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})  # a date would change it each time
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
