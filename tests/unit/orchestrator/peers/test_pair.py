"""Whether a draft fits a target."""

from collections.abc import Sequence

import grpc
import pytest

from orchestrator.peers.pair import PairError, ServedModel, check_pair, differences, fetch_loading_model
from outrider.v1 import common_pb2, model_pb2_grpc

NORMAL = common_pb2.TOKEN_ATTRIBUTE_UNSPECIFIED
CONTROL = common_pb2.TOKEN_ATTRIBUTE_CONTROL
BYTE = common_pb2.TOKEN_ATTRIBUTE_BYTE
UNUSED = common_pb2.TOKEN_ATTRIBUTE_UNUSED
UNKNOWN = common_pb2.TOKEN_ATTRIBUTE_UNKNOWN


def entry(
    text: str,
    attribute: common_pb2.TokenAttribute.ValueType = NORMAL,
    *,
    ends: bool = False,
    output: bytes | None = None,
) -> common_pb2.TokenEntry:
    if output is None:
        output = b"" if attribute in (CONTROL, UNUSED, UNKNOWN) else text.encode()
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


def served(
    entries: Sequence[common_pb2.TokenEntry], fingerprint: str, bos: int | None = 0, sampler_version: int = 1
) -> ServedModel:
    info = common_pb2.ModelInfo(
        tokenizer_fingerprint=fingerprint,
        vocabulary_size=len(entries),
        bos_token=bos,
        sampler_version=sampler_version,
    )
    return ServedModel(info, list(entries))


def replaced(token: int, other: common_pb2.TokenEntry) -> list[common_pb2.TokenEntry]:
    """The table with another entry."""
    return [*TABLE[:token], other, *TABLE[token + 1 :]]


def test_equal_fingerprints_pair_at_once() -> None:
    assert check_pair(served(TABLE, "same"), served([], "same", bos=None)) == []


def test_equal_entries_pair() -> None:
    assert check_pair(served(TABLE, "one"), served(TABLE, "another")) == []


@pytest.mark.parametrize(
    ("target", "draft", "told"),
    [
        pytest.param(
            [*TABLE, *PADDING],
            TABLE,
            "tokens 6 '<pad0>' to 7 '<pad1>' are known to the target only",
            id="the target is padded",
        ),
        pytest.param(
            TABLE,
            [*TABLE, *PADDING],
            "tokens 6 '<pad0>' to 7 '<pad1>' are known to the draft only",
            id="the draft is padded",
        ),
        pytest.param(
            [*TABLE, entry("c")],
            TABLE,
            "token 6 'c' is known to the target only",
            id="the target knows more, which is as padding of another kind",
        ),
        pytest.param(
            TABLE,
            replaced(4, entry("<other>", CONTROL)),
            "token 4 is '<tool>' in the target and '<other>' in the draft",
            id="a control token has another name",
        ),
        pytest.param(
            TABLE,
            replaced(0, entry("<s>", UNKNOWN)),
            "token 0 '<s>' is of the kind CONTROL in the target and UNKNOWN in the draft",
            id="another kind of the same text",
        ),
        pytest.param(
            TABLE,
            replaced(4, entry("<tool>", NORMAL)),
            "token 4 '<tool>' is of the kind CONTROL in the target and NORMAL in the draft",
            id="a control token that the draft would spell out",
        ),
        pytest.param(
            TABLE,
            replaced(1, entry("</s>", CONTROL)),
            "token 1 '</s>' ends a generation in the target only",
            id="a base draft does not end",
        ),
        pytest.param(
            TABLE,
            replaced(4, entry("<tool>", CONTROL, ends=True)),
            "token 4 '<tool>' ends a generation in the draft only",
            id="a base target does not end",
        ),
        pytest.param(
            TABLE,
            replaced(2, entry("\u2581a", output=b"a")),
            "token 2 is 'a' in the target and '\u2581a' in the draft",
            id="another spelling of the same bytes",
        ),
    ],
)
def test_what_does_no_harm_is_told(
    target: Sequence[common_pb2.TokenEntry], draft: Sequence[common_pb2.TokenEntry], told: str
) -> None:
    assert check_pair(served(target, "one"), served(draft, "another")) == [told]


def test_an_id_that_one_of_them_never_says_may_be_anything() -> None:
    told = check_pair(served(TABLE, "one"), served(replaced(5, entry("<unused>", UNUSED)), "another"))
    assert told == [
        "token 5 is 'b' in the target and '<unused>' in the draft",
        "token 5 'b' is of the kind NORMAL in the target and UNUSED in the draft",
    ]


@pytest.mark.parametrize(
    ("target", "draft", "message"),
    [
        pytest.param(
            TABLE, replaced(2, entry("A")), "token 2 is 'a' in the target and 'A' in the draft", id="another text"
        ),
        pytest.param(
            TABLE,
            [*TABLE[:4], TABLE[5], TABLE[4]],
            "token 4 is '<tool>' in the target and 'b' in the draft (and 1 more)",
            id="another order",
        ),
        pytest.param(
            TABLE,
            replaced(3, entry("<0x0A>", BYTE, output=b"\r")),
            "token 3 '<0x0A>' adds b'\\n' in the target and b'\\r' in the draft",
            id="other bytes",
        ),
        pytest.param(
            TABLE,
            [entry("<unk>", CONTROL), *replaced(2, entry("A"))[1:5], entry("B")],
            "token 2 is 'a' in the target and 'A' in the draft (and 1 more)",
            id="the first that does harm is named",
        ),
    ],
)
def test_another_text_is_an_error_that_names_the_first(
    target: Sequence[common_pb2.TokenEntry], draft: Sequence[common_pb2.TokenEntry], message: str
) -> None:
    with pytest.raises(PairError) as info:
        check_pair(served(target, "one"), served(draft, "another"))
    assert str(info.value) == message


@pytest.mark.parametrize(
    ("target_bos", "draft_bos", "told"),
    [
        (0, 1, "a sequence begins with token 0 '<s>' in the target and with token 1 '</s>' in the draft"),
        (0, None, "a sequence begins with token 0 '<s>' in the target and with no token of its own in the draft"),
        (None, 99, "a sequence begins with no token of its own in the target and with token 99 in the draft"),
    ],
)
def test_another_first_token_is_named(target_bos: int | None, draft_bos: int | None, told: str) -> None:
    """The draft is given the target's."""
    assert check_pair(served(TABLE, "one", target_bos), served(TABLE, "another", draft_bos)) == [told]


def test_two_models_without_a_first_token_pair() -> None:
    assert check_pair(served(TABLE, "one", None), served(TABLE, "another", None)) == []


def test_other_noise_is_told() -> None:
    (told,) = check_pair(served(TABLE, "same", sampler_version=2), served(TABLE, "same"))
    assert told.startswith("the samplers differ, version 2 in the target and 1 in the draft")


def test_every_difference_is_listed() -> None:
    draft = [entry("<s>", UNKNOWN), entry("</s>", CONTROL), entry("A"), *TABLE[3:], *PADDING]
    found = list(differences(served(TABLE, "one"), served(draft, "another", bos=1)))
    assert [difference.is_harmful for difference in found] == [False, False, False, True, False]


def test_what_is_made_of_a_table_is_made_once() -> None:
    model = served([entry("a"), entry("<0x0A>", BYTE, output=b"\n")], "one")
    assert model.token_bytes == [b"a", b"\n"]
    assert model.token_bytes is model.token_bytes
    assert model.stand_in == 1
    assert served([entry("a")], "one").stand_in == 0


def _status(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())


async def _fetch(monkeypatch: pytest.MonkeyPatch, *errors: grpc.aio.AioRpcError) -> ServedModel:
    """What is fetched from a service that fails like this before it answers."""
    left = list(errors)

    async def fetch_model(_stub: model_pb2_grpc.ModelServiceStub) -> ServedModel:
        if left:
            raise left.pop(0)
        return ServedModel(common_pb2.ModelInfo(name="at last"), [])

    monkeypatch.setattr("orchestrator.peers.pair.fetch_model", fetch_model)
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        return await fetch_loading_model(channel, retry_s=0)


async def test_a_service_that_starts_or_stops_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    away = [_status(code) for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)]
    assert (await _fetch(monkeypatch, *away)).info.name == "at last"


async def test_another_service_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await _fetch(monkeypatch, _status(grpc.StatusCode.UNIMPLEMENTED))
