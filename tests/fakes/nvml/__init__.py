"""The C stand-in for NVML and its driver."""

from tests.fakes.nvml.driver import FakeNvml, StandInMissing, library

__all__ = ["FakeNvml", "StandInMissing", "library"]
