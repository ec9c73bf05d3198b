"""`make test`: the whole suite as two pytest processes side by side, since tests with real brokers mostly wait.

One half prints as it goes, the other when it has ended. The exit code is the worse of the two.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

# Halves of about equal length: a demo waits as long as all unit tests compute.
FIRST = ("tests/faults", "tests/integration")
SECOND = ("tests/contracts", "tests/properties", "tests/unit", "tests/e2e")


def main() -> int:
    """Runs both halves with the caller's extra arguments."""
    command = [sys.executable, "-m", "pytest", *sys.argv[1:]]
    with tempfile.TemporaryFile() as out:
        second = subprocess.Popen([*command, *SECOND], stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        first = subprocess.run([*command, *FIRST], stdin=subprocess.DEVNULL, check=False)
        code = second.wait()
        out.seek(0)
        sys.stdout.write(out.read().decode(errors="replace"))
    return max(abs(code), abs(first.returncode))


if __name__ == "__main__":
    sys.exit(main())
