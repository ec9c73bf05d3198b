"""The actuation job's ways to files and Kafka besides the runtime's: keys, plans, partitions, intents, the way out.

Each opens one thing and turns what can go wrong there into a StreamsError with a next step. None decides anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from streams.commands_out import PartitionWriter
from streams.contract.signing import KeyRing, Signer
from streams.contract.topics import FEATURES
from streams.errors import StreamsError
from streams.jobs.actuation_intents import IntentReader, Intents
from streams.jobs.actuation_state import Options
from streams.jobs.actuation_writer import Writer
from streams.jobs.base import JobContext
from streams.plan import read_plans
from streams.replay import Replay

NAME: Final = "actuation"


def keyring(ctx: JobContext) -> KeyRing:
    """The public keys, or none at all: then no intent counts."""
    path = ctx.layout.keyring
    return KeyRing.load(path) if path.exists() else KeyRing({})


def partitions(ctx: JobContext) -> int:
    """How many partitions the features have. Raises StreamsError."""
    from confluent_kafka import KafkaException

    try:
        with Replay(ctx.settings.bootstrap, f"{ctx.settings.group(NAME)}-partitions", timeout_s=5.0) as replay:
            return replay.partitions(FEATURES.name)
    except KafkaException as error:
        raise StreamsError(f"the partitions of {FEATURES.name} cannot be counted: {error}") from error


def plans(ctx: JobContext) -> list[dict[str, Any]]:
    """The newest plan of every partition. Raises StreamsError."""
    from confluent_kafka import KafkaException

    try:
        with Replay(ctx.settings.bootstrap, f"{ctx.settings.group(NAME)}-plans", timeout_s=5.0) as replay:
            return read_plans(replay, ctx.settings.cluster, now_ns=ctx.wall_ns())
    except KafkaException as error:
        raise StreamsError(f"the newest plans cannot be read: {error}") from error


def intents(ctx: JobContext) -> Intents:
    return IntentReader(ctx.settings.bootstrap, f"{ctx.settings.group(NAME)}-intents")


def writers(ctx: JobContext, options: Options) -> Callable[[int], Writer]:
    """Partition -> its transactional writer. Raises StreamsError naming a missing key."""
    try:
        signer = Signer.load(ctx.layout.actuation_key)
    except (OSError, ValueError) as error:
        raise StreamsError(
            f"mode {options.mode} needs the signing key {ctx.layout.actuation_key} ({error}); "
            "make one with `eo config keys`, or use EO_MODE=observe"
        ) from error
    ring, bootstrap = keyring(ctx), ctx.settings.bootstrap
    return lambda partition: PartitionWriter(
        bootstrap,
        options.cluster,
        partition,
        signer=signer,
        keyring=ring,
        wall_ns=ctx.wall_ns,
        tracing=ctx.tracing,
    )
