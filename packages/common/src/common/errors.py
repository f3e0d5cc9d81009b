"""Errors with a meaning of their own."""

__all__ = ["NonFiniteError", "SilentRankError", "UnavailableError", "UserError"]


class UserError(Exception):
    """Something the user can mend. The message says what is wrong, where, and what to do, in one or two lines."""


class NonFiniteError(ArithmeticError):
    """A loss, metric or parameter is nan or infinite: the run must not go on, nor be saved."""


class SilentRankError(RuntimeError):
    """Another process of the run hangs or has died: the ranks that waited for it have given up."""


class UnavailableError(ConnectionError):
    """Something outside of the run that it depends on does not answer. What is done is saved before the run fails."""
