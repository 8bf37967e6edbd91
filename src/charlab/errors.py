"""The one kind of error that a user, rather than the program, is responsible for."""


class UserError(ValueError):
    """Something the user gave is wrong.

    The message is one sentence that says what is wrong, where, and how to mend it. Every entry point prints it
    without a traceback and exits with code 2. It is a `ValueError`, so that library callers may catch it as such.
    """
