"""The one error that lets `eo broker up` try the next kind of broker."""

from __future__ import annotations


class Unavailable(Exception):
    """This kind of broker cannot run here; the text says what is missing, without a full stop."""
