"""The errors a user can cause. A command prints their one line and exits with code 2, never a traceback."""


class CaseError(Exception):
    """Base of every error that names a user's mistake, its place and the remedy."""


class ConfigError(CaseError, ValueError):
    """A setting that cannot be used: the message names the key, the value and what is accepted."""


class DataError(CaseError, ValueError):
    """A record or file that cannot be read as edits: the message names file, record, field and remedy."""


class BaseModelError(CaseError, ValueError):
    """A base model that cannot be loaded or edited, or is not the one an adapter was made for."""


class RunError(CaseError, OSError):
    """A run folder that cannot be written, read, or already holds another run."""


class UnknownEditError(RunError):
    """An id that names no edit of a run which could be undone, or made again."""
