"""Is a broker there, and does it work? Addresses, advertised listeners, coordinators. Changes nothing on a cluster,
except that the check of the transaction coordinator registers a transactional id that nobody writes with."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

from agents.cli.base import USAGE, EoError
from streams.contract.kafka import Config, security

ASK_S = 3.0  # how long one question to the broker may take


def addresses(bootstrap: str) -> list[tuple[str, int]]:
    """Splits "host:port,host:port"; raises EoError(USAGE) that names the part which is none."""
    found = []
    for part in bootstrap.split(","):
        host, colon, port = part.strip().rpartition(":")
        if not (colon and host and port.isdigit() and 0 < int(port) < 65536):
            raise EoError(
                f"the broker address {part.strip()!r} is not host:port with a port of 1 to 65535; "
                "set KAFKA_BOOTSTRAP=host:port[,host:port], or unset it and run `eo broker up`.",
                USAGE,
            )
        found.append((host.strip("[]"), int(port)))
    return found


def refusal(host: str, port: int, timeout_s: float = ASK_S) -> str | None:
    """Why no TCP connection comes about; None when it does."""
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except socket.gaierror:
        return "the name does not resolve"
    except ConnectionRefusedError:
        return "connection refused: nothing listens there"
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    except OSError as error:
        return error.strerror or str(error)
    return None


def client_config(bootstrap: str, client_id: str = "eo") -> Config:
    """For short questions: silent, since every failure is told in our own words."""
    return {"bootstrap.servers": bootstrap, "client.id": client_id, "log_level": 0, **security()}


def listeners(bootstrap: str, timeout_s: float = ASK_S) -> list[tuple[int, str, int]]:
    """(broker id, host, port) that the cluster tells clients to use; raises EoError when nobody answers."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    reasons = {f"{host}:{port}": refusal(host, port, timeout_s) for host, port in addresses(bootstrap)}
    if all(reasons.values()):
        told = "; ".join(f"{address}: {reason}" for address, reason in reasons.items())
        raise EoError(
            f"no broker answers at {bootstrap} ({told}); start that one, correct KAFKA_BOOTSTRAP, "
            "or unset it and run `eo broker up`."
        )
    try:
        brokers = AdminClient(client_config(bootstrap)).list_topics(timeout=timeout_s).brokers
    except KafkaException as error:
        raise EoError(
            f"something listens at {bootstrap} but gives no Kafka metadata within {timeout_s:g} s "
            f"({error.args[0].str()}); check that it is a Kafka broker, and EO_KAFKA_SECURITY_PROTOCOL and its "
            "companions if it wants TLS or a login."
        ) from error
    return [(broker.id, broker.host, broker.port) for broker in brokers.values()]


def check_listeners(bootstrap: str, timeout_s: float = ASK_S) -> list[tuple[int, str, int]]:
    """Every broker's advertised address can be reached from here; raises EoError with the first that cannot."""
    found = listeners(bootstrap, timeout_s)
    for broker, host, port in found:
        if (reason := refusal(host, port, timeout_s)) is not None:
            raise EoError(
                f"the broker at {bootstrap} answers, but sends clients to {host}:{port} (broker {broker}), which this "
                f"machine cannot reach: {reason}; set advertised.listeners of that broker to an address that can be "
                "reached from here."
            )
    return found


def group_coordinator(bootstrap: str, timeout_s: float = ASK_S) -> str | None:
    """Why consumer groups do not work yet (or for this user); None when their coordinator answers."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient

    admin = AdminClient(client_config(bootstrap, "eo-ready"))
    asked = admin.describe_consumer_groups(["eo-ready"], request_timeout=timeout_s)
    try:
        asked["eo-ready"].result()
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return None  # the coordinator has answered: there is no such group
        return str(error.args[0].str())
    return None


def transaction_coordinator(bootstrap: str, timeout_s: float = ASK_S, *, name: str = "eo-ready") -> str | None:
    """Why transactions do not work yet; None when their coordinator answers."""
    from confluent_kafka import KafkaException, Producer

    # A refused right is fatal to a producer and would be printed whatever the log level: a logger takes it.
    silent = logging.Logger("eo-ready", logging.CRITICAL + 1)
    producer = Producer({**client_config(bootstrap, "eo-ready"), "transactional.id": name}, logger=silent)
    try:
        producer.init_transactions(timeout_s)
    except KafkaException as error:
        return str(error.args[0].str())
    return None


def wait_ready(
    bootstrap: str,
    timeout_s: float,
    *,
    transactions: bool,
    died: Callable[[], str | None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Returns when the port, the metadata and the coordinators answer; raises EoError with what is missing."""
    deadline = clock() + timeout_s
    host, port = addresses(bootstrap)[0]
    questions: list[Callable[[], str | None]] = [
        lambda: refusal(host, port, 1.0),
        lambda: group_coordinator(bootstrap),
    ]
    if transactions:
        questions.append(lambda: transaction_coordinator(bootstrap))
    for ask in questions:
        while (reason := ask()) is not None:
            if (ending := died()) is not None:
                raise EoError(ending)
            if clock() >= deadline:
                raise EoError(
                    f"the broker at {bootstrap} is not ready after {timeout_s:g} s ({reason}); "
                    "`eo broker down` and `eo broker up` start it again, its log is in the broker folder of `eo info`."
                )
            time.sleep(0.1)
