"""`eo worker`: run the stream jobs. Without a name it supervises one process per job; with one it is that process."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from agents.cli.base import USAGE, EoError
from agents.cli.parser import name

if TYPE_CHECKING:
    from pydantic import ValidationError

    from streams.settings import WorkerSettings

DESCRIPTION = """Runs the stream jobs until SIGTERM or Ctrl-C.

  eo worker                 one process per job, started again when it ends
  eo worker features        only the features job, in this process
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.description = DESCRIPTION
    parser.epilog = "example: eo worker features"
    parser.add_argument("job", nargs="?", help="a job, such as features or alerts; default: all")
    parser.add_argument("--only", type=name, metavar="JOB,JOB", help="supervise these jobs only")
    parser.add_argument("--bootstrap", help="the broker, host:port; default: KAFKA_BOOTSTRAP, then `eo broker`")


def run(args: argparse.Namespace) -> int:
    """Runs one job or supervises all; returns the exit code."""
    from pydantic import ValidationError

    from agents.cli.known_names import refuse_misspelt
    from streams.settings import from_env

    refuse_misspelt(os.environ)
    try:
        first = from_env()
        settings = first.model_copy(update={"bootstrap": _bootstrap(args, first)})
    except ValidationError as error:
        raise EoError(_first(error), USAGE) from error
    if args.job is not None:
        from streams.app import run as run_job

        return run_job(_known(args.job), settings)
    return _supervise(args, settings)


def _bootstrap(args: argparse.Namespace, settings: WorkerSettings) -> str:
    from agents.cli.brokers import resolve_bootstrap

    return args.bootstrap or settings.bootstrap or resolve_bootstrap(settings.layout)


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    where = ".".join(map(str, found["loc"])) or "settings"
    return f"setting {where} is {found.get('input')!r}: {found['msg']}; `eo config show` lists the settings."


def _known(job: str) -> str:
    from streams.errors import StreamsError
    from streams.jobs.registry import resolve

    try:
        resolve(job)
    except StreamsError as error:
        raise EoError(str(error), USAGE) from error
    return job


def _supervise(args: argparse.Namespace, settings: WorkerSettings) -> int:
    from streams.app import configure_logging
    from streams.jobs.registry import JOBS
    from streams.settings import worker_env
    from streams.supervisor import Supervisor

    jobs = [_known(job) for job in args.only.split(",")] if args.only else list(JOBS)
    configure_logging("supervisor")
    # One fixed port serves one process: jobs under one supervisor take free ones and name them in their run files.
    env = {**worker_env(settings), "EO_METRICS_PORT": "0"}
    return Supervisor(jobs, _command, layout=settings.layout, env=env).run()


def _command(job: str) -> list[str]:
    return [sys.executable, "-m", "agents", "worker", job]
