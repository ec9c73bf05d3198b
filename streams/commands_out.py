"""The way out for commands: one transactional producer per partition, so that the broker itself fences a zombie.

`transactional.id` is actuation-<cluster>-<partition>: whoever opens it last owns the partition, and every earlier
owner's next transaction fails. Opening happens before the last command is read, so no older writer can add one behind
our back. All of a batch's envelopes go out in one transaction. This module decides nothing; it numbers, signs, sends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaException, Producer

from streams.contract import codec, failpoints
from streams.contract.errors import ContractError
from streams.contract.kafka import producer_config
from streams.contract.records import PowerDesired
from streams.contract.signing import KeyRing, Signer
from streams.contract.topics import DESIRED, FEATURES
from streams.errors import StreamsError
from streams.jobs.actuation_retry import patiently
from streams.observe.trace import JobTracing, Span, Value
from streams.replay import Replay

log = logging.getLogger(__name__)
TRANSACTION_TIMEOUT_S: Final = 10.0  # a dead owner's open transaction hides later commands for at most this long
LOOK_BACK: Final = 500  # offsets looked at first, from the end; commit markers take some of them
COMMIT_PATIENCE_S: Final = 60.0
FENCED_CODES: Final = frozenset({"_FENCED", "INVALID_PRODUCER_EPOCH", "PRODUCER_FENCED"})


class CommandsError(StreamsError):
    """Commands could not be written; the text says what to do."""


class Fenced(CommandsError):
    """Another actuation job owns the partition now: this process must end without writing anything more."""


class Aborted(CommandsError):
    """The transaction was rolled back; its envelopes were not seen by anybody and may be decided anew."""


class PartitionWriter:
    """Owns the commands of one partition. All methods block and belong to one thread."""

    def __init__(
        self,
        bootstrap: str,
        cluster: str,
        partition: int,
        *,
        signer: Signer,
        keyring: KeyRing | None,
        wall_ns: Callable[[], int],
        tracing: JobTracing | None = None,
    ) -> None:
        self._tracing = tracing
        self.partition, self.cluster = partition, cluster
        self.epoch, self.seq, self.forged_total = 0, 0, 0
        self._bootstrap, self._signer, self._keyring, self._wall_ns = bootstrap, signer, keyring, wall_ns
        self._producer: Any = None

    def open(self, *, epoch_floor: int = 0, timeout_s: float = 30.0) -> int:
        """Fences earlier owners, finds the highest epoch and returns ours, one above it.

        A topic without any command starts at the wall clock's seconds: nodes keep their marks for ever, and a broker
        that lost its store must not strand them behind an epoch of 1.
        """
        self._producer = Producer(self._producer_config())
        try:
            self._producer.init_transactions(timeout_s)
            found = patiently(lambda: self._highest_epoch(timeout_s), timeout_s=timeout_s)
        except KafkaException as error:
            translated = _translate(error, self.partition)
            if isinstance(translated, Aborted):  # nothing was begun yet
                cause = error.args[0]
                raise CommandsError(
                    f"partition {self.partition}: its commands cannot be taken over ({cause.name()}: {cause.str()}); "
                    "check the broker with `eo doctor kafka`"
                ) from error
            raise translated from error
        highest = max(found, epoch_floor)
        self.epoch = (highest or self._wall_ns() // 10**9) + 1
        log.info(
            "commands of partition %d: epoch %d follows %d (%d commands not counted)",
            self.partition,
            self.epoch,
            highest,
            self.forged_total,
        )
        return self.epoch

    def _producer_config(self) -> dict[str, str | int | float | bool]:
        milliseconds = int(TRANSACTION_TIMEOUT_S * 1000)
        return {
            **producer_config(self._bootstrap, f"eo-actuation-{self.cluster}-{self.partition}", linger_ms=0),
            "transactional.id": f"actuation-{self.cluster}-{self.partition}",
            "transaction.timeout.ms": milliseconds,
            "message.timeout.ms": milliseconds - 1000,
        }

    def write(self, drafts: Sequence[PowerDesired]) -> int:
        """Numbers, signs and commits envelopes in one transaction; returns how many.

        Raises:
            Fenced: another owner exists.
            Aborted: nothing was written; try again with fresh decisions.
        """
        spans = self._spans(drafts)
        try:
            self._producer.begin_transaction()
            for draft in drafts:
                self._produce(self._stamp(draft), spans.get(draft.node))
            failpoints.hit("streams.in_transaction")
            self._commit()
        except KafkaException as error:
            raise self._rolled_back(error) from error
        finally:
            for span in spans.values():
                span.end()
        return len(drafts)

    def _spans(self, drafts: Sequence[PowerDesired]) -> dict[str, Span]:
        """A span around the transaction for each envelope that a traced sample led to."""
        if self._tracing is None or not self._tracing.handoff.held:
            return {}
        found = {draft.node: self._tracing.handoff.take((draft.node, draft.issued_at_ns)) for draft in drafts}
        facts: dict[str, Value] = {"messaging.system": "kafka", "messaging.batch.message_count": len(drafts)}
        start = self._tracing.tracer.start
        return {
            node: start("actuation.commit", parent=parent, attributes={"host.name": node, **facts})
            for node, parent in found.items()
            if parent is not None
        }

    def _commit(self) -> None:
        """Commits; a commit whose answer is late must be asked for again, it can no longer be taken back."""
        deadline = time.monotonic() + COMMIT_PATIENCE_S
        while True:
            try:
                self._producer.commit_transaction(TRANSACTION_TIMEOUT_S)
                return
            except KafkaException as error:
                cause = error.args[0]
                if cause.fatal() or cause.txn_requires_abort() or not cause.retriable():
                    raise
                if time.monotonic() > deadline:
                    raise CommandsError(
                        f"partition {self.partition}: a commit has had no answer for {COMMIT_PATIENCE_S:.0f} s "
                        f"({cause.name()}); check the broker with `eo doctor kafka`"
                    ) from error
                log.warning("partition %d: the commit has no answer yet (%s)", self.partition, cause.name())

    def _stamp(self, draft: PowerDesired) -> PowerDesired:
        self.seq += 1
        now = self._wall_ns()
        return self._signer.sign(msgspec.structs.replace(draft, epoch=self.epoch, seq=self.seq, issued_at_ns=now))

    def _produce(self, command: PowerDesired, span: Span | None) -> None:
        context = None if span is None else span.traceparent
        self._producer.produce(
            DESIRED.name,
            codec.encode(command),
            key=command.node.encode(),
            partition=self.partition,
            headers=codec.headers(command, source=f"actuation/{self.partition}", traceparent=context),
        )

    def _rolled_back(self, error: KafkaException) -> CommandsError:
        translated = _translate(error, self.partition)
        if isinstance(translated, Fenced):
            return translated
        try:
            self._producer.abort_transaction(TRANSACTION_TIMEOUT_S)
        except KafkaException as second:
            return _translate(second, self.partition)
        return translated

    def _highest_epoch(self, timeout_s: float) -> int:
        """The epoch of the newest command signed by a known key; 0 for none.

        Epochs never fall along a partition, because each owner fences the one before: the newest command carries the
        highest, and reading back from the end replaces reading everything.
        """
        client_id = f"eo-actuation-{self.cluster}-{self.partition}-epoch"
        with Replay(self._bootstrap, client_id, timeout_s=timeout_s) as replay:
            self._check_partitions(replay)
            low, end = replay.bounds(DESIRED.name, self.partition)
            width = LOOK_BACK
            while end > low:
                start = max(low, end - width)
                chunks = replay.read(DESIRED.name, self.partition, start=start, end=end)
                if (epoch := max((self._epoch_of(r.value) for chunk in chunks for r in chunk), default=0)) > 0:
                    return epoch
                end, width = start, width * 4
        return 0

    def _check_partitions(self, replay: Replay) -> None:
        ours, theirs = replay.partitions(DESIRED.name), replay.partitions(FEATURES.name)
        if ours != theirs:
            raise CommandsError(
                f"{DESIRED.name} has {ours} partitions and {FEATURES.name} has {theirs}; a node's commands would reach "
                "the wrong partition. Run `eo topics plan`."
            )

    def _epoch_of(self, raw: bytes | None) -> int:
        try:
            command = codec.decode(PowerDesired, raw)
            if command.cluster != self.cluster:
                return 0
            if self._keyring is not None:
                self._keyring.verify(command)
        except ContractError as error:
            self.forged_total += 1
            if self.forged_total == 1:  # the number follows; one example is enough
                log.warning("%s/%d: a command is not counted: %s", DESIRED.name, self.partition, error)
            return 0
        return command.epoch

    def close(self) -> None:
        """Lets go of the producer and of what it still holds; an open transaction is left for the broker to abort."""
        if self._producer is not None:
            self._producer.purge()
        self._producer = None


def _translate(error: KafkaException, partition: int) -> CommandsError:
    cause = error.args[0]
    if cause.name() in FENCED_CODES:
        return Fenced(
            f"partition {partition}: another actuation job has taken over the commands ({cause.name()}); this one ends "
            "and nothing that it still held was written."
        )
    if cause.fatal():
        return CommandsError(f"partition {partition}: the producer cannot go on ({cause.name()}: {cause.str()})")
    return Aborted(f"partition {partition}: the transaction was rolled back ({cause.name()}: {cause.str()})")
