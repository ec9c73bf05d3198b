"""Errors of the capper for its operator: one sentence with the value, the bound and the next step."""

from __future__ import annotations


class CapperError(Exception):
    """The capper cannot go on safely; nothing was set. The text tells what to do next."""


class SettingsError(CapperError):
    """A setting is unknown or out of range."""
