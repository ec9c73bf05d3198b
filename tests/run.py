"""`make test`: the whole suite as two pytest processes side by side, since tests with real brokers mostly wait.

One half prints as it goes, the other when it has ended. What failed is run once more alone, because a test that shares
two cores with a broker, a demo and the other half may miss a deadline; it is named, and a second failure is final.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile

# Halves of about equal length: a demo waits as long as all unit tests compute.
FIRST = ("tests/faults", "tests/integration")
SECOND = ("tests/contracts", "tests/properties", "tests/unit", "tests/e2e")
LIMIT_S = 1500.0  # of a half, about twice what it needs: a test that hangs must not hold CI until that is cut off
FAILED = 1  # pytest's exit code for failed tests; anything else is no matter of a second try


def main() -> int:
    """Runs both halves with the caller's extra arguments; the exit code is the worse of the two."""
    with tempfile.TemporaryFile() as out:
        second = subprocess.Popen(
            _command("second", SECOND), stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        codes = {"first": _bounded(subprocess.Popen(_command("first", FIRST), stdin=subprocess.DEVNULL), "first")}
        codes["second"] = _bounded(second, "second")
        out.seek(0)
        sys.stdout.write(out.read().decode(errors="replace"))
    for name, paths in (("first", FIRST), ("second", SECOND)):
        if codes[name] == FAILED:
            print(f"\n=== what failed in the {name} half, once more and alone ===", flush=True)
            again = [*_command(name, paths), "--last-failed", "--last-failed-no-failures=none"]
            codes[name] = _bounded(subprocess.Popen(again, stdin=subprocess.DEVNULL), name)
    return max(map(abs, codes.values()))


def _bounded(half: subprocess.Popen[bytes], name: str) -> int:
    """The exit code of a half; one that outlasts LIMIT_S is ended, and its stacks stand in its output."""
    try:
        return half.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        half.send_signal(signal.SIGABRT)  # pytest's faulthandler writes where every thread stands
        print(f"\n=== the {name} half did not end in {LIMIT_S:.0f} s and was ended ===", flush=True)
        return half.wait()


def _command(half: str, paths: tuple[str, ...]) -> list[str]:
    cache = f"cache_dir=.pytest_cache/{half}"  # two processes must not write one list of failures
    return [sys.executable, "-m", "pytest", "-o", cache, *sys.argv[1:], *paths]


if __name__ == "__main__":
    sys.exit(main())
