"""Whether a draft fits a target."""

from collections.abc import Sequence

import grpc
import pytest

from orchestrator.pair import PairError, ServedModel, check_pair, fetch_loading_model
from outrider.v1 import common_pb2, model_pb2_grpc

NORMAL = common_pb2.TOKEN_ATTRIBUTE_UNSPECIFIED
CONTROL = common_pb2.TOKEN_ATTRIBUTE_CONTROL
BYTE = common_pb2.TOKEN_ATTRIBUTE_BYTE
UNUSED = common_pb2.TOKEN_ATTRIBUTE_UNUSED


def entry(
    text: str,
    attribute: common_pb2.TokenAttribute.ValueType = NORMAL,
    *,
    ends: bool = False,
    output: bytes | None = None,
) -> common_pb2.TokenEntry:
    if output is None:
        output = b"" if attribute in (CONTROL, UNUSED) else text.encode()
    return common_pb2.TokenEntry(text=text, output=output, attribute=attribute, is_end_of_generation=ends)


TABLE = (
    entry("<s>", CONTROL),
    entry("</s>", CONTROL, ends=True),
    entry("a"),
    entry("<0x0A>", BYTE, output=b"\n"),
    entry("<tool>", CONTROL),
    entry("b"),
)
PADDING = (entry("<pad0>", UNUSED), entry("<pad1>", CONTROL))


def served(entries: Sequence[common_pb2.TokenEntry], fingerprint: str, bos: int | None = 0) -> ServedModel:
    info = common_pb2.ModelInfo(tokenizer_fingerprint=fingerprint, vocabulary_size=len(entries), bos_token=bos)
    return ServedModel(info, list(entries))


def replaced(token: int, other: common_pb2.TokenEntry) -> list[common_pb2.TokenEntry]:
    """The table with another entry."""
    return [*TABLE[:token], other, *TABLE[token + 1 :]]


def test_equal_fingerprints_pair_at_once() -> None:
    check_pair(served(TABLE, "same"), served([], "same", bos=None))


@pytest.mark.parametrize(
    ("target", "draft"),
    [
        pytest.param(TABLE, TABLE, id="equal entries"),
        pytest.param([*TABLE, *PADDING], TABLE, id="the target is padded"),
        pytest.param(TABLE, [*TABLE, *PADDING], id="the draft is padded"),
        pytest.param([*TABLE, *PADDING], [*TABLE, *PADDING[::-1]], id="both are padded in other ways"),
        pytest.param(TABLE, replaced(4, entry("<other>", CONTROL)), id="a control token has another name"),
        pytest.param(TABLE, replaced(4, entry("<unused>", UNUSED)), id="a control token is not used"),
    ],
)
def test_what_cannot_be_produced_may_differ(
    target: Sequence[common_pb2.TokenEntry], draft: Sequence[common_pb2.TokenEntry]
) -> None:
    check_pair(served(target, "one"), served(draft, "another"))


@pytest.mark.parametrize(
    ("target", "draft", "message"),
    [
        pytest.param(
            TABLE, replaced(2, entry("A")), "token 2 is 'a' in the target and 'A' in the draft", id="another text"
        ),
        pytest.param(
            TABLE,
            [*TABLE[:4], TABLE[5], TABLE[4]],
            "token 4 is '<tool>' in the target and 'b' in the draft",
            id="another order",
        ),
        pytest.param(
            TABLE,
            replaced(3, entry("<0x0A>", BYTE, output=b"\r")),
            "token 3 is '<0x0A>' in the target and '<0x0A>' in the draft",
            id="other bytes",
        ),
        pytest.param(
            TABLE,
            replaced(1, entry("</s>", CONTROL)),
            "token 1 is '</s>' in the target and '</s>' in the draft",
            id="only one ends the generation",
        ),
        pytest.param(
            TABLE,
            replaced(4, entry("<end>", CONTROL, ends=True)),
            "token 4 is '<tool>' in the target and '<end>' in the draft",
            id="a control token that ends the generation",
        ),
        pytest.param(
            [*TABLE, *PADDING, entry("c")],
            TABLE,
            "token 8 is 'c' in the target and unknown to the other",
            id="the target knows more",
        ),
        pytest.param(
            TABLE,
            [*TABLE, entry("c")],
            "token 6 is 'c' in the draft and unknown to the other",
            id="the draft knows more",
        ),
        pytest.param(
            TABLE,
            [*replaced(2, entry("A"))[:5], entry("B")],
            "token 2 is 'a' in the target and 'A' in the draft",
            id="the first of several is named",
        ),
    ],
)
def test_anything_else_is_an_error_that_names_the_first_difference(
    target: Sequence[common_pb2.TokenEntry], draft: Sequence[common_pb2.TokenEntry], message: str
) -> None:
    with pytest.raises(PairError) as info:
        check_pair(served(target, "one"), served(draft, "another"))
    assert str(info.value) == message


@pytest.mark.parametrize(("target_bos", "draft_bos"), [(0, 1), (0, None), (None, 0)])
def test_the_first_token_must_be_the_same(target_bos: int | None, draft_bos: int | None) -> None:
    with pytest.raises(PairError, match="the first token of a sequence differs"):
        check_pair(served(TABLE, "one", target_bos), served(TABLE, "another", draft_bos))


def test_two_models_without_a_first_token_pair() -> None:
    check_pair(served(TABLE, "one", None), served(TABLE, "another", None))


def _status(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())


async def _fetch(monkeypatch: pytest.MonkeyPatch, *errors: grpc.aio.AioRpcError) -> ServedModel:
    """What is fetched from a service that fails like this before it answers."""
    left = list(errors)

    async def fetch_model(_stub: model_pb2_grpc.ModelServiceStub) -> ServedModel:
        if left:
            raise left.pop(0)
        return ServedModel(common_pb2.ModelInfo(name="at last"), [])

    monkeypatch.setattr("orchestrator.pair.fetch_model", fetch_model)
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        return await fetch_loading_model(channel, retry_s=0)


async def test_a_service_that_starts_or_stops_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    away = [_status(code) for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)]
    assert (await _fetch(monkeypatch, *away)).info.name == "at last"


async def test_another_service_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await _fetch(monkeypatch, _status(grpc.StatusCode.UNIMPLEMENTED))
