"""How many alerts fire now, for `eo status`: the newest state of each in the alert topic, without its sentences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

MOST: Final = 20_000  # messages that are looked at; a month of alerts of a sound cluster is far fewer


class _Told(msgspec.Struct):
    cluster: str
    alert_id: str
    rule: str
    state: str
    severity: str = "info"


def firing(payloads: Iterable[bytes | None], cluster: str) -> dict[str, int]:
    """Firing alerts of a cluster by severity; what is resolved stays so, whatever is read again after it."""
    decoder, known = msgspec.json.Decoder(_Told), dict[str, _Told]()
    for payload in payloads:
        try:
            told = decoder.decode(payload or b"")
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue  # the deliver job has sent it to the dead letters
        before = known.get(told.alert_id)
        if told.cluster == cluster and (before is None or before.state == "firing"):
            known[told.alert_id] = told
    out: dict[str, int] = {}
    for told in known.values():
        if told.state == "firing":
            out[told.severity] = out.get(told.severity, 0) + 1
    return out


def facts(bootstrap: str, cluster: str) -> dict[str, Any]:
    """`alerts_firing` and its parts, or null and why."""
    from agents.cli.base import EoError
    from agents.cli.kafka_read import Reader
    from streams.contract.topics import ALERT

    try:
        with Reader(bootstrap, ALERT.name) as reader:
            found = firing((message.value for message in reader.last(MOST)), cluster)
    except EoError as error:
        return {"alerts_firing": None, "alerts_problem": str(error)}
    return {"alerts_firing": sum(found.values()), "alerts_by_severity": found}


def line(told: dict[str, Any]) -> str:
    """The same for a person."""
    if told.get("alerts_firing") is None:
        return f"alerts     unknown: {told.get('alerts_problem', 'the topic was not asked')}"
    parts = [f"{count} {severity}" for severity, count in sorted(told["alerts_by_severity"].items())]
    return f"alerts     {told['alerts_firing']} firing" + (f" ({', '.join(parts)}); eo alerts list" if parts else "")
