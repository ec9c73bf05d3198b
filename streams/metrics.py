"""Metrics of one worker, in a registry of its own, served on a free loopback port unless told otherwise."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from streams.errors import StreamsError
from streams.observe.own_cost import OwnCost
from streams.publisher import Publisher

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
        self.alerts = Gauge("eo_alerts_firing", "alerts that fire now, by rule", ("rule",), registry=registry)
        Gauge("eo_worker_info", "which job this is", ("job",), registry=registry).labels(job).set(1)

    def cost(self, role: str, publisher: Publisher) -> None:
        """Adds what this process costs."""
        self.registry.register(OwnCost(role, sent_bytes=lambda: publisher.sent_bytes))

    def serve(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Starts the endpoint; returns its address host:port. Raises StreamsError when the address is taken."""
        try:
            server, _ = start_http_server(port, addr=host, registry=self.registry)
        except OSError as error:
            raise StreamsError(
                f"metrics cannot be served on {host}:{port} ({error.strerror}); choose another port with "
                "EO_METRICS_PORT, 0 takes any free one"
            ) from error
        return f"{host}:{server.server_port}"
