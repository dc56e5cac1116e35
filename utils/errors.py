"""What the user can put right: one line on stderr, exit code 2. Anything else that escapes is a defect."""


class UserError(Exception):
    """Says what is wrong, where, what was expected and what to do, in one line."""
