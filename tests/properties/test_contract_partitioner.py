"""Our murmur2 equals the one of the client that Faust uses, on any key."""

from __future__ import annotations

from aiokafka.partitioner import DefaultPartitioner, murmur2
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.contract import kafka


@given(key=st.binary(max_size=64), partitions=st.integers(1, 48))
@settings(max_examples=300, deadline=None)
def test_murmur2_and_partition_equal_the_reference(key: bytes, partitions: int) -> None:
    everything = list(range(partitions))
    assert kafka.murmur2(key) == murmur2(key) & 0xFFFFFFFF
    assert kafka.partition_of(key, partitions) == DefaultPartitioner()(key, everything, everything)
