"""What the target answers of texts, or why it does not."""

from collections.abc import Awaitable, Mapping
from typing import TypeVar

import grpc

from orchestrator.generation.request import refusal_of_texts
from orchestrator.http.exchange.errors import renamed

ReplyT = TypeVar("ReplyT")


async def of_target(call: Awaitable[ReplyT], names: Mapping[str, str]) -> ReplyT:
    """Return the target's reply; `names` are the fields of the request by those of the call. Raises ServiceError."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise renamed(refusal_of_texts(error), names) from error
