"""Errors of the stream runtime. Each text is one sentence for the operator: the value, the bound and the next step."""


class StreamsError(Exception):
    """A worker cannot start or go on; it says why and its process exits non-zero."""


class PreflightFailed(StreamsError):
    """A topic is missing, wrong or forbidden. Found before the group is joined, because Faust would hang silently."""


class TransportUnsupported(StreamsError):
    """The installed Faust or aiokafka lacks a private name that the batch transport overrides."""


class WorkerStalled(StreamsError):
    """Records wait and commits do not move."""


class DeliveryFailed(StreamsError):
    """The broker refused an output for good, so the batch that made it must not be acknowledged."""


class JobFailed(StreamsError):
    """A job raised; its batch stays unacknowledged and is read again after the restart."""
