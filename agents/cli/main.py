"""The `eo` command: a table of verbs, each imported only when called, and the manners that all of them share."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import Final, cast

from agents.cli.base import DONE, FAILED, USAGE, EoError, Verb
from agents.cli.parser import Parser

# verb -> (module, one line of help). `eo --help` reads only this table.
VERBS: Final[dict[str, tuple[str, str]]] = {
    "doctor": ("doctor", "check this machine, the settings and the broker; say what is missing and how to get it"),
    "info": ("info", "versions, paths and what runs here"),
    "config": ("config", "show or check the settings; make the signing keys"),
    "broker": ("broker", "start, find or stop the Kafka broker"),
    "topics": ("topics", "compare the topics with the contract, create them, read one"),
    "agent": ("agent", "run the node agent"),
    "capper": ("capper", "run the capper: the one privileged process of a node"),
    "fleet": ("fleet", "run simulated nodes on the twin"),
    "worker": ("worker", "run the stream jobs"),
    "gateway": ("gateway", "run the Energy API and its console"),
    "keys": ("keys", "make, list and revoke keys of the Energy API"),
    "optimize": ("optimize", "what a strategy would do for each group; apply its power caps"),
    "demo": ("demo", "run the whole loop on simulated nodes and show it live"),
    "status": ("status", "what is in force now: modes, leases, lag, caps"),
    "top": ("top", "watts, latency and caps by node"),
    "explain": ("explain", "why a GPU has the limit that it has"),
    "pause": ("pause", "stop new commands; leases run out and limits go back"),
    "resume": ("resume", "end a pause"),
    "restore": ("restore", "put every limit back to the value found before us, with everything else dead"),
    "cap": ("cap", "show, set or clear a human's power cap"),
    "features": ("features", "the feature store: list, latest values, history"),
    "sql": ("sql", "ask the archive, read-only"),
    "forecast": ("forecast", "a metric's next hours, from the archive"),
    "sample-archive": ("sample_archive", "make up an archive of some days, labelled simulated, to try things on"),
    "dlq": ("dlq", "list or replay dead letters"),
    "alerts": ("alerts", "what fires and why, the rules, silences"),
    "webhook": ("webhook", "who is told of alerts: add, test, deliveries, replay"),
    "read": ("read", "one normalised reading of a source"),
    "metrics": ("metrics", "where each process serves its metrics, for Prometheus"),
    "whatif": ("whatif", "what a strategy would have cost and saved, on your own archive"),
    "bench": ("bench", "measure: loop, stream, twin, limit, control"),
}


def build_parser() -> argparse.ArgumentParser:
    """The top parser: verbs by name only, so that help needs no import."""
    width = max(map(len, VERBS))
    lines = "\n".join(f"  {name.ljust(width)}  {help_line}" for name, (_, help_line) in VERBS.items())
    parser = Parser(
        prog="eo",
        description="Energy Orchestrator: closed-loop energy control for GPU clusters on Kafka.",
        epilog=f"verbs:\n{lines}\n\nexample: eo doctor\nhelp of a verb: eo VERB --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version="eo 0.1.0")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.add_argument("verb", metavar="VERB", nargs="?", help="one of the verbs below")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def load(verb: str) -> Verb:
    """Imports a verb's module; raises EoError(USAGE) with the nearest name for an unknown verb."""
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, 1)
        hint = f"did you mean `eo {near[0]}`?" if near else "`eo --help` lists the verbs."
        raise EoError(f"{verb!r} is not a verb; {hint}", USAGE)
    return cast(Verb, importlib.import_module(f"agents.cli.{VERBS[verb][0]}"))


def _refuse_misspelt(verb: str) -> None:
    """No verb runs under a setting that nobody reads; `doctor` and `config` show the misspelt name instead."""
    if verb not in {"doctor", "config", "info"} and any(name.startswith("EO_") for name in os.environ):
        from agents.cli.known_names import refuse_misspelt

        refuse_misspelt(os.environ)


def main(argv: list[str] | None = None) -> int:
    """Runs one verb and returns its exit code: 0 done, 1 failed, 2 usage, 3 refused."""
    try:
        top = build_parser().parse_args(argv)
    except EoError as error:
        print(f"eo: {error}", file=sys.stderr)
        return error.code
    if top.verb is None:
        print("eo: name a verb, such as `eo doctor`; `eo --help` lists them.", file=sys.stderr)
        return USAGE
    debug = top.debug or "--debug" in top.rest
    try:
        verb = load(top.verb)
        parser = Parser(
            prog=f"eo {top.verb}",
            description=VERBS[top.verb][1],
            formatter_class=argparse.RawDescriptionHelpFormatter,
            conflict_handler="resolve",  # `eo bench` takes a file after --json
        )
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        parser.add_argument("--debug", action="store_true", help="show tracebacks")
        verb.add_arguments(parser)
        args = parser.read(top.rest)
        _refuse_misspelt(top.verb)
        return verb.run(args)
    except EoError as error:
        if debug:
            raise
        print(f"eo {top.verb}: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return FAILED
    except BrokenPipeError:
        # The reader (head, less) has gone: that is no failure of ours. Keep the interpreter's own flush quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        if debug:
            raise
        print(f"eo {top.verb}: {_said(error)}", file=sys.stderr)
        return FAILED


def entry() -> None:
    """The console script."""
    sys.exit(main())


def _said(error: Exception) -> str:
    """An error that no verb expected, in one sentence. Kafka's client has one kind for whatever the broker did."""
    if type(error).__name__ == "KafkaException" and error.args and hasattr(error.args[0], "str"):
        where = os.environ.get("KAFKA_BOOTSTRAP") or "the local address"
        return (
            f"the broker at {where} does not answer as it should ({error.args[0].str()}); `eo doctor kafka` says why."
        )
    return f"{type(error).__name__}: {error}. Run it again with --debug to see where."
