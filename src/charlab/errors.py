"""The exception for mistakes of the user."""


class UserError(ValueError):
    """Raised when something that the user provided is invalid.

    The message is one sentence that says what is wrong, where it was set, and how to fix it. Every entry point prints
    it without a traceback and exits with code 2. It is a `ValueError`, so library callers may catch it as one.
    """

    def _render_traceback_(self) -> list[str]:
        """Return what IPython prints instead of a traceback (a public hook in spite of its name)."""
        return [f"{type(self).__name__}: {self}"]
