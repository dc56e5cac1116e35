"""Errors that the user can correct: one line on stderr, exit code 2. Any other uncaught exception is a bug."""


class UserError(Exception):
    """Says what is wrong, where, what was expected and what to do, in one line."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message; its type's name if the message is empty."""
    return (str(error) or type(error).__name__).splitlines()[0]
