"""SASL and TLS for Faust, from the same EO_KAFKA_ settings that streams.contract.kafka gives librdkafka."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import Any

from streams.contract.kafka import security
from streams.errors import StreamsError

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


def credentials(env: Mapping[str, str] = os.environ) -> Any | None:
    """Faust credentials; None for a plaintext broker.

    Raises:
        StreamsError: a protocol or mechanism that Faust cannot speak, or an unreadable certificate.
    """
    config = {name: str(value) for name, value in security(env).items()}
    protocol = config.get("security.protocol", "PLAINTEXT").upper()
    if protocol == "PLAINTEXT":
        return None
    if protocol not in ("SSL", "SASL_SSL", "SASL_PLAINTEXT"):
        raise StreamsError(
            f"EO_KAFKA_SECURITY_PROTOCOL is {protocol!r}; use PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
        )
    from faust import SASLCredentials, SSLCredentials

    context = _context(config) if protocol.endswith("SSL") else None
    if protocol == "SSL":
        return SSLCredentials(context)
    mechanism = config.get("sasl.mechanism", "PLAIN")
    if mechanism not in MECHANISMS:
        raise StreamsError(f"EO_KAFKA_SASL_MECHANISM is {mechanism!r}; use one of {', '.join(MECHANISMS)}")
    return SASLCredentials(
        username=config.get("sasl.username", ""),
        password=config.get("sasl.password", ""),
        ssl_context=context,
        mechanism=mechanism,
    )


def _context(config: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.get("ssl.ca.location"))
        if certificate := config.get("ssl.certificate.location"):
            context.load_cert_chain(certificate, config.get("ssl.key.location"), config.get("ssl.key.password"))
    except (OSError, ssl.SSLError) as error:
        raise StreamsError(
            f"the TLS files of EO_KAFKA_SSL_* cannot be used ({error}); check EO_KAFKA_SSL_CA_LOCATION and the key pair"
        ) from error
    return context
