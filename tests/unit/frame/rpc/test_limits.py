"""What a message holds is never more than fits into it."""

import pytest

from outrider.v1 import common_pb2, target_pb2
from services.frame.rpc.limits import most_tokens


@pytest.mark.parametrize("vocabulary_size", [1, 2, 128, 129, 4096, 16_384, 16_385, 262_144, 2**21, 2**21 + 1])
@pytest.mark.parametrize("num_bytes", [65_536, 1 << 20])
def test_the_largest_ids_fit(num_bytes: int, vocabulary_size: int) -> None:
    count = most_tokens(num_bytes, vocabulary_size)
    request = target_pb2.VerifyBatchRequest(
        request_id=2**63,
        context=common_pb2.Context(
            session_id="x" * 128,
            cached_length=2**32 - 1,
            cached_digest=bytes(16),
            tokens=[vocabulary_size - 1] * count,
            traceparent="0" * 55,
            tracestate="x" * 512,
        ),
        draft_tokens=[vocabulary_size - 1] * 64,
    )
    assert target_pb2.VerifyStreamRequest(verify=request).ByteSize() < num_bytes
    assert count > num_bytes / 8


def test_a_message_without_room() -> None:
    assert most_tokens(0, 4096) == most_tokens(-5, 4096) == 0
