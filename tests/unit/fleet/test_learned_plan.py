"""From the node's controller to the replica plan: what an agent has learned of its engine is planned with."""

from __future__ import annotations

from pathlib import Path

from streams.contract import codec
from streams.contract.records import NodeTelemetry
from tests.unit.fleet.conftest import Bench
from tests.unit.fleet.test_drift import granted, slower
from tests.unit.jobs.test_slow_step import Loaded, with_control


def test_a_slower_model_is_learned_on_the_node_and_planned_for(bench: Bench, tmp_path: Path) -> None:
    """The agent's own telemetry, through the codec, as the engines of the job's features."""
    granted(bench, 24.0)
    slower(bench, 1.6)
    granted(bench, 40.0)
    newest: dict[str, NodeTelemetry] = {r.node: r for r in bench.telemetry()}
    record = codec.decode(NodeTelemetry, codec.encode(newest["sim-001"]))
    control = record.engines[0].control
    assert control is not None and control.state == "controlled"
    assert control.slack_ratio is not None and control.wait_price_w is not None and control.meet_ratio is not None

    fields = {}
    for name, told in (("plain", None), ("learned", control)):
        job = Loaded(tmp_path / name, mode="observe", slow_interval_s=5.0, replicas_max=60)
        job.per_s = 12.0
        fields[name] = with_control(job, 25, told)
    assert fields["plain"]["prefill_ratio"] is None and fields["plain"]["learned_engines"] == 0.0
    found = fields["learned"]
    assert found["learned_engines"] == 6.0
    assert abs(found["decode_ratio"] - (control.decode_ratio or 0.0)) < 1e-4 and found["decode_ratio"] > 1.4
    assert abs(found["prefill_ratio"] - (control.prefill_ratio or 0.0)) < 1e-4
    assert found["least"] > fields["plain"]["least"]
