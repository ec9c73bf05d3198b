"""What pause, resume and cap share: an operator's signed word, its scope, its duration, and the way to its topic.

The word is a request. The actuation job checks its signature and acts on it with its next envelopes; the capper on the
node has the last word. Nothing here talks to a node.
"""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from agents.cli.base import DEMO_MARK, USAGE, EoError
from streams.contract.layout import Layout

if TYPE_CHECKING:
    from streams.contract.records import IntentKind, OperatorIntent
    from streams.contract.signing import KeyRing

FLUSH_S: Final = 15.0
UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST_S: Final = 30 * 86400


def cluster_name() -> str:
    """The cluster that this shell means: EO_CLUSTER, else "demo" in a demo's data folder, else "default"."""
    in_demo = (Layout.from_env().root / DEMO_MARK).exists()
    return os.environ.get("EO_CLUSTER") or ("demo" if in_demo else "default")


def duration_s(text: str) -> int:
    """Seconds of "90s", "10m", "2h" or "1d", for argparse."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    seconds = int(found[1]) * UNITS_S[found[2]] if found else 0
    if not 1 <= seconds <= LONGEST_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time from 1s to 30d; write 90s, 10m, 2h or 1d")
    return seconds


def common(parser: argparse.ArgumentParser, *, lasts: bool = True) -> None:
    """The options of every word."""
    parser.add_argument("--reason", default="", help="why, for `eo explain` and the ledger")
    if lasts:
        parser.add_argument(
            "--for", dest="duration_s", type=duration_s, metavar="TIME", help="90s, 10m, 2h, 1d; else until ended"
        )


def make(
    kind: IntentKind,
    scope: str,
    *,
    layout: Layout,
    reason: str,
    duration_s: int | None = None,
    max_power_w: float | None = None,
    now_ns: Callable[[], int] = time.time_ns,
    cluster: str | None = None,
    actor: str | None = None,
    known_ns: int | None = None,
) -> OperatorIntent:
    """A signed word, by default of this shell's user for its cluster; raises EoError when there is no operator key.

    `known_ns`: time of the newest word about the same (`newest_ns`), which this one is put after.
    """
    from streams.contract.intent_key import after
    from streams.contract.records import OperatorIntent
    from streams.contract.signing import Signer

    try:
        signer = Signer.load(layout.operator_key)
    except OSError as error:
        raise EoError(
            f"the operator key {layout.operator_key} cannot be read ({error.strerror}); `eo config keys` makes one, or "
            "set EO_DATA_DIR to the data folder that has it."
        ) from error
    except ValueError as error:
        raise EoError(f"{error}; put the file back from a copy.") from error
    now = now_ns()
    if (at := after(known_ns, now)) is None:
        _note_far_ahead(scope, (known_ns or 0) - now)
        at = now
    return signer.sign(
        OperatorIntent(
            cluster=cluster or cluster_name(),
            scope=scope,
            intent_id=uuid.uuid4().hex[:16],
            ts_ns=at,
            actor=actor or getpass.getuser(),
            kind=kind,
            reason=reason,
            max_power_w=max_power_w,
            expires_ns=None if duration_s is None else at + duration_s * 10**9,
        )
    )


def _note_far_ahead(scope: str, ahead_ns: int) -> None:
    print(
        f"note: the newest word on {scope} is {ahead_ns / 1e9:.0f} s ahead of this clock (60 s are allowed). If this "
        "clock is slow, what you say now is ignored: set it (`date -u` shows it) and say it again.",
        file=sys.stderr,
    )


def newest_ns(bootstrap: str, layout: Layout, kind: IntentKind, scope: str) -> int | None:
    """Time of the newest word that counts on the same scope and matter; None when there is none or it is not known."""
    return newest_of(bootstrap, layout, kind, cluster_name()).get(scope)


def newest_of(bootstrap: str, layout: Layout, kind: IntentKind, cluster: str) -> dict[str, int]:
    """The same for every scope that was spoken of; empty when they cannot be read: a word must not wait for the right
    to read."""
    from streams.contract.intent_key import family

    try:
        found = words(bootstrap, keyring_of(layout), cluster)
    except EoError:
        return {}
    newest: dict[str, int] = {}
    for word, wrong in found:
        if not wrong and family(word.kind) == family(kind):
            newest[word.scope] = max(word.ts_ns, newest.get(word.scope, word.ts_ns))
    return newest


def publish(bootstrap: str, intent: OperatorIntent) -> None:
    """Writes a word to its topic and waits for the acknowledgement; raises EoError when none comes."""
    publish_all(bootstrap, [intent])


def publish_all(bootstrap: str, intents: Sequence[OperatorIntent]) -> None:
    """The same for several words at once; the error says how many of them were taken."""
    from confluent_kafka import Producer

    from streams.contract import codec
    from streams.contract.intent_key import key_of
    from streams.contract.kafka import producer_config
    from streams.contract.topics import INTENT

    failed: list[str] = []
    timeout = {"message.timeout.ms": int(FLUSH_S * 1000), "log_level": 0}
    producer = Producer({**producer_config(bootstrap, "eo-operator"), **timeout})
    for intent in intents:
        producer.produce(
            INTENT.name,
            key=key_of(intent).encode(),
            value=codec.encode(intent),
            headers=codec.headers(intent, source=f"operator/{intent.actor}", event_id=intent.intent_id),
            on_delivery=lambda error, _: failed.append(str(error)) if error else None,
        )
    left = producer.flush(FLUSH_S)
    if failed or left:
        why = failed[0] if failed else f"no answer within {FLUSH_S:g} s"
        taken = len(intents) - len(failed) - left
        changed = f"{taken} of {len(intents)} words were taken" if taken > 0 else "nothing was changed"
        raise EoError(f"{bootstrap} did not take the word ({why}); {changed}. `eo doctor kafka` says why.")


def words(bootstrap: str, keyring: KeyRing, cluster: str) -> list[tuple[OperatorIntent, str]]:
    """The newest word of each scope on pausing and on capping, and what is wrong with it ("" = it counts); ended ones
    included."""
    from agents.cli.kafka_read import Reader
    from streams.contract.codec import decode
    from streams.contract.errors import ContractError
    from streams.contract.intent_key import key_of
    from streams.contract.records import OperatorIntent
    from streams.contract.topics import INTENT

    newest: dict[str, tuple[OperatorIntent, str]] = {}
    with Reader(bootstrap, INTENT.name) as reader:
        found = reader.last(None)
    for message in found:
        try:
            word = decode(OperatorIntent, message.value)
        except ContractError:
            continue  # the actuation job has sent it to the dead letters
        if word.cluster != cluster:
            continue
        wrong = _wrong_key(message.key, word) or _wrong(keyring, word)
        known = newest.get(key_of(word))
        if known is None or known[1] or (not wrong and word.ts_ns >= known[0].ts_ns):
            newest[key_of(word)] = (word, wrong)
    return [newest[key] for key in sorted(newest)]


def _wrong_key(key: bytes | None, word: OperatorIntent) -> str:
    from streams.contract.intent_key import key_of, known_keys

    if key in [known.encode() for known in known_keys(word)]:
        return ""
    return f"it stands under the key {key!r}, not under its scope's {key_of(word)!r}"


def _wrong(keyring: KeyRing, word: OperatorIntent) -> str:
    from streams.contract.errors import SignatureInvalid

    try:
        keyring.verify(word)
    except SignatureInvalid as error:
        return str(error)
    return ""


def keyring_of(layout: Layout) -> KeyRing:
    """The public keys of this data folder; empty when there are none."""
    from streams.contract.signing import KeyRing

    try:
        return KeyRing.load(layout.keyring) if layout.keyring.exists() else KeyRing({})
    except (OSError, ValueError) as error:
        raise EoError(f"the key ring cannot be used ({error}); `eo config check` shows more.") from error


def until(intent: OperatorIntent) -> str:
    """When a word ends, in words."""
    if intent.expires_ns is None:
        return "until it is ended"
    return "until " + time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(intent.expires_ns // 10**9))


def as_dict(intent: OperatorIntent, *, sent: bool) -> dict[str, object]:
    """A word as plain values for --json."""
    from msgspec import to_builtins

    return {**to_builtins(intent), "sent": sent}


def note_unknown_node(bootstrap: str, node: str | None) -> None:
    """Says on stderr when a node has not reported lately: it may be misspelt, and a word for it then reaches nobody."""
    from agents.cli.gpu_lookup import find
    from agents.cli.kafka_read import ASK_S
    from streams.errors import StreamsError
    from streams.replay import Replay

    if node is None:
        return
    try:
        with Replay(bootstrap, "eo-operator", timeout_s=ASK_S, quiet=True) as replay:
            known = find(replay, node, cluster_name()).node == node
    except (EoError, StreamsError):
        known = False
    if not known:
        print(f"note: {node} has not reported lately; `eo top -1` lists the nodes that have.", file=sys.stderr)


def node_scope(node: str | None) -> str:
    """ "node/<node>", or "cluster" without a node; raises EoError for an empty name."""
    if node is None:
        return "cluster"
    if not node.strip():
        raise EoError("--node needs a node's name; `eo top` lists them.", USAGE)
    return f"node/{node}"
