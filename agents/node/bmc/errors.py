"""Errors of reading a BMC: one sentence with the address, the cause and, where there is one, the next step."""

from __future__ import annotations

from typing import ClassVar

from agents.node.errors import SourceError


class BmcError(SourceError):
    """One document could not be had; the others may. `fatal` ends the poll: the whole BMC does not answer."""

    fatal: ClassVar[bool] = False


class BmcDown(BmcError):
    """No connection, no answer in time, or an answer that is no HTTP."""

    fatal: ClassVar[bool] = True


class BmcRefuses(BmcError):
    """The BMC answers, but not us: credentials, or a session that it does not give."""

    fatal: ClassVar[bool] = True
