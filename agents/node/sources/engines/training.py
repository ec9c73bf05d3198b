"""A training job by the small text that it writes itself: how many steps it has done, and how long they took.

No framework publishes this, so the interface is ours, and as small as it can be: over HTTP, or as a file that the job
replaces after some steps (`file:///run/train.prom`). Label `job`; a summary's or a histogram's two lines are enough:

    eo_training_step_seconds_sum{job="j"} 512.4
    eo_training_step_seconds_count{job="j"} 1200
    eo_training_wait_seconds_sum{job="j"} 31.5      seconds that this rank waited for the others; may be left out
    eo_training_steps_total{job="j"} 1200           instead of the first two: steps are then timed from outside

Which record field holds what: `requests_total` steps, `e2e` durations of steps, `tbt` waits of steps.
"""

from __future__ import annotations

from agents.node.sources.engines.cumulative import MOST_COUNT, Cumulative
from agents.node.sources.engines.dialect import Dialect, Group, Pick, Values, names
from agents.node.sources.engines.source import EngineSource

KIND = "training"
_SERVES_NOBODY = "a training job serves no requests"


def _derive(group: Group, values: Values) -> None:
    count = group.sum(Pick("step_seconds_count"))
    values.say("requests_total", count)
    if values.histogram.get("e2e") is None:
        values.histogram["e2e"] = _summed(group.sum(Pick("step_seconds_sum")), count)
    values.histogram["tbt"] = _summed(group.sum(Pick("wait_seconds_sum")), count)
    for name in ("e2e", "tbt"):
        if values.histogram[name] is not None:
            values.missing.pop(name, None)


def _summed(seconds: float | None, count: float | None) -> Cumulative | None:
    """A sum and a count as a histogram of one open bucket: its mean is exact, and more is not told."""
    if seconds is None or count is None or count > MOST_COUNT:
        return None
    return Cumulative((1e-3,), (0, round(count)), seconds * 1e3)


DIALECT = Dialect(
    kind=KIND,
    title="a training job",
    prefixes=("eo_training_",),
    values={"requests_total": names("steps"), "e2e": names("step_seconds", factor=1e3)},
    absent={
        "e2e": "the text has no eo_training_step_seconds; steps are timed from outside",
        "tbt": "the text has no eo_training_wait_seconds_sum, so the job is taken to wait for nobody",
        **dict.fromkeys(
            ("running", "waiting", "waiting_tokens", "kv_tokens", "kv_use_ratio", "ttft", "prompt_tokens_total",
             "generation_tokens_total"), _SERVES_NOBODY,
        ),
    },
    derive=_derive,
    also=("wait_seconds",),
    groups_by=("job",),
)  # fmt: skip


class TrainingSource(EngineSource):
    """One training job, or one rank of it."""

    name = KIND
    dialect = DIALECT
    default_url = "http://127.0.0.1:9471/metrics"
