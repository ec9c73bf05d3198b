"""Metrics of the gateway in a registry of its own: its requests, its feed, and the cluster's totals by group.

Labels are bounded: routes are templates, never paths, and GPUs are no label here (the nodes' exporters have them).
"""

from __future__ import annotations

from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from streams.observe.own_cost import OwnCost

SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class GatewayMetrics:
    """Counts of one gateway process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        registry.register(OwnCost("gateway"))
        self.requests = Counter("eo_gateway_requests", "requests answered", ("route", "status"), registry=registry)
        self.seconds = Histogram(
            "eo_gateway_request_seconds", "time to answer", ("route",), buckets=SECONDS, registry=registry
        )
        self.clients = Gauge("eo_gateway_stream_clients", "clients of /v1/stream", registry=registry)
        self.sample_age = Gauge("eo_gateway_sample_age_seconds", "age of the newest sample", registry=registry)
        self.undecodable = Gauge("eo_gateway_undecodable_records", "records that did not decode", registry=registry)
        labels = ("group", "quality")
        self.power = Gauge("eo_cluster_gpu_power_watts", "GPU power of the group", labels, registry=registry)
        self.gpus = Gauge("eo_cluster_gpus", "GPUs that report", ("group",), registry=registry)
        self.unknown = Gauge("eo_cluster_gpus_power_unknown", "GPUs of unknown power", ("group",), registry=registry)

    def seen(self, route: str, status: int, seconds: float) -> None:
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self, totals: dict[str, Any], *, clients: int, sample_age_s: float | None, undecodable: int) -> bytes:
        """The exposition; an unknown value is absent, never 0."""
        self.clients.set(clients)
        self.sample_age.set(float("nan") if sample_age_s is None else sample_age_s)
        self.undecodable.set(undecodable)
        self.power.clear()
        for group, figures in totals["groups"].items():
            self.gpus.labels(group).set(figures["gpus"])
            self.unknown.labels(group).set(figures["gpus_power_unknown"])
            if figures["power_w"] is not None:
                self.power.labels(group, figures["quality"]).set(figures["power_w"])
        return generate_latest(self.registry)
