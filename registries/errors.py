"""Errors that a user can act on: one line with what is wrong, where, and what to do."""


class UserError(Exception):
    """A mistake in what the user gave (manifest, option, file); the command line exits with 2."""


class PluginError(UserError):
    """A plugin that cannot be found, is registered twice, or does not keep its contract."""
