"""A real OTLP/HTTP receiver: takes protobuf and JSON as a collector does, and decodes both with opentelemetry-proto."""

from __future__ import annotations

import base64
import gzip
import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

KINDS = {"/v1/traces": ExportTraceServiceRequest, "/v1/metrics": ExportMetricsServiceRequest}


@dataclass(frozen=True)
class SpanSeen:
    """One span as it arrived, with the process that it names."""

    service: str
    pid: int
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]


class Receiver:
    """Listens on a free loopback port. Fault: `status` other than 200 is what every request is answered with."""

    def __init__(self) -> None:
        self.spans: list[SpanSeen] = []
        self.metrics: dict[str, list[dict[str, Any]]] = {}
        self.refused: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
                status = receiver.status
                if status == 200:
                    try:
                        receiver.take(self.path, body, self.headers)
                    except Exception as error:  # noqa: BLE001 - a body that does not decode is what the test looks for
                        receiver.refused.append(f"{self.path}: {error}")
                        status = 400
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def take(self, path: str, body: bytes, headers: Any) -> None:
        if headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        request = KINDS[path]()
        if headers["Content-Type"].startswith("application/json"):
            json_format.ParseDict(_base64_ids(json.loads(body)), request)  # refuses names that OTLP does not know
        else:
            request.ParseFromString(body)
        (self._traces if path == "/v1/traces" else self._metrics)(request)

    def _traces(self, request: Any) -> None:
        for group in request.resource_spans:
            resource = _plain(group.resource.attributes)
            for scope in group.scope_spans:
                for span in scope.spans:
                    seen = SpanSeen(
                        service=resource["service.name"],
                        pid=resource["process.pid"],
                        name=span.name,
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_id=span.parent_span_id.hex(),
                        start_ns=span.start_time_unix_nano,
                        end_ns=span.end_time_unix_nano,
                        attributes=_plain(span.attributes),
                    )
                    self.spans.append(seen)

    def _metrics(self, request: Any) -> None:
        for group in request.resource_metrics:
            for scope in group.scope_metrics:
                for metric in scope.metrics:
                    kind = metric.WhichOneof("data")
                    for point in getattr(metric, kind).data_points:
                        value = point.sum if kind == "histogram" else point.as_double
                        row = {"unit": metric.unit, "kind": kind, "value": value, **_plain(point.attributes)}
                        self.metrics.setdefault(metric.name, []).append(row)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def _plain(attributes: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in attributes}


def _base64_ids(value: Any) -> Any:
    """OTLP/JSON writes ids in hex, protobuf's own JSON reader wants base64: the one difference between the two."""
    if isinstance(value, list):
        return [_base64_ids(item) for item in value]
    if not isinstance(value, dict):
        return value
    out = {}
    for name, item in value.items():
        ids = name in ("traceId", "spanId", "parentSpanId")
        out[name] = base64.b64encode(bytes.fromhex(item)).decode() if ids else _base64_ids(item)
    return out
