"""Services that know their clients by certificate."""

from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from outrider.v1 import model_pb2, model_pb2_grpc
from services.frame.rpc.channel import ClientTls, Credentials, open_channel
from tests.certificates import Files, write_files
from tests.integration.conftest import Pair
from tests.integration.services import client_of, draft_server, fixed, orchestrator_server, target_server

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_files(tmp_path_factory.mktemp("tls") / "files")


async def test_services_that_know_their_clients_by_certificate(pair: Pair, files: Files) -> None:
    theirs: dict[str, Any] = {"tls_cert": files.cert, "tls_key": files.key, "tls_client_ca": files.ca}
    ours: dict[str, Any] = {"peer_tls": True, "peer_ca": files.ca, "peer_cert": files.cert, "peer_key": files.key}
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target, **theirs))
        draft = await stack.enter_async_context(draft_server(pair.draft, **theirs))
        orchestrator = await stack.enter_async_context(orchestrator_server(target.address, draft.address, **ours))
        client = await stack.enter_async_context(client_of(orchestrator))
        await client.until_draft(is_available=True)
        generated = await client.generate(max_tokens=12, speculation=fixed(3))
        assert len(generated.tokens) == 12
        assert generated.counts.num_accepted_tokens > 0
        for tls in (ClientTls(files.ca), None):
            stranger = await stack.enter_async_context(open_channel(target.address, credentials=Credentials(tls)))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await model_pb2_grpc.ModelServiceStub(stranger).GetModel(model_pb2.GetModelRequest())
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert len((await client.generate(max_tokens=12)).tokens) == 12
