"""Metrics of the gateway in a registry of its own: its requests, its feed, its cost, and the cluster's totals by group.

Labels are bounded: routes are templates, never paths, and GPUs are no label here (the nodes' exporters have them). What
is unknown gives no sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agents.cli.base import EoError
from streams.observe.own_cost import OwnCost, gauge

SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class Look:
    """What a scrape shows of the gateway's state."""

    totals: dict[str, Any]
    clients: int
    sample_age_s: float | None
    undecodable: int


class GatewayMetrics:
    """Counts of one gateway process; `look` is asked at each scrape, from whichever thread scrapes."""

    def __init__(self, look: Callable[[], Look]) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter("eo_gateway_requests", "requests answered", ("route", "status"), registry=registry)
        self.seconds = Histogram(
            "eo_gateway_request_seconds", "time to answer", ("route",), buckets=SECONDS, registry=registry
        )
        registry.register(_State(look))
        registry.register(OwnCost("gateway"))

    def seen(self, route: str, status: int, seconds: float) -> None:
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)

    def serve(self, host: str, port: int) -> str:
        """The same without a key, as every process of ours has it, on loopback by default; returns host:port.

        Prometheus finds the address by itself and has no key of the API. Raises EoError when it is taken.
        """
        try:
            server, _ = start_http_server(port, addr=host, registry=self.registry)
        except OSError as error:
            raise EoError(
                f"metrics cannot be served on {host}:{port} ({error.strerror}); choose another port with "
                "EO_METRICS_PORT, 0 takes any free one."
            ) from error
        return f"{host}:{server.server_port}"


class _State(Collector):
    """The gateway's feed and the cluster's totals, made at a scrape."""

    def __init__(self, look: Callable[[], Look]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        look = self._look()
        yield gauge("eo_gateway_stream_clients", "clients of /v1/stream", (), (), look.clients)
        yield gauge("eo_gateway_sample_age_seconds", "age of the newest sample", (), (), look.sample_age_s)
        yield gauge("eo_gateway_undecodable_records", "records that did not decode", (), (), look.undecodable)
        power = GaugeMetricFamily("eo_cluster_gpu_power_watts", "GPU power of the group", labels=("group", "quality"))
        gpus = GaugeMetricFamily("eo_cluster_gpus", "GPUs that have reported, silent ones too", labels=("group",))
        unknown = GaugeMetricFamily(
            "eo_cluster_gpus_power_unknown", "GPUs of unknown power, silent ones too", labels=("group",)
        )
        for group, figures in look.totals["groups"].items():
            gpus.add_metric((group,), figures["gpus"])
            unknown.add_metric((group,), figures["gpus_power_unknown"])
            if figures["power_w"] is not None:
                power.add_metric((group, figures["quality"]), figures["power_w"])
        yield from (power, gpus, unknown)
