"""Whether a draft fits a target: both must mean the same text by the same token ids."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import grpc

from outrider.v1 import common_pb2, model_pb2, model_pb2_grpc
from services.frame.rpc.health import check_health

_UNUSED = common_pb2.TOKEN_ATTRIBUTE_UNUSED
_CONTROL = common_pb2.TOKEN_ATTRIBUTE_CONTROL
# A server that ends cancels the calls that are under way.
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class PairError(Exception):
    """The draft's tokens are other texts than the target's; the message names the first."""


@dataclass(frozen=True)
class ServedModel:
    """A model's description and its token table."""

    info: common_pb2.ModelInfo
    entries: list[common_pb2.TokenEntry]

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """What each token adds to the text."""
        return [entry.output for entry in self.entries]

    @cached_property
    def silent_spellings(self) -> dict[int, str]:
        """The spellings of the tokens that add nothing to the text, by id."""
        return {token: entry.text for token, entry in enumerate(self.entries) if not entry.output}

    @cached_property
    def control_tokens(self) -> frozenset[int]:
        """The ids that steer a model and say nothing."""
        return frozenset(token for token, entry in enumerate(self.entries) if entry.attribute == _CONTROL)

    @cached_property
    def stand_in(self) -> int:
        """The id that a draft is given in place of one that it lacks: a line feed, which says next to nothing."""
        return next((token for token, output in enumerate(self.token_bytes) if output == b"\n"), 0)


@dataclass(frozen=True)
class Difference:
    """One thing in which a draft differs from a target. Harmful is what would make its drafts another text."""

    sentence: str
    is_harmful: bool = False


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


def check_pair(target: ServedModel, draft: ServedModel) -> list[str]:
    """Return how the tokens of draft and target differ without harm, one sentence each.

    Raises:
        PairError: some id means another text to the draft. It names the first, and counts the others.
    """
    found = list(differences(target, draft))
    harmful = [difference.sentence for difference in found if difference.is_harmful]
    if harmful:
        raise PairError(harmful[0] + (f" (and {len(harmful) - 1} more)" if len(harmful) > 1 else ""))
    return [difference.sentence for difference in found]


def differences(target: ServedModel, draft: ServedModel) -> Iterator[Difference]:
    """Tell in what a draft differs from a target: in its sampler, its first token, and id by id.

    The target decides every token, so harm is done only where an id that is used stands for different texts. Equal
    fingerprints have equal tokens.
    """
    ours, theirs = target.info.sampler_version, draft.info.sampler_version
    if ours != theirs:
        versions = f"version {ours} in the target and {theirs} in the draft"
        yield Difference(f"the samplers differ, {versions}: a draft is seldom right at a temperature above 0")
    if target.info.tokenizer_fingerprint == draft.info.tokenizer_fingerprint:
        return
    first, second = _first_token(target), _first_token(draft)
    if first != second:
        yield Difference(f"a sequence begins with {first} in the target and with {second} in the draft")
    for token, (ours_entry, theirs_entry) in enumerate(zip(target.entries, draft.entries, strict=False)):
        if ours_entry != theirs_entry:
            yield from _entry_differences(token, ours_entry, theirs_entry)
    num_common = min(len(target.entries), len(draft.entries))
    for name, longer in (("target", target), ("draft", draft)):
        if surplus := longer.entries[num_common:]:
            first, last = (f"{token} {longer.entries[token].text!r}" for token in (num_common, len(longer.entries) - 1))
            which = f"token {first} is" if len(surplus) == 1 else f"tokens {first} to {last} are"
            yield Difference(f"{which} known to the {name} only")


def _entry_differences(token: int, ours: common_pb2.TokenEntry, theirs: common_pb2.TokenEntry) -> Iterator[Difference]:
    if ours.text != theirs.text:
        # The same bytes, spelled in another way, are the same text. What is never produced stands for none.
        is_harmful = ours.output != theirs.output and _UNUSED not in (ours.attribute, theirs.attribute)
        sentence = f"token {token} is {ours.text!r} in the target and {theirs.text!r} in the draft"
        yield Difference(sentence, is_harmful=is_harmful)
    elif ours.output != theirs.output and ours.output and theirs.output:
        sentence = f"token {token} {ours.text!r} adds {ours.output!r} in the target and {theirs.output!r} in the draft"
        yield Difference(sentence, is_harmful=True)
    if ours.attribute != theirs.attribute:
        kinds = f"{_kind(ours)} in the target and {_kind(theirs)} in the draft"
        yield Difference(f"token {token} {ours.text!r} is of the kind {kinds}")
    if ours.is_end_of_generation != theirs.is_end_of_generation:
        name = "target" if ours.is_end_of_generation else "draft"
        yield Difference(f"token {token} {ours.text!r} ends a generation in the {name} only")


def _first_token(model: ServedModel) -> str:
    if not model.info.HasField("bos_token"):
        return "no token of its own"
    token = model.info.bos_token
    return f"token {token} {model.entries[token].text!r}" if token < len(model.entries) else f"token {token}"


def _kind(entry: common_pb2.TokenEntry) -> str:
    name = common_pb2.TokenAttribute.Name(entry.attribute).removeprefix("TOKEN_ATTRIBUTE_")
    return "NORMAL" if name == "UNSPECIFIED" else name
