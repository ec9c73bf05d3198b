"""A cluster with logins and access rights, deny by default: a missing right is told before it hangs."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from agents.cli.base import EoError
from agents.cli.brokers import kafka_jars, processes, ready
from agents.cli.doctor_kafka import checks, rights
from agents.cli.topic_admin import apply
from streams.contract.layout import Layout
from streams.contract.topics import DESIRED, TELEMETRY
from tests.conftest import PARTITIONS, KafkaForTests

pytestmark = pytest.mark.integration
LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
SECURED = """
listeners=SASL_PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=SASL_PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
inter.broker.listener.name=SASL_PLAINTEXT
sasl.mechanism.inter.broker.protocol=PLAIN
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config={login} username="admin" password="admin-pw" \
 user_admin="admin-pw" user_reader="reader-pw";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:admin;User:ANONYMOUS
"""


def _login(patch: pytest.MonkeyPatch, user: str, password: str) -> None:
    patch.setenv("EO_KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    patch.setenv("EO_KAFKA_SASL_MECHANISM", "PLAIN")
    patch.setenv("EO_KAFKA_SASL_USERNAME", user)
    patch.setenv("EO_KAFKA_SASL_PASSWORD", password)


@pytest.fixture(scope="module")
def secured(kafka: KafkaForTests, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A second node with SASL and ACLs; the contract's topics are made by its admin."""
    assert kafka.bootstrap  # Java and the jars are here
    node = kafka_jars.Node(tmp_path_factory.mktemp("secured"), kafka_jars.java(), kafka_jars.jars())
    node.format()
    port, controller = node.ports()
    properties = node.configure(port, controller)
    with properties.open("a") as out:
        out.write(SECURED.format(port=port, controller=controller, login=LOGIN))
    pid = processes.spawn(node._argv("kafka.Kafka", str(properties)), node.out)
    mark = processes.start_mark(pid)
    assert mark is not None
    try:
        with pytest.MonkeyPatch.context() as patch:
            _login(patch, "admin", "admin-pw")
            bootstrap = f"127.0.0.1:{port}"
            ready.wait_ready(
                bootstrap, 60, transactions=True, died=lambda: None if processes.alive(pid, mark) else node.ending()
            )
            apply(bootstrap, partitions=PARTITIONS)
            _allow(bootstrap)
            _login(patch, "reader", "reader-pw")
            reader = AdminClient(ready.client_config(bootstrap))
            # The controller answers before the node acts on the new rules.
            assert processes.wait_until(lambda: TELEMETRY.name in reader.list_topics(timeout=10).topics, 30)
        yield bootstrap
    finally:
        assert processes.end(pid, mark)


def _allow(bootstrap: str) -> None:
    """READ and DESCRIBE_CONFIGS everywhere below energy., WRITE on telemetry alone; nothing on commands."""
    admin = AdminClient(ready.client_config(bootstrap))
    grants = [
        ("energy.", ResourcePatternType.PREFIXED, AclOperation.READ, AclPermissionType.ALLOW),
        ("energy.", ResourcePatternType.PREFIXED, AclOperation.DESCRIBE_CONFIGS, AclPermissionType.ALLOW),
        (TELEMETRY.name, ResourcePatternType.LITERAL, AclOperation.WRITE, AclPermissionType.ALLOW),
        (DESIRED.name, ResourcePatternType.LITERAL, AclOperation.ALL, AclPermissionType.DENY),
    ]
    rules = [
        AclBinding(ResourceType.TOPIC, name, pattern, "User:reader", "*", operation, permission)
        for name, pattern, operation, permission in grants
    ]
    for future in admin.create_acls(rules).values():
        future.result(30)
    del admin


def test_the_admin_has_every_right(secured: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _login(monkeypatch, "admin", "admin-pw")
    assert rights(secured) == "READ and WRITE on all 10 topics"


def test_missing_rights_are_named_topic_by_topic(secured: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _login(monkeypatch, "reader", "reader-pw")
    with pytest.raises(EoError) as told:
        rights(secured)
    text = str(told.value)
    assert text.startswith("this user lacks rights on ")
    assert "energy.features.gpu.v1 (no WRITE)" in text
    assert f"{DESIRED.name} (" in text
    assert TELEMETRY.name not in text


def test_doctor_goes_on_and_names_each_missing_right(secured: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _login(monkeypatch, "reader", "reader-pw")
    monkeypatch.setenv("KAFKA_BOOTSTRAP", secured)
    found = {check.name: check for check in checks(Layout.from_env(), os.environ)}
    assert found["listeners"].verdict == "ok"
    assert found["group coordinator"].verdict == "warn"
    assert found["group coordinator"].found.endswith("give it READ on the group prefix `eo-`.")
    assert found["transactions"].verdict == "warn"
    assert "WRITE on the transactional id prefix `actuation-`" in found["transactions"].found
    assert found["rights"].verdict == "warn"
    assert found["round trip"].verdict == "warn" and "it needs CREATE" in found["round trip"].found


def test_a_wrong_password_points_at_the_login_settings(secured: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _login(monkeypatch, "reader", "wrong")
    with pytest.raises(EoError) as told:
        ready.check_listeners(secured, 2.0)
    assert f"something listens at {secured} but gives no Kafka metadata within 2 s" in str(told.value)
    assert "EO_KAFKA_SECURITY_PROTOCOL and its companions" in str(told.value)


def test_topics_cannot_be_made_without_the_right(secured: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    _login(monkeypatch, "reader", "reader-pw")
    with pytest.raises(EoError, match=r"topic energy\.new\.v1 could not be made at .* it needs CREATE on the topic"):
        apply(secured, partitions=1, topics=[replace(TELEMETRY, name="energy.new.v1")])
