"""Errors of the feature store. Each text is one sentence for the user: the value, the bound and the next step."""

from streams.errors import StreamsError


class StoreError(StreamsError):
    """A question that the feature store cannot answer."""


class UnknownFeature(StoreError):
    """The feature is neither registered nor in the archive."""


class NoFeatures(StoreError):
    """There is no archive of features to read."""
