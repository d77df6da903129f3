"""The error of a command line or a call that cannot be run. Imports no torch."""

from __future__ import annotations


class UsageError(ValueError):
    """A command line that cannot be run; the message is the one sentence that is shown."""
