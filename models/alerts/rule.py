"""What an alert rule is, and how one is read from the plain values of its file. It judges nothing.

A rule names a *kind* (what is measured, see models.alerts.measure), a bound, how often the bound must be passed, and
what a human needs at three in the morning: a sentence, the question that shows it, what was done, how to undo it.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, cast

Severity = Literal["info", "warning", "critical"]
SEVERITIES: Final[tuple[Severity, ...]] = ("info", "warning", "critical")
Option = float | str | tuple[str, ...]
LEAST_WINDOW_S: Final = 2.0
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{1,63}")

# kind -> options that it knows, with their defaults; None = must be set, or the rule stays silent and says so.
KINDS: Final[dict[str, dict[str, Option | None]]] = {
    "power": {"relative_to_limit": 1.0, "window_s": 60.0},
    "efficiency": {"relative_to_stack": 1.0, "least_engines": 4.0, "window_s": 60.0},
    "carbon": {"window_h": 24.0},
    "idle": {},
    "silence": {"forget_s": 86_400.0},
    "stream_lag": {},
    "latency": {"window_s": 60.0, "metrics": ("tbt", "ttft", "e2e"), "margin_ratio": 0.0},
    "sensors": {"least_w": 20.0},
    "event": {
        "events": (),
        "statuses": (),
        "reasons": (),
        "ignore_reasons": (),
        "clear_statuses": (),
        "hold_s": 0.0,
        "by_node": 0.0,
    },
    "verdict": {"hold_s": 420.0},
}
INSTANT: Final = frozenset({"event", "verdict"})  # kinds whose single occurrence is proof: k of n does not apply


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `threshold` and `clear` are in the unit of the kind; `clear` is the bound of recovery (hysteresis)."""

    name: str
    kind: str
    severity: Severity
    summary: str  # one sentence; may use {subject}, {value}, {threshold} and the names of the evidence
    runbook: str
    sql: str  # argument of `eo sql`
    action: str
    undo: str
    threshold: float | None = None
    clear: float | None = None  # None = the threshold itself
    k: int = 3
    n: int = 5
    every_s: float = 5.0  # evaluations of one subject are at least this far apart, in the subject's own time
    stale_s: float = 900.0  # no known value for this long: resolved, and the sentence says that nothing is known
    group: str = ""
    enabled: bool = True
    options: Mapping[str, Option] = field(default_factory=dict)

    def number(self, name: str) -> float:
        """An option that is a number; options are checked when the rule is read."""
        return cast(float, self.options[name])

    def words(self, name: str) -> tuple[str, ...]:
        """An option that is a list of words."""
        return cast(tuple[str, ...], self.options[name])

    def over(self, value: float) -> bool:
        """Whether a value passes the bound."""
        return self.threshold is not None and value > self.threshold

    def recovered(self, value: float) -> bool:
        """Whether a value is good again."""
        bound = self.threshold if self.clear is None else self.clear
        return bound is not None and value <= bound


_TEXTS: Final = ("summary", "runbook", "sql", "action", "undo")
_NUMBERS: Final = ("threshold", "clear", "every_s", "stale_s")
_FIELDS: Final = tuple(one.name for one in fields(Rule) if one.name not in {"name", "options"})


def parse(name: str, values: Mapping[str, Any]) -> Rule:
    """A rule from its file's values. Raises ValueError: one sentence with the value, the bound and the next step."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"rule {name!r}: a name is a-z, 0-9 and _, at most 64 long; rename its file")
    kind = values.get("kind")
    if kind not in KINDS:
        raise ValueError(f"rule {name}: kind is {kind!r}; {_nearest(str(kind), KINDS)}")
    unknown = sorted(values.keys() - set(_FIELDS) - {"options"})
    if unknown:
        raise ValueError(f"rule {name}: {unknown[0]!r} is no field of a rule; {_nearest(unknown[0], _FIELDS)}")
    _check(name, values)
    fixed = {key: values[key] for key in _FIELDS if key in values}
    rule = Rule(name=name, **fixed, options=_options(name, kind, values.get("options", {})))
    render(rule, "x", 1.0, {})
    return rule


def _check(name: str, values: Mapping[str, Any]) -> None:
    for text in _TEXTS:
        if not isinstance(values.get(text), str) or not values[text].strip():
            raise ValueError(f"rule {name}: {text} is {values.get(text)!r}; write one sentence or name")
    if values.get("severity") not in SEVERITIES:
        raise ValueError(f"rule {name}: severity is {values.get('severity')!r}; one of {', '.join(SEVERITIES)}")
    for number in _NUMBERS:
        if number in values and not _finite(values[number]):
            raise ValueError(f"rule {name}: {number} is {values[number]!r}; write a finite number")
    k, n = values.get("k", 3), values.get("n", 5)
    if type(k) is not int or type(n) is not int or not 1 <= k <= n <= 60:
        raise ValueError(f"rule {name}: k is {k!r} and n is {n!r}; 1 <= k <= n <= 60 must hold")
    if type(values.get("enabled", True)) is not bool or not isinstance(values.get("group", ""), str):
        raise ValueError(f"rule {name}: enabled is true or false, group is a word")
    if float(values.get("every_s", 5.0)) < 0.0 or float(values.get("stale_s", 900.0)) <= 0.0:
        raise ValueError(f"rule {name}: every_s must be >= 0 and stale_s > 0")
    threshold, clear = values.get("threshold"), values.get("clear")
    if clear is not None and (threshold is None or clear > threshold):
        raise ValueError(f"rule {name}: clear {clear} must not be above threshold {threshold}")


def _options(name: str, kind: str, given: object) -> dict[str, Option]:
    known = KINDS[kind]
    if not isinstance(given, Mapping):
        raise ValueError(f"rule {name}: options is {given!r}; write a table [options]")
    out: dict[str, Option] = {key: value for key, value in known.items() if value is not None}
    for key, value in given.items():
        if key not in known:
            raise ValueError(f"rule {name}: {key!r} is no option of kind {kind}; {_nearest(key, known)}")
        if isinstance(known[key], tuple):
            if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
                raise ValueError(f"rule {name}: option {key} is {value!r}; write a list of words")
            out[key] = tuple(value)
        elif not _finite(value) or value < 0:
            raise ValueError(f"rule {name}: option {key} is {value!r}; write a number >= 0")
        elif key == "window_s" and value < LEAST_WINDOW_S:
            raise ValueError(
                f"rule {name}: window_s is {value:g}; samples come each second, write >= {LEAST_WINDOW_S:g}"
            )
        else:
            out[key] = float(value)
    return out


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _nearest(word: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known)) or 'none'}"


class _Known(dict[str, object]):
    """A number that this evidence lacks shows as "?" in a sentence, it does not break the alert."""

    def __missing__(self, key: str) -> object:
        return _Unknown()


class _Unknown:
    def __format__(self, spec: str) -> str:
        return "?"


_PLACE: Final = re.compile(r"\{[a-z_][a-z0-9_]*(:[^{}]*)?\}|[^{}]+")


def render(
    rule: Rule, subject: str, value: float | None, evidence: Mapping[str, float | None], reason: str = ""
) -> str:
    """The rule's sentence with this alert's numbers. Raises ValueError for a sentence that cannot be filled in."""
    if not all(_PLACE.fullmatch(part) for part in re.findall(r"\{[^{}]*\}|[^{}]+|[{}]", rule.summary)):
        raise ValueError(f"rule {rule.name}: summary {rule.summary!r} may hold {{name}} or {{name:.1f}} only")
    known = {"subject": subject, "value": value, "threshold": rule.threshold, "reason": reason, **evidence}
    filled = _Known({key: one for key, one in known.items() if one is not None})
    try:
        return rule.summary.format_map(filled)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"rule {rule.name}: summary {rule.summary!r} cannot be filled in ({error})") from error
