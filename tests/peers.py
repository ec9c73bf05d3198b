"""Finding the real peers that tests talk to: present, skipped with the line that installs them, or required in CI."""

from __future__ import annotations

import os
import shutil

import pytest


def require_peer(binary: str) -> str:
    """The path of a peer's program; skips the test, or fails it under EO_TEST_PEERS=required, when it is not here."""
    found = shutil.which(binary) or shutil.which(binary, path="/usr/sbin:/usr/local/sbin:/sbin")
    if found is not None:
        return found
    reason = f"the peer {binary!r} is not installed; `make peers` as root installs it on Debian"
    if os.environ.get("EO_TEST_PEERS") == "required":
        pytest.fail(reason)
    pytest.skip(reason)
