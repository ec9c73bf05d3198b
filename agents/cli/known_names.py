"""Which EO_ names the product reads, found in its own source, so that a misspelt one is refused and not ignored.

A wrong name that is silently ignored runs a cluster with a default that nobody chose. Standard library only, and no
module is imported: the node agent's start must stay light.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Final

from agents.cli.base import USAGE, EoError

PREFIX: Final = "EO_"
KAFKA: Final = "EO_KAFKA_"
# librdkafka's own security properties; streams.contract.kafka hands each EO_KAFKA_<NAME> on.
KAFKA_NAMES: Final = frozenset(
    KAFKA + name
    for name in """
    SECURITY_PROTOCOL SASL_MECHANISM SASL_MECHANISMS SASL_USERNAME SASL_PASSWORD SSL_CA_LOCATION SSL_CA_PEM
    SSL_CERTIFICATE_LOCATION SSL_CERTIFICATE_PEM SSL_KEY_LOCATION SSL_KEY_PEM SSL_KEY_PASSWORD SSL_CIPHER_SUITES
    SSL_CRL_LOCATION SSL_KEYSTORE_LOCATION SSL_KEYSTORE_PASSWORD SSL_ENDPOINT_IDENTIFICATION_ALGORITHM
    ENABLE_SSL_CERTIFICATE_VERIFICATION SASL_KERBEROS_SERVICE_NAME SASL_KERBEROS_PRINCIPAL SASL_KERBEROS_KEYTAB
    SASL_OAUTHBEARER_METHOD SASL_OAUTHBEARER_CLIENT_ID SASL_OAUTHBEARER_CLIENT_SECRET
    SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL SASL_OAUTHBEARER_SCOPE
    """.split()  # noqa: SIM905 - one name per line would hide the other half of the module
)
TEST_NAMES: Final = frozenset({"EO_TEST_KAFKA", "EO_TEST_PEERS", "EO_FAKE_NVML_STATE"})  # read by the test suite alone
_NAME = re.compile(r"\bEO_[A-Z0-9_]*")


def root() -> Path:
    """The folder that holds agents/ and streams/."""
    return Path(__file__).resolve().parents[2]


@cache
def known_names(folder: Path | None = None) -> frozenset[str]:
    """Every EO_ name that some module reads: names written out, and prefix + field for settings classes."""
    base = folder or root()
    found = {*KAFKA_NAMES, *TEST_NAMES}
    for room in ("agents", "streams"):
        for path in (base / room).rglob("*.py"):
            if path != Path(__file__).resolve():
                found.update(_names_in(path.read_text(encoding="utf-8")))
    return frozenset(found)


def _names_in(source: str) -> set[str]:
    words = set(_NAME.findall(source))
    prefixes = {word for word in words if word.endswith("_")} - {KAFKA}
    whole = words - prefixes - {KAFKA}
    return whole | ({prefix + name.upper() for prefix in prefixes for name in _fields(source)} if prefixes else set())


def _fields(source: str) -> Iterable[str]:
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a module that does not parse reads no setting
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                    yield line.target.id


def misspelt(env: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """(unknown EO_ name, nearest known name or None), in the order of their names."""
    known = known_names()
    unknown = sorted(name for name in env if name.startswith(PREFIX) and name not in known)
    return [(name, next(iter(difflib.get_close_matches(name, known, 1, 0.6)), None)) for name in unknown]


def refuse_misspelt(env: Mapping[str, str]) -> None:
    """Raises EoError(USAGE) with each unknown EO_ name and the nearest known one; call it at every process start."""
    wrong = misspelt(env)
    if not wrong:
        return
    told = "; ".join(f"{name} is no setting" + (f", did you mean {near}?" if near else "") for name, near in wrong)
    raise EoError(f"{told} Correct or unset it: `eo config show` lists every name.", USAGE)
