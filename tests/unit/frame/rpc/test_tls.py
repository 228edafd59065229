import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.frame.program.settings import PeerSettings, ServerSettings
from services.frame.program.startup import StartupError
from services.frame.rpc.channel import ClientTls, Credentials, client_credentials, open_channel
from services.frame.server import FrameServer
from tests.certificates import Files, write_files


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_files(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_files(tmp_path_factory.mktemp("tls") / "theirs")


async def ask(server: FrameServer, tls: ClientTls | None) -> bytes:
    async with open_channel(server.address, credentials=Credentials(tls)) as channel:
        reply: bytes = await channel.unary_unary("/test.Echo/Echo")(b"hello")
        return reply


@pytest.fixture
async def mutual(serve: Any, ours: Files) -> AsyncIterator[FrameServer]:
    yield await serve(tls_cert=ours.cert, tls_key=ours.key, tls_client_ca=ours.ca)


async def refused(server: FrameServer, tls: ClientTls | None) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await ask(server, tls)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_client_that_knows_the_authority_is_served(serve: Any, ours: Files, theirs: Files) -> None:
    server = await serve(tls_cert=ours.cert, tls_key=ours.key)
    assert await ask(server, ClientTls(ca=ours.ca)) == b"hello"
    await refused(server, ClientTls(ca=theirs.ca))
    await refused(server, None)


async def test_mutual_tls_asks_for_a_certificate_of_the_authority(
    mutual: FrameServer, ours: Files, theirs: Files
) -> None:
    assert await ask(mutual, ClientTls(ours.ca, ours.cert, ours.key)) == b"hello"
    await refused(mutual, ClientTls(ours.ca))
    await refused(mutual, ClientTls(ours.ca, theirs.cert, theirs.key))


async def test_a_tls_client_does_not_fall_back_to_plain_text(serve: Any, ours: Files) -> None:
    await refused(await serve(), ClientTls(ours.ca))


@pytest.fixture
def changing(ours: Files, tmp_path: Path) -> Files:
    """Copies of our files, for a test to replace."""
    return copy_files(ours, Files(*(tmp_path / f"{name}.pem" for name in ("ca", "cert", "key"))))


def copy_files(source: Files, sink: Files) -> Files:
    for name in ("ca", "cert", "key"):
        getattr(sink, name).write_bytes(getattr(source, name).read_bytes())
    return sink


async def test_new_connections_are_shown_the_certificate_that_the_files_hold_now(
    serve: Any, changing: Files, ours: Files, theirs: Files
) -> None:
    server = await serve(tls_cert=changing.cert, tls_key=changing.key, tls_client_ca=changing.ca)
    before, after = (ClientTls(files.ca, files.cert, files.key) for files in (ours, theirs))
    async with open_channel(server.address, credentials=Credentials(before)) as channel:
        echo = channel.unary_unary("/test.Echo/Echo")
        assert await echo(b"hello") == b"hello"
        await refused(server, after)
        copy_files(theirs, changing)
        assert await ask(server, after) == b"hello"
        await refused(server, before)
        # A connection that there is goes on.
        assert await echo(b"hello") == b"hello"


async def test_files_that_are_of_no_use_leave_the_certificate_as_it_was(
    serve: Any, changing: Files, ours: Files, theirs: Files, caplog: pytest.LogCaptureFixture
) -> None:
    """As in the middle of their replacement."""
    server = await serve(tls_cert=changing.cert, tls_key=changing.key)
    for break_off in (
        lambda: changing.key.write_bytes(theirs.key.read_bytes()),
        lambda: changing.cert.write_text("junk"),
        changing.cert.unlink,
    ):
        break_off()
        caplog.clear()
        for _ in range(2):
            assert await ask(server, ClientTls(ours.ca)) == b"hello"
        (told,) = caplog.messages
        assert told.startswith("files of TLS have changed and cannot be used, the ones before them go on: --tls-cert ")
    copy_files(theirs, changing)
    assert await ask(server, ClientTls(theirs.ca)) == b"hello"


def test_settings_say_how_peers_are_called(ours: Files) -> None:
    assert client_credentials(PeerSettings()) == Credentials()
    assert client_credentials(PeerSettings(peer_tls=True)) == Credentials(ClientTls())
    settings = PeerSettings(peer_tls=True, peer_ca=ours.ca, peer_cert=ours.cert, peer_key=ours.key)
    assert client_credentials(settings) == Credentials(ClientTls(ours.ca, ours.cert, ours.key))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tls_cert": "missing"}, r"^--tls-cert \S+ cannot be read: No such file or directory$"),
        ({"tls_key": "missing"}, r"^--tls-key \S+ cannot be read: No such file or directory$"),
        ({"tls_cert": "junk"}, r"^--tls-cert \S+ and --tls-key \S+ are no usable pair: "),
        ({"tls_key": "theirs"}, r"^--tls-cert \S+ and --tls-key \S+ are no usable pair: KEY_VALUES_MISMATCH$"),
        ({"tls_key": "locked"}, r"^--tls-cert \S+ and --tls-key \S+ are no usable pair: the key needs a pass phrase"),
        ({"tls_client_ca": "missing"}, r"^--tls-client-ca \S+ cannot be read: No such file or directory$"),
        ({"tls_key": "pipe"}, r"^--tls-key \S+ cannot be read: it is not a file$"),
        ({"tls_client_ca": "junk"}, r"^--tls-client-ca \S+ holds no certificate: "),
    ],
)
async def test_unusable_files_are_one_sentence(
    change: dict[str, str],
    sentence: str,
    application_class: Any,
    ours: Files,
    theirs: Files,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    files = {"missing": tmp_path / "none.pem", "junk": tmp_path / "junk.pem", "theirs": theirs.key}
    files["junk"].write_text("junk")
    files["pipe"] = tmp_path / "pipe.pem"
    os.mkfifo(files["pipe"])
    files["locked"] = tmp_path / "locked.pem"
    files["locked"].write_bytes(locked_key(ours.key))
    settings = {"tls_cert": ours.cert, "tls_key": ours.key} | {name: files[kind] for name, kind in change.items()}
    server = FrameServer(ServerSettings.model_validate(settings), application_class())
    with pytest.raises(StartupError, match=sentence):
        await server.listen()
    # gRPC tells of unusable certificates on stderr by itself.
    assert capfd.readouterr().err == ""


def locked_key(path: Path) -> bytes:
    """Return a key as it is with a pass phrase."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(path.read_bytes(), None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


async def test_unusable_client_files_are_one_sentence(ours: Files, theirs: Files, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"^--peer-ca \S+ cannot be read"):
        open_channel("127.0.0.1:1", credentials=Credentials(ClientTls(ca=tmp_path / "none.pem")))
    with pytest.raises(StartupError, match=r"^--peer-cert \S+ and --peer-key \S+ are no usable pair"):
        open_channel("127.0.0.1:1", credentials=Credentials(ClientTls(ours.ca, ours.cert, theirs.key)))
