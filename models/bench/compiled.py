"""Turns the plain functions of equations, setpoint, decide, local and kernel into machine code, as one namespace.

Each module's functions are copied into a namespace in which the names of compiled functions replace the plain ones, so
the source that runs in the agent is the source that runs here. Needs numba (extra `bench`); nothing else imports this.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any, Final

MODULES: Final = (
    "models.control.equations",
    "models.control.steady",
    "models.control.learn",
    "models.control.setpoint",
    "models.control.decide",
    "models.bench.local",
    "models.bench.brake",
    "models.bench.kernel",
)
# Sums may be contracted, but NaN and infinity mean "unknown" and "no bound" here and keep their meaning.
FLAGS: Final[dict[str, Any]] = {
    "nogil": True,
    "_nrt": False,
    "error_model": "numpy",
    "fastmath": {"contract", "arcp", "nsz"},
}
_ALSO: Final = (
    "models.control.memory",
    "models.bench.state",
    "models.bench.plantparts",
    "models.policy.strategies",
)  # constants and shapes that end up in the code


class BenchUnavailable(RuntimeError):
    """numba is not installed; the text says what to do."""


@lru_cache(maxsize=1)
def compiled() -> SimpleNamespace:
    """All functions of MODULES by name, compiled at first call and kept on disk under a name made of their source."""
    try:
        import numba
    except ImportError as error:
        raise BenchUnavailable("the compiled bench needs numba: pip install 'energy-orchestrator[bench]'") from error
    modules = [import_module(name) for name in MODULES]
    folder = _cache(modules + [import_module(name) for name in _ALSO], numba.__version__ + repr(FLAGS))
    if folder is not None:
        numba.config.CACHE_DIR = str(folder)
    found: dict[str, Callable[..., Any]] = {}
    for module in modules:
        own = _copy(module, found)
        for name, function in own.items():
            found[name] = numba.njit(function, cache=folder is not None, **FLAGS)
            function.__globals__[name] = found[name]
        for function in own.values():
            function.__globals__.update({n: f for n, f in found.items() if n in function.__globals__})
    return SimpleNamespace(**found)


def _copy(module: ModuleType, known: dict[str, Callable[..., Any]]) -> dict[str, FunctionType]:
    space = dict(vars(module))
    space.update({name: known[name] for name in known if name in space})
    own: dict[str, FunctionType] = {}
    for name, value in vars(module).items():
        if isinstance(value, FunctionType) and value.__module__ == module.__name__:
            copy = FunctionType(value.__code__, space, name, value.__defaults__)
            copy.__module__ = module.__name__
            own[name] = copy
    return own


def _cache(modules: list[ModuleType], version: str) -> Path | None:
    """A folder named after the source: a changed file never meets old machine code. None when not writable."""
    digest = hashlib.blake2b(version.encode(), digest_size=12)
    for module in modules:
        digest.update(Path(str(module.__file__)).read_bytes())
    root = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    folder = root / "energy-orchestrator" / "numba" / digest.hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        warnings.warn(f"{root} cannot be written: the bench compiles anew each time", RuntimeWarning, stacklevel=3)
        return None
    return folder
