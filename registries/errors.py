"""Errors that a user can act on: one line with what is wrong, where, and what to do."""


class UserError(Exception):
    """A mistake in what the user gave (manifest, option, file).

    Attributes:
        exit_code: of the command line.
        plugin: whose plugin raised it, once its message says so.
    """

    exit_code: int = 2
    plugin: str | None = None


def first_line(error: BaseException) -> str:
    """What a library's error says in its first line, or its kind where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


class PluginError(UserError):
    """A plugin that cannot be found, is registered twice, or does not keep its contract."""
