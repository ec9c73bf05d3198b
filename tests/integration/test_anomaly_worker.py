"""The anomaly job as a process on a real broker: a broken GPU is named, also by the worker after a killed one."""

from __future__ import annotations

import msgspec
import pytest
from confluent_kafka import Producer

from streams.contract import codec
from streams.contract.kafka import producer_config
from streams.contract.records import AnomalyVerdict, JobState, NodeFeatures
from streams.contract.topics import ANOMALY, FEATURES, STATE
from tests.faults.worker_rig import read_all, until
from tests.integration.conftest import JobWorkers
from tests.integration.test_actuation import Site
from tests.unit.jobs.support import T0_NS, features

pytestmark = pytest.mark.integration
S = 10**9
WARM, FAULT = 40, 12  # evaluations, five seconds apart


def report(site: Site, first: int, count: int, *, broken: bool = False) -> None:
    producer = Producer(producer_config(site.bootstrap, "test-nodes"))
    for i in range(first, first + count):
        record = features(site.nodes[0], i, ts_ns=T0_NS + i * 5 * S, power_w=400.0 + i % 7)
        power = list(record.features["power_w_mean_60s"])
        if broken:
            power[2] = 250.0
        changed: NodeFeatures = msgspec.structs.replace(
            record, cluster=site.cluster, features={**record.features, "power_w_mean_60s": tuple(power)}
        )
        producer.produce(FEATURES.name, key=changed.node.encode(), value=codec.encode(changed))
    assert producer.flush(30) == 0


def verdicts(site: Site) -> list[AnomalyVerdict]:
    found = [codec.decode(AnomalyVerdict, value) for _, value in read_all(site.bootstrap, ANOMALY)]
    return [one for one in found if one.cluster == site.cluster]


def saved(site: Site) -> bool:
    needle = f"GPU-{site.nodes[0]}-0".encode()
    own = f"{site.cluster}/anomaly/".encode()
    values = (v for k, v in read_all(site.bootstrap, STATE) if k is not None and k.startswith(own))
    return any(needle in bytes(codec.decode(JobState, v).data) for v in values if v is not None)


def test_a_broken_gpu_is_named_even_after_a_kill(job_site: Site, workers: JobWorkers) -> None:
    workers.begin("anomaly")
    report(job_site, 0, WARM)
    until(lambda: saved(job_site), 90, "a snapshot of the warm detectors")
    assert verdicts(job_site) == []
    workers.started[0].kill()
    workers.begin("anomaly")
    report(job_site, WARM, FAULT, broken=True)
    until(lambda: len(verdicts(job_site)) > 0, 90, "the verdict")
    assert {(v.gpu_uuid, v.metric, v.action) for v in verdicts(job_site)} == {
        (f"GPU-{job_site.nodes[0]}-2", "power_ratio_to_peers", "freeze")
    }
    assert len({v.verdict_id for v in verdicts(job_site)}) == 1
    assert workers.started[1].stop() == 0
