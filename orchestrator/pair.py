"""Whether a draft fits a target: both must mean the same text by the same token ids."""

import asyncio
from dataclasses import dataclass

import grpc

from outrider.v1 import common_pb2, model_pb2, model_pb2_grpc
from services.frame.health import check_health

# A server that ends cancels the calls that are under way.
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class PairError(Exception):
    """The draft's tokens are not the target's; the message names the first that differs."""


@dataclass(frozen=True)
class ServedModel:
    """A model's description and its token table."""

    info: common_pb2.ModelInfo
    entries: list[common_pb2.TokenEntry]


async def fetch_model(stub: model_pb2_grpc.ModelServiceStub, *, wait_for_ready: bool = True) -> ServedModel:
    """Ask a service what it serves; waits until the service can be reached, or not. Raises grpc.aio.AioRpcError."""
    reply = await stub.GetModel(model_pb2.GetModelRequest(), wait_for_ready=wait_for_ready)
    entries: list[common_pb2.TokenEntry] = []
    async for part in stub.GetTokenTable(model_pb2.GetTokenTableRequest(), wait_for_ready=True):
        entries.extend(part.entries)
    return ServedModel(reply.model, entries)


async def fetch_loading_model(channel: grpc.aio.Channel, retry_s: float = 0.2, service: str = "") -> ServedModel:
    """Ask a service what it serves, as often as it takes until it is there and has loaded its model.

    Where its full name is given it is asked for its health first: every service of ours has a model. Raises AioRpcError
    for anything else that is wrong with it, as where another program answers.
    """
    while True:
        try:
            if service:
                await check_health(channel, service, wait_for_ready=True)
            return await fetch_model(model_pb2_grpc.ModelServiceStub(channel))
        except grpc.aio.AioRpcError as error:
            if error.code() not in _AWAY:
                raise
        await asyncio.sleep(retry_s)


def check_pair(target: ServedModel, draft: ServedModel) -> None:
    """Raise PairError unless the draft's tokens are the target's.

    Equal fingerprints pair at once. Otherwise every id that can be produced must have the same entry in both tables;
    padding at the end of the longer one and control tokens that end no generation may differ.
    """
    if target.info.tokenizer_fingerprint == draft.info.tokenizer_fingerprint:
        return
    if target.info.HasField("bos_token") != draft.info.HasField("bos_token") or (
        target.info.bos_token != draft.info.bos_token
    ):
        raise PairError("the first token of a sequence differs between target and draft")
    for token, (ours, theirs) in enumerate(zip(target.entries, draft.entries, strict=False)):
        if ours != theirs and not (_is_silent(ours) and _is_silent(theirs)):
            raise PairError(f"token {token} is {ours.text!r} in the target and {theirs.text!r} in the draft")
    num_common = min(len(target.entries), len(draft.entries))
    for name, longer in (("target", target), ("draft", draft)):
        for token, entry in enumerate(longer.entries[num_common:], num_common):
            if not _is_silent(entry):
                raise PairError(f"token {token} is {entry.text!r} in the {name} and unknown to the other")


def _is_silent(entry: common_pb2.TokenEntry) -> bool:
    return (
        entry.attribute in (common_pb2.TOKEN_ATTRIBUTE_CONTROL, common_pb2.TOKEN_ATTRIBUTE_UNUSED)
        and not entry.is_end_of_generation
    )
