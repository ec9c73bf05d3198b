"""`make test`: the whole suite as two pytest processes side by side, since the half with real brokers mostly waits.

The quick half prints when it has ended; the other prints as it goes. The exit code is the worse of the two.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

WAITING = ("tests/e2e", "tests/faults", "tests/integration")
QUICK = ("tests/contracts", "tests/properties", "tests/unit", "tests/bench")


def main() -> int:
    """Runs both halves with the caller's extra arguments."""
    command = [sys.executable, "-m", "pytest", *sys.argv[1:]]
    with tempfile.TemporaryFile() as out:
        quick = subprocess.Popen([*command, *QUICK], stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        waiting = subprocess.run([*command, *WAITING], stdin=subprocess.DEVNULL, check=False)
        code = quick.wait()
        out.seek(0)
        sys.stdout.write(out.read().decode(errors="replace"))
    return max(abs(code), abs(waiting.returncode))


if __name__ == "__main__":
    sys.exit(main())
