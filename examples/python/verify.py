"""Decodes with the target service alone and drafts of its own, over unary calls: what a client in any language may do.

A draft is looked up in the text itself: what followed when its last two tokens stood together before. The text goes to
stdout as it comes, one line of statistics to stderr at the end.
"""

import argparse
import asyncio
import codecs
import hashlib
import struct
import sys
import uuid
from collections.abc import AsyncIterator, Sequence

import grpc
from retry_info import retry_delay_s
from terminal import printable, write

from outrider.v1 import common_pb2, model_pb2, model_pb2_grpc, target_pb2, target_pb2_grpc

NUM_DRAFT_TOKENS = 6
RECONNECT_S = 0.5
OPTIONS = [
    # gRPC's own limit between two tries to connect is two minutes: a target that is back would stay unused for as long.
    ("grpc.max_reconnect_backoff_ms", 1000),
    # One that has vanished or stopped is given up after 25 s; it allows a ping every 10 s.
    ("grpc.keepalive_time_ms", 20_000),
    # The first decides, the second in versions of gRPC as old as 1.51.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # An http_proxy in the environment is for the world outside, and cannot reach this machine's own address.
    ("grpc.enable_http_proxy", 0),
]


class Tokens:
    """A growing sequence; `digests[i]` is the digest of its first i tokens."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids: list[int] = []
        self.digests = [bytes(16)]
        self.extend(ids)

    def extend(self, ids: Sequence[int]) -> None:
        for token in ids:
            self.ids.append(token)
            self.digests.append(hashlib.sha256(self.digests[-1] + struct.pack("<I", token)).digest()[:16])


class Session:
    """One session of the target, which caches its tokens as long as it likes."""

    def __init__(self, stub: target_pb2_grpc.TargetServiceStub, sampling: common_pb2.Sampling) -> None:
        self.num_replays = 0
        self._stub = stub
        self._sampling = sampling
        self._session_id = uuid.uuid4().hex
        self._request_id = 0
        self._cached_length = 0

    async def verify(self, tokens: Tokens, draft_tokens: Sequence[int]) -> target_pb2.VerifyBatchResult:
        """Return the verdict on a draft; an empty one is plain decoding."""
        while True:
            reply = await self._ask(tokens, draft_tokens)
            if reply.WhichOneof("outcome") == "result":
                self._cached_length = reply.held_length
                return reply.result
            # No error: another session took the slot, or the service is another one now. Send what it lacks.
            self.num_replays += 1
            held = reply.cache_miss
            is_ours = held.held_length < self._cached_length and tokens.digests[held.held_length] == held.held_digest
            self._cached_length = held.held_length if is_ours else 0

    async def _ask(self, tokens: Tokens, draft_tokens: Sequence[int]) -> target_pb2.VerifyBatchResponse:
        self._request_id += 1
        length = self._cached_length
        request = target_pb2.VerifyBatchRequest(
            request_id=self._request_id,
            context=common_pb2.Context(
                session_id=self._session_id,
                cached_length=length,
                cached_digest=tokens.digests[length] if length else b"",
                tokens=tokens.ids[length:],
            ),
            draft_tokens=draft_tokens,
            sampling=self._sampling,
        )
        told = ""
        while True:
            try:
                return await self._stub.VerifyBatch(request)
            except grpc.aio.AioRpcError as error:
                # The same id again is a retry: it gets the same answer, however often it is sent.
                delay_s = retry_delay_s(error)
                if delay_s is None and error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                if told != error.details():
                    told = error.details() or ""
                    print(f"waiting: {told}", file=sys.stderr)
                await asyncio.sleep(delay_s or RECONNECT_S)


def look_up(ids: Sequence[int], num_draft_tokens: int) -> Sequence[int]:
    """Return what followed the last two tokens where they last stood together before; nothing where they never did."""
    for end in range(len(ids) - 1, 1, -1):
        if ids[end - 2 : end] == ids[-2:]:
            return ids[end : end + num_draft_tokens]
    return []


async def decode(
    session: Session, tokens: Tokens, max_length: int, most_draft_tokens: int
) -> AsyncIterator[tuple[int, Sequence[int]]]:
    """Extend the tokens to `max_length` or the end of the generation; yield the number accepted, and what is new."""
    while len(tokens.ids) < max_length:
        # A verdict commits at most one token more than was drafted.
        draft_tokens = look_up(tokens.ids, min(most_draft_tokens, max_length - len(tokens.ids) - 1))
        result = await session.verify(tokens, draft_tokens)
        new = [*draft_tokens[: result.num_accepted], result.next_token]
        tokens.extend(new)
        yield result.num_accepted, new
        if result.is_end_of_generation:
            return


async def run(settings: argparse.Namespace) -> None:
    async with grpc.aio.insecure_channel(settings.address, options=OPTIONS) as channel:
        target = target_pb2_grpc.TargetServiceStub(channel)
        about = model_pb2_grpc.ModelServiceStub(channel)
        model = (await about.GetModel(model_pb2.GetModelRequest())).model
        table = about.GetTokenTable(model_pb2.GetTokenTableRequest())
        token_bytes = [entry.output async for part in table for entry in part.entries]
        prompt = await target.Tokenize(target_pb2.TokenizeRequest(text=settings.prompt, add_bos=True))

        session = Session(target, common_pb2.Sampling(temperature=settings.temperature, seed=settings.seed))
        tokens = Tokens(prompt.tokens)
        max_length = min(len(tokens.ids) + settings.max_tokens, model.context_length)
        # Characters may span tokens.
        text = codecs.getincrementaldecoder("utf-8")(errors="replace")
        num_calls = num_accepted = 0
        async for accepted, new in decode(session, tokens, max_length, min(NUM_DRAFT_TOKENS, model.max_draft_tokens)):
            num_calls, num_accepted = num_calls + 1, num_accepted + accepted
            write(text.decode(b"".join(token_bytes[token] for token in new)))
        write(text.decode(b"", final=True))
    num_tokens = len(tokens.ids) - len(prompt.tokens)
    print(
        f"\n{num_tokens} tokens, {num_accepted} of them drafted, in {num_calls} passes, {session.num_replays} replays",
        file=sys.stderr,
    )


async def main(settings: argparse.Namespace) -> int:
    try:
        async with asyncio.timeout(settings.timeout):
            await run(settings)
    except grpc.aio.AioRpcError as error:
        print(f"{error.code().name}: {printable(error.details() or '')}", file=sys.stderr)
        return 1
    except TimeoutError:
        print(f"no whole answer within {settings.timeout:g} s", file=sys.stderr)
        return 1
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt")
    parser.add_argument("--address", default="127.0.0.1:50052", help="a running target service")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for the whole answer")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main(parse())))
    except KeyboardInterrupt:  # asyncio has cancelled the call, and with it the work behind it
        sys.exit(130)
