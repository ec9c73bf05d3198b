"""Faust gets the same SASL and TLS as librdkafka; what it cannot speak is refused with the choices."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.errors import StreamsError
from streams.security import credentials


def env(**names: str) -> dict[str, str]:
    return {f"EO_KAFKA_{name}": value for name, value in names.items()}


def test_plaintext_needs_no_credentials() -> None:
    assert credentials({}) is None
    assert credentials(env(SECURITY_PROTOCOL="plaintext")) is None


def test_sasl_over_plaintext_and_over_tls() -> None:
    names = {"SASL_MECHANISM": "SCRAM-SHA-512", "SASL_USERNAME": "worker", "SASL_PASSWORD": "secret"}
    plain = credentials(env(SECURITY_PROTOCOL="SASL_PLAINTEXT", **names))
    assert plain is not None
    assert (plain.protocol.value, plain.mechanism.value) == ("SASL_PLAINTEXT", "SCRAM-SHA-512")
    assert (plain.username, plain.password, plain.ssl_context) == ("worker", "secret", None)
    tls = credentials(env(SECURITY_PROTOCOL="SASL_SSL", **names))
    assert tls is not None
    assert (tls.protocol.value, tls.ssl_context.check_hostname) == ("SASL_SSL", True)


def test_tls_alone() -> None:
    found = credentials(env(SECURITY_PROTOCOL="SSL"))
    assert found is not None and found.protocol.value == "SSL"


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ({"SECURITY_PROTOCOL": "TLS"}, "EO_KAFKA_SECURITY_PROTOCOL is 'TLS'; use PLAINTEXT, SSL, SASL_PLAINTEXT or"),
        ({"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "GSSAPI"}, "is 'GSSAPI'; use one of PLAIN, SCRAM-SHA-256"),
        ({"SECURITY_PROTOCOL": "SSL", "SSL_CA_LOCATION": "/no/such.pem"}, "cannot be used .* check EO_KAFKA_SSL_CA"),
    ],
)
def test_what_faust_cannot_speak_is_refused(names: dict[str, str], text: str) -> None:
    with pytest.raises(StreamsError, match=text):
        credentials(env(**names))


def test_a_key_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "cert.pem"
    bad.write_text("no certificate")
    with pytest.raises(StreamsError, match="check EO_KAFKA_SSL_CA_LOCATION and the key pair"):
        credentials(env(SECURITY_PROTOCOL="SSL", SSL_CERTIFICATE_LOCATION=str(bad)))
