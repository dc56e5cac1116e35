"""What the user can put right: one line on stderr, exit code 2. Anything else that escapes is a defect."""


class UserError(Exception):
    """Says what is wrong, where, what was expected and what to do, in one line."""


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says, in one line; the error's kind where it says nothing."""
    return (str(error) or type(error).__name__).splitlines()[0]
