"""The parser of every verb: options may stand anywhere; what cannot be read is one sentence, not a page of usage."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from agents.cli.base import USAGE, EoError

MISSING: Final = "the following arguments are required: "
KINDS: Final = {"int": "a whole number", "float": "a number", "Path": "a path"}
SHOWN: Final = 80  # characters of a caller's own word


class Parser(argparse.ArgumentParser):
    """Raises EoError(USAGE) where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        missing = message.removeprefix(MISSING)
        text = _plain(message) if missing == message else self._missing(missing.split(", ")[0])
        raise EoError(f"{text}; `{self.prog} --help` has examples.", USAGE)

    def _missing(self, name: str) -> str:
        """What to write where a word is missing: its choices, where there are some."""
        for action in self._actions:
            if name in (action.metavar, action.dest, *action.option_strings) and action.choices:
                return f"write one of {', '.join(map(str, action.choices))}"
        return f"{name} is missing"

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The arguments of a verb, `set --yes GPU 300` as well as `set GPU 300 --yes`."""
        return self.parse_intermixed_args([*words])


def number(least: float, most: float, *, above: bool = False) -> Callable[[str], float]:
    """For `type=`: a finite number from `least` (or above it) to `most`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most or (above and value == least):
            raise argparse.ArgumentTypeError(
                f"{_short(repr(text))} is not a number {'above' if above else 'from'} {least:g} to {most:g}"
            )
        return value

    return read


def whole(least: int, most: int) -> Callable[[str], int]:
    """For `type=`: a whole number from `least` to `most`."""

    def read(text: str) -> int:
        value = int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{_short(repr(text))} is not a whole number from {least} to {most}")
        return value

    return read


def name(text: str) -> str:
    """For `type=`: a name that is not empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is empty; write a name")
    return text


def _plain(message: str) -> str:
    """argparse's words in ours."""
    text = re.sub(r"^argument ((-\S+/)?(?P<name>[^:]+)): ", r"\g<name>: ", message)
    if found := re.search(r"invalid (\w+) value: (.*)$", text):
        text = f"{text[: found.start()]}{_short(found[2])} is not {KINDS.get(found[1], 'understood')}"
    elif found := re.search(r"invalid choice: ('.*?'|\S+) \(choose from (.*)\)$", text, re.DOTALL):
        text = f"{text[: found.start()]}{_short(found[1])} is none of {found[2].replace(chr(39), '')}{_near(found)}"
    elif text.startswith("unrecognized arguments: "):
        text = f"{_short(text.removeprefix('unrecognized arguments: '))} is not understood here"
    return text.removeprefix("what: ").replace(": expected one argument", " needs a value").rstrip(".")


def _near(found: re.Match[str]) -> str:
    import difflib

    names = [name.strip(" '") for name in found[2].split(",")]
    near = difflib.get_close_matches(found[1].strip("'"), names, 1)
    return f", did you mean {near[0]}?" if near else ""


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
