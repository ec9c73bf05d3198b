"""Errors of actuators: the class says what happened, `retryable` says whether the same call may work a moment later."""

from __future__ import annotations

from typing import ClassVar


class ActuatorError(Exception):
    """A device did not do what it was asked; the text is one sentence with the GPU and the cause."""

    retryable: ClassVar[bool] = True


class NotPermitted(ActuatorError):
    """This process may not set the device; trying again cannot help."""

    retryable: ClassVar[bool] = False


class DeviceLost(ActuatorError):
    """The GPU or its driver is gone for now; it may come back after a reset."""


class OutOfRange(ActuatorError):
    """The device does not take this value."""

    retryable: ClassVar[bool] = False


class NotSupported(ActuatorError):
    """The device does not have this knob."""

    retryable: ClassVar[bool] = False


class ForeignChange(ActuatorError):
    """Somebody else set the value between our reading and our set; ours was not written, theirs stands."""

    retryable: ClassVar[bool] = False


class Unsafe(NotPermitted):
    """Holding a value has become dangerous: what is held goes back at once."""
