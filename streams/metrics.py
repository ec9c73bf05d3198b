"""Metrics of one worker, in a registry of its own, served on a free loopback port."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

BATCH_SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class WorkerMetrics:
    """Lag, commit age, batch size, process time and counts of one job."""

    def __init__(self, job: str) -> None:
        self.registry = CollectorRegistry()
        at, registry = ("topic", "partition"), self.registry
        self.lag = Gauge("eo_worker_lag_records", "records waiting", at, registry=registry)
        self.commit_age = Gauge("eo_worker_commit_age_seconds", "since the commit moved", at, registry=registry)
        self.batch = Histogram("eo_worker_batch_records", "records per batch", buckets=BATCH_SIZES, registry=registry)
        self.process = Histogram("eo_worker_process_seconds", "time in process()", buckets=SECONDS, registry=registry)
        self.records = Counter("eo_worker_records", "records processed", registry=registry)
        self.dead = Gauge("eo_worker_dead_letters", "records sent to the dead-letter queue", registry=registry)
        self.gaps = Counter("eo_worker_offset_gaps", "missing offsets in uncompacted topics", registry=registry)
        self.outstanding = Gauge("eo_worker_outstanding", "outputs not yet acknowledged", registry=registry)
        Gauge("eo_worker_info", "which job this is", ("job",), registry=registry).labels(job).set(1)

    def serve(self) -> str:
        """Starts the endpoint; returns its address host:port."""
        server, _ = start_http_server(0, addr="127.0.0.1", registry=self.registry)
        return f"127.0.0.1:{server.server_port}"
