"""What humans asked for: pauses and caps, verified, newest word per scope and family. It decides nothing about watts.

Intents are read by every actuation job from the start of their compacted topic, without a group. Only a signature of
the key ring counts; an older word never replaces a newer one, so replaying an old message changes nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from streams.contract import codec
from streams.contract.errors import ContractError, SignatureInvalid
from streams.contract.intent_key import AHEAD_NS, Family, family, key_of, known_keys
from streams.contract.kafka import assigned_consumer_config
from streams.contract.records import OperatorIntent
from streams.contract.signing import KeyRing
from streams.contract.topics import INTENT
from streams.jobs.actuation_retry import patiently

if TYPE_CHECKING:
    from confluent_kafka import Consumer

log = logging.getLogger(__name__)
SCOPE: Final = re.compile(r"cluster|(node|gpu)/.{1,200}")


class IntentBook:
    """The words in force. `version` changes whenever the answer to any question here may have changed."""

    def __init__(self, cluster: str, keyring: Callable[[], KeyRing]) -> None:
        self.cluster, self._load = cluster, keyring
        self._keyring = keyring()
        self._newest: dict[tuple[str, Family], OperatorIntent] = {}
        self._expired: set[tuple[str, Family]] = set()
        self.version, self.accepted_total, self.refused_total = 0, 0, 0

    def accept(self, intent: OperatorIntent, now_ns: int) -> bool:
        """Takes a word in; false for another cluster's and for one older than what its scope already heard of it.

        Raises:
            ContractError: forged or without sense; counted, and nothing changes.
        """
        if intent.cluster != self.cluster:
            return False
        try:
            self._verify(intent)
            self._check(intent, now_ns)
        except ContractError:
            self.refused_total += 1
            raise
        about = intent.scope, family(intent.kind)
        known = self._newest.get(about)
        if known is not None and known.ts_ns >= intent.ts_ns:
            return False
        self._newest[about] = intent
        self._expired.discard(about)
        self.accepted_total += 1
        self.version += 1
        return True

    def _verify(self, intent: OperatorIntent) -> None:
        try:
            self._keyring.verify(intent)
        except SignatureInvalid:
            self._keyring = self._load()  # a key may have been added since
            self._keyring.verify(intent)

    def _check(self, intent: OperatorIntent, now_ns: int) -> None:
        if SCOPE.fullmatch(intent.scope) is None:
            raise ContractError(f"intent {intent.intent_id}: scope {intent.scope!r} is not cluster, node/… or gpu/…")
        if intent.ts_ns > now_ns + AHEAD_NS:
            ahead = (intent.ts_ns - now_ns) / 1e9
            raise ContractError(f"intent {intent.intent_id} is {ahead:.0f} s ahead of this clock (60 s are allowed)")
        if intent.kind == "cap" and not (intent.max_power_w is not None and intent.max_power_w > 0):
            raise ContractError(f"intent {intent.intent_id}: a cap of {intent.max_power_w} W says nothing")
        if intent.kind == "cap" and intent.scope == "cluster":
            raise ContractError(f"intent {intent.intent_id}: a cap is for gpu/… or node/…, not for the cluster")

    def tick(self, now_ns: int) -> None:
        """Notices words that have just run out."""
        for about, intent in self._newest.items():
            if about not in self._expired and intent.expires_ns is not None and now_ns >= intent.expires_ns:
                self._expired.add(about)
                self.version += 1

    def pause(self, node: str, now_ns: int) -> OperatorIntent | None:
        """The pause that covers a node now."""
        return self._live("cluster", "pause", now_ns) or self._live(f"node/{node}", "pause", now_ns)

    def cap(self, uuid: str, now_ns: int) -> OperatorIntent | None:
        """A human's cap of one GPU."""
        return self._live(f"gpu/{uuid}", "cap", now_ns)

    def budget(self, node: str, now_ns: int) -> OperatorIntent | None:
        """A power budget for all GPUs of a node together."""
        return self._live(f"node/{node}", "cap", now_ns)

    def resumed_ns(self, node: str) -> int:
        """When a human last resumed a node or the cluster; 0 = never."""
        words = (self._newest.get((scope, "pause")) for scope in ("cluster", f"node/{node}"))
        return max((w.ts_ns for w in words if w is not None and w.kind == "resume"), default=0)

    def _live(self, scope: str, kind: Family, now_ns: int) -> OperatorIntent | None:
        word = self._newest.get((scope, kind))
        if word is None or word.kind != kind or (word.expires_ns is not None and now_ns >= word.expires_ns):
            return None
        return word

    def all(self) -> tuple[OperatorIntent, ...]:
        """The newest words of each scope, ended ones too: a snapshot must remember what a replay may not undo."""
        return tuple(self._newest.values())


class RawIntent(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None
    old: bool  # written before this reader started


class Intents(Protocol):
    """A source of intents."""

    @property
    def caught_up(self) -> bool: ...

    def poll(self, most: int = 200) -> Iterable[RawIntent]: ...

    def close(self) -> None: ...


class IntentReader:
    """Reads the intents' one partition by assign(); never blocks after construction."""

    def __init__(self, bootstrap: str, client_id: str, *, timeout_s: float = 30.0) -> None:
        from confluent_kafka import Consumer, TopicPartition

        config = assigned_consumer_config(bootstrap, client_id) | {"log_level": 3}
        self._consumer: Consumer = Consumer(config)
        partition = TopicPartition(INTENT.name, 0)
        ends = patiently(
            lambda: self._consumer.get_watermark_offsets(partition, timeout=timeout_s), timeout_s=timeout_s
        )
        self._position, self._end = ends
        if self._position < self._end:
            self._consumer.assign([TopicPartition(INTENT.name, 0, self._position)])
        else:
            self._consumer.assign([TopicPartition(INTENT.name, 0, self._end)])

    @property
    def caught_up(self) -> bool:
        """Whether everything that was there at the start has been read: before that, a pause may still be unknown."""
        return bool(self._position >= self._end)

    def poll(self, most: int = 200) -> Iterator[RawIntent]:
        """What has arrived, without waiting."""
        from confluent_kafka import TopicPartition

        for message in self._consumer.consume(most, 0):
            if (error := message.error()) is not None:
                log.warning("%s: %s", INTENT.name, error)
                continue
            offset = message.offset()
            yield RawIntent(offset, message.key(), message.value(), offset < self._end)
            self._position = offset + 1
        if not self.caught_up:
            # The last offsets may be commit markers or compacted away: the consumer's own position knows.
            (at,) = self._consumer.position([TopicPartition(INTENT.name, 0)])
            self._position = max(self._position, at.offset)

    def close(self) -> None:
        self._consumer.close()


def take(book: IntentBook, raw: RawIntent, now_ns: int) -> str | None:
    """Gives one message to the book; returns why it was refused, None when it was not."""
    if raw.value is None:
        return None  # a tombstone: compaction's own
    try:
        intent = codec.decode(OperatorIntent, raw.value)
        if raw.key not in [key.encode() for key in known_keys(intent)]:
            raise ContractError(f"intent {intent.intent_id}: key {raw.key!r} is not its scope's {key_of(intent)!r}")
        if not book.accept(intent, now_ns) and intent.cluster == book.cluster and not raw.old:
            what = f"{intent.kind} {intent.intent_id} of {intent.actor} on {intent.scope}"
            log.warning("%s changes nothing: a newer word is known; is the clock of its writer slow?", what)
    except ContractError as error:
        log.warning("%s@%d ignored: %s", INTENT.name, raw.offset, error)
        return str(error)
    return None
