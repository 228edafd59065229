"""`outrider serve` through the deaths of its processes."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import grpc
import httpx2
import pytest
import trustme

from outrider.v1 import generation_pb2
from tests.e2e.conftest import Pair
from tests.e2e.programs import MODULES, Serving, run, serving
from tests.integration.services import OFF, Client, Generated, fixed, generate_request
from tests.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.e2e

# Long enough not to be over before a signal arrives.
NUM_TOKENS = 600
_MOST_LATE = 3


async def _generate(
    system: Serving, speculation: generation_pb2.Speculation, accident: Callable[[], object] | None = None
) -> Generated:
    """A whole answer; the accident happens when its first chunk is here."""
    generated = Generated()
    async with grpc.aio.insecure_channel(system.address) as channel:
        client = Client(channel)
        await client.until_draft(is_available=True)
        request = generate_request(max_tokens=NUM_TOKENS, speculation=speculation)
        async for message in client.stub.Generate(request, timeout=PATIENCE_S):
            if message.HasField("chunk"):
                if accident and not generated.chunks:
                    accident()
                generated.chunks.append(message.chunk)
            else:
                generated.summary = message.summary
    return generated


async def test_a_draft_that_is_killed_in_the_middle_of_a_request(system: Serving) -> None:
    expected = await _generate(system, OFF)
    assert len(expected.ids) == NUM_TOKENS
    killed: list[int] = []
    generated = await _generate(system, fixed(4), lambda: killed.append(system.kill("draft")))
    assert generated.ids == expected.ids
    assert generated.text == expected.text
    assert generated.counts.num_fallbacks == 1
    await asyncio.to_thread(system.restarted, "draft", killed[0])
    # The next one waits until the draft is back, and uses it. On a busy machine it may be late three times in a row.
    for _ in range(_MOST_LATE):
        again = await _generate(system, fixed(4))
        assert again.ids == expected.ids
        assert again.counts.num_accepted_tokens > 0
        if not again.counts.num_fallbacks:
            break
    assert again.counts.num_fallbacks == 0


async def test_a_target_that_is_killed_in_the_middle_of_a_request(system: Serving) -> None:
    expected = await _generate(system, fixed(4))
    killed: list[int] = []
    generated = await _generate(system, fixed(4), lambda: killed.append(system.kill("target")))
    assert generated.ids == expected.ids
    assert generated.counts.num_resyncs > 0
    assert system.services()["target"].pid != killed[0]


async def test_an_orchestrator_that_is_killed_serves_again_on_its_port(system: Serving) -> None:
    old_pid = system.kill("orchestrator")
    await asyncio.to_thread(system.restarted, "orchestrator", old_pid)

    async def ask() -> Generated:
        async with grpc.aio.insecure_channel(system.address) as channel:
            request = generate_request(max_tokens=4)
            generated = Generated()
            async for message in Client(channel).stub.Generate(request, wait_for_ready=True, timeout=PATIENCE_S):
                generated.chunks.append(message.chunk)
            return generated

    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                assert len((await ask()).ids) == 4
                break
            except grpc.aio.AioRpcError as error:
                # It listens before it serves.
                assert error.code() is grpc.StatusCode.UNAVAILABLE
            await asyncio.sleep(0.01)


async def test_tls_on_the_public_port(pair: Pair, home: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(str(key))
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with serving(home, *pair.flags, "--tls-cert", str(cert), "--tls-key", str(key)) as system:
        async with grpc.aio.secure_channel(system.address, credentials) as channel:
            assert len((await Client(channel).generate(max_tokens=4)).ids) == 4
        told = ("--address", system.address, "--peer-tls", "--peer-ca", str(tmp_path / "ca.pem"))
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        generated = await asyncio.to_thread(run, home, "generate", "def main(", "--max-tokens", "4", *told)
        assert (generated.returncode, bool(generated.stdout)) == (0, True)
        status = await asyncio.to_thread(run, home, "status", "--json", *told)
        assert json.loads(status.stdout)["target"]["is_available"]
        # Which has not been told whom to trust.
        strange = await asyncio.to_thread(run, home, "status", *told[:3])
        assert (strange.returncode, strange.stdout) == (1, "")


def test_http_beside_grpc(pair: Pair, home: Path) -> None:
    asked = {"prompt": "def main(", "max_tokens": 16, "seed": 5, "temperature": 0.8}
    with serving(home, *pair.flags, "--http", "127.0.0.1:0") as system:
        assert system.process.stdout is not None
        line = system.process.stdout.readline().strip()
        assert line.startswith("HTTP at http://127.0.0.1:")
        flags = ("--max-tokens", "16", "--seed", "5", "--temperature", "0.8", "--address", system.address)
        expected = run(home, "generate", "def main(", *flags)
        with httpx2.Client(base_url=line.removeprefix("HTTP at "), timeout=PATIENCE_S) as client:
            told = client.post("/v1/completions", json=asked).json()
            assert expected.stdout == f"def main({told['choices'][0]['text']}\n"
            # An orchestrator that is started again has the address that was told.
            system.restarted("orchestrator", system.kill("orchestrator"))

            def answers() -> bool:
                try:
                    return client.get("/health/ready").status_code == 200
                except httpx2.TransportError:
                    return False

            eventually(answers)
            assert client.post("/v1/completions", json=asked).json()["choices"] == told["choices"]


def test_keys_on_the_public_port(pair: Pair, home: Path, tmp_path: Path) -> None:
    keys, mine = tmp_path / "keys.txt", tmp_path / "mine.txt"
    for file in (keys, mine):
        file.touch(0o600)
    keys.write_text("alice: alice-0123456789\nbob: bob-0123456789ab\n")
    mine.write_text("alice-0123456789")
    with serving(home, *pair.flags, "--api-key-file", str(keys)) as system:
        asked = ("generate", "def main(", "--max-tokens", "4", "--address", system.address)
        for told, variables in (
            (("--peer-api-key-file", str(mine)), {}),
            ((), {"OUTRIDER_API_KEY": "bob-0123456789ab"}),
        ):
            generated = run(home, *asked, *told, **variables)
            assert (generated.returncode, bool(generated.stdout)) == (0, True)
        refused = run(home, *asked)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("outrider: the call has no key that this server takes: ")
        # Once it is out of the file it opens nothing.
        keys.write_text("bob: bob-0123456789ab\n")
        assert run(home, *asked, "--peer-api-key-file", str(mine)).returncode == 1


def test_a_unix_socket_as_public_address(pair: Pair, home: Path, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/socket"
    with serving(home, *pair.flags, "--host", address) as system:
        assert system.address == address
        generated = run(home, "generate", "def main(", "--max-tokens", "4", "--address", address)
        assert (generated.returncode, bool(generated.stdout)) == (0, True)


REPEATED = "def main(a):\n    return a\n\n\n" * 2 + "def main(a"


def test_lookup_and_plain_decoding_without_a_draft(pair: Pair, home: Path) -> None:
    with serving(home, "--target", str(pair.target)) as system:
        assert set(system.services()) == {"target", "orchestrator"}
        asked = ("generate", "--address", system.address, "--max-tokens", "32", REPEATED)
        finished, plain = run(home, *asked), run(home, *asked, "--drafter", "none")
    assert finished.returncode == plain.returncode == 0
    assert "plain decoding, no draft" in plain.stderr
    assert " by lookup, " in finished.stderr
    assert finished.stdout == plain.stdout
    assert os.linesep in finished.stdout


def test_names_of_other_engines(pair: Pair, home: Path) -> None:
    """A draft that nobody asks is not even loaded."""
    models = {"TARGET_MODEL_PATH": str(pair.target), "DRAFT_MODEL_PATH": str(pair.draft)}
    with serving(home, **models, SPECULATION_DEPTH="2") as system:
        assert set(system.services()) == set(MODULES)
        status = json.loads(run(home, "status", "--address", system.address, "--json").stdout)
        assert status["target"]["model"]["name"] == "outrider-target"
        asked = ("generate", "--address", system.address, "--json", "--max-tokens", "32", "def main(")
        drafted = json.loads(run(home, *asked).stdout)
    assert len(drafted["speculation"]["num_accepted_per_position"]) <= 2
    with serving(home, **models, ENABLE_SPECULATIVE="false") as system:
        assert set(system.services()) == {"target", "orchestrator"}
        plain = json.loads(run(home, *asked[:2], system.address, *asked[3:]).stdout)
        status = json.loads(run(home, "status", "--address", system.address, "--json").stdout)
    assert status["drafter"] == "DRAFTER_NONE"
    assert plain["speculation"]["num_drafts"] == 0
    assert plain["text"] == drafted["text"]
