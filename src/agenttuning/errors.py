"""The one exception that a person is meant to read."""


class UserError(Exception):
    """What was seen; what it would have done to you; what to do. The CLI prints it without a traceback and exits 2."""
