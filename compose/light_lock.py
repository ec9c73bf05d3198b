"""Cuts a lock file down to some packages with their hashes: what node agent and capper import, or what is named.

python compose/light_lock.py requirements.lock [NAME ...] > light.lock. Standard library only: it runs first.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

LIGHT = ("msgspec", "confluent-kafka", "nvidia-ml-py", "pynacl", "cffi", "pycparser", "prometheus-client")
PINNED = re.compile(r"^([A-Za-z0-9._-]+)(\[[^]]*\])?==")


def blocks(text: str) -> dict[str, str]:
    """Package name -> its lines in the lock, hashes included, comments left out."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if (match := PINNED.match(line)) is not None:
            current = found.setdefault(match.group(1).lower(), [])
        if line.strip() and not line.lstrip().startswith("#"):
            current.append(line)
    return {name: "\n".join(lines).rstrip(" \\") for name, lines in found.items()}


def main(argv: list[str]) -> int:
    held = blocks(Path(argv[0]).read_text())
    wanted = argv[1:] or list(LIGHT)
    missing = [name for name in wanted if name not in held]
    if missing:
        print(
            f"{argv[0]} does not pin {', '.join(missing)}; correct the names in compose/light_lock.py", file=sys.stderr
        )
        return 1
    print("\n".join(held[name] for name in wanted))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
