"""`eo dlq list|replay`: what could not be decoded, why, and sending it again once the reason is gone.

A replay keeps the original key, so the record meets its own partition and state again. It never removes a letter:
effects are idempotent, so a second replay of the same letter changes nothing.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
from dataclasses import dataclass

from agents.cli.base import DONE, REFUSED, USAGE, EoError, confirm, emit, table, writing
from agents.cli.brokers import resolve_bootstrap
from agents.cli.kafka_read import Message, Reader
from agents.cli.known_names import refuse_misspelt
from agents.cli.parser import whole
from streams.contract.codec import CONTENT_TYPE, SCHEMA_VERSION, decode, record_type
from streams.contract.dlq import DeadLetter
from streams.contract.errors import ContractError
from streams.contract.kafka import producer_config
from streams.contract.layout import Layout
from streams.contract.topics import DLQ

FLUSH_S = 30.0


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter: where it lies now and what it says."""

    message: Message
    letter: DeadLetter

    @property
    def place(self) -> str:
        return f"{self.message.partition}@{self.message.offset}"

    def refusal(self) -> str | None:
        """Why sending it again is of no use; None when it now decodes."""
        try:
            decode(record_type(self.letter.topic), self.message.value)
        except ContractError as error:
            return str(error)
        return None

    def as_dict(self) -> dict[str, object]:
        return {
            "place": self.place,
            "topic": self.letter.topic,
            "partition": self.letter.partition,
            "offset": self.letter.offset,
            "component": self.letter.component,
            "error": self.letter.error,
            "ts_ns": self.letter.ts_ns,
            "key": None if self.message.key is None else self.message.key.decode(errors="replace"),
            "value_base64": None if self.message.value is None else base64.b64encode(self.message.value).decode(),
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n  eo dlq list\n  eo dlq list --topic telemetry.node --json\n"
        "  eo dlq replay 0@17 --dry-run\n  eo dlq replay --all --yes"
    )
    parser.add_argument("what", choices=("list", "replay"), help="show letters, or send them to their topic again")
    parser.add_argument("place", nargs="*", help="for replay: partition@offset as `eo dlq list` shows them")
    parser.add_argument("--topic", help="only letters from this topic, long or short (telemetry.node)")
    parser.add_argument("--component", help="only letters of this job, e.g. features")
    parser.add_argument("--all", action="store_true", help="for replay: every letter that fits the filters")
    parser.add_argument(
        "-n", "--count", type=whole(1, 1_000_000), default=20, help="for list: how many of the newest (20)"
    )
    writing(parser)


def run(args: argparse.Namespace) -> int:
    refuse_misspelt(os.environ)
    if args.what == "replay" and bool(args.place) == args.all:
        raise EoError("name the letters to replay (partition@offset, see `eo dlq list`), or pass --all.", USAGE)
    if odd := [place for place in args.place if not re.fullmatch(r"\d{1,9}@\d{1,18}", place)]:
        raise EoError(f"{odd[0]!r} is no place of a letter; write partition@offset as `eo dlq list` shows it.", USAGE)
    bootstrap = resolve_bootstrap(Layout.from_env())
    letters = fetch(bootstrap, topic=args.topic, component=args.component)
    return _list(args, letters) if args.what == "list" else _replay(args, bootstrap, letters)


def fetch(bootstrap: str, *, topic: str | None = None, component: str | None = None) -> list[Letter]:
    """Every letter that fits, oldest first; raises EoError as Reader does."""
    from agents.cli.topics import full_name

    wanted = full_name(topic) if topic else None
    with Reader(bootstrap, DLQ.name) as reader:
        letters = [Letter(one, DeadLetter.from_headers(list(one.headers))) for one in reader.last(None)]
    return [one for one in letters if wanted in (None, one.letter.topic) and component in (None, one.letter.component)]


def _list(args: argparse.Namespace, letters: list[Letter]) -> int:
    from agents.cli.kafka_text import clock

    shown = letters[-args.count :] if args.count > 0 else []
    rows = [
        (
            one.place,
            clock(one.letter.ts_ns // 1_000_000) if one.letter.ts_ns > 0 else None,
            f"{one.letter.topic} {one.letter.partition}@{one.letter.offset}",
            one.letter.component,
            one.letter.error,
        )
        for one in shown
    ]
    text = table(rows, ("place", "time (UTC)", "from", "job", "reason")) if rows else "No dead letters."
    if len(letters) > len(shown):
        text += f"\n{len(letters) - len(shown)} older ones: -n {len(letters)} shows all."
    emit(args, [one.as_dict() for one in shown], text)
    return DONE


def _replay(args: argparse.Namespace, bootstrap: str, letters: list[Letter]) -> int:
    chosen = letters if args.all else _named(args.place, letters)
    refused = {one.place: reason for one in chosen if (reason := one.refusal()) is not None}
    good = [one for one in chosen if one.place not in refused]
    if good and not args.dry_run:
        confirm(args, f"Send {len(good)} letters to their topics at {bootstrap} again?")
        send(bootstrap, good)
    word = "would be sent" if args.dry_run else "sent"
    lines = [f"{one.place}  {word} to {one.letter.topic}" for one in good]
    lines += [f"{place}  left: it would come straight back, {reason}" for place, reason in refused.items()]
    value = {"sent": [one.place for one in good], "left": refused, "dry_run": args.dry_run}
    emit(args, value, "\n".join(lines) or "No letter fits.")
    return REFUSED if refused else DONE


def _named(places: list[str], letters: list[Letter]) -> list[Letter]:
    by_place = {one.place: one for one in letters}
    if missing := [place for place in places if place not in by_place]:
        raise EoError(
            f"no dead letter lies at {', '.join(missing)} ({len(letters)} fit the filters); `eo dlq list` shows "
            "their places.",
            USAGE,
        )
    return [by_place[place] for place in places]


def send(bootstrap: str, letters: list[Letter]) -> None:
    """Sends letters to their own topics with their own keys; raises EoError when one is not acknowledged."""
    from confluent_kafka import Producer

    failed: list[str] = []
    producer = Producer({**producer_config(bootstrap, "eo-dlq-replay"), "message.timeout.ms": int(FLUSH_S * 1000)})
    for one in letters:
        headers = [
            ("content-type", CONTENT_TYPE.encode()),
            ("schema", str(SCHEMA_VERSION).encode()),
            ("dlq.replayed", one.place.encode()),
        ]
        producer.produce(
            one.letter.topic,
            key=one.message.key,
            value=one.message.value,
            headers=headers,
            on_delivery=lambda error, _, place=one.place: failed.append(f"{place}: {error}") if error else None,
        )
    left = producer.flush(FLUSH_S)
    if failed or left:
        told = failed[0] if failed else f"no answer within {FLUSH_S:g} s"
        raise EoError(
            f"{max(len(failed), left)} of {len(letters)} letters were not acknowledged by {bootstrap} ({told}); they "
            "are still in the queue: run the replay again."
        )
