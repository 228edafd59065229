"""Health, models, the API's description, and requests that are refused before an API sees them."""

import re
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.drafting.drafter import Breaker
from outrider.v1 import common_pb2, generation_pb2
from tests.unit.orchestrator.http.scripted_face import face


async def test_a_process_lives_before_it_serves_and_while_it_stops() -> None:
    async with face() as made:
        made.served.service = None
        made.served.server.wait = "waiting for the target at 127.0.0.1:1"
        made.registry.is_open = False
        assert (await made.client.get("/health/live")).status_code == 200
        for path in ("/health", "/health/ready"):
            answer = await made.client.get(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "waiting for the target at 127.0.0.1:1" in answer.json()["error"]["message"]


async def test_ready_is_who_has_its_target() -> None:
    async with face() as made:
        assert (await made.client.get("/health/ready")).json() == {"status": "ok"}
        made.service.is_available = False
        answer = await made.client.get("/health/ready")
        assert (answer.status_code, answer.json()["error"]["message"]) == (503, "the target service is away")


async def test_requests_are_refused_while_the_server_stops() -> None:
    async with face() as made:
        made.registry.is_draining = True
        answer = await made.client.get("/v1/models")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"] == {
            "message": "the service is stopping",
            "type": "unavailable_error",
            "param": None,
            "code": "not_ready",
        }
        assert (await made.client.get("/health/live")).status_code == 200


async def test_models_are_the_target_and_the_draft() -> None:
    async with face() as made:
        assert [each["id"] for each in (await made.client.get("/v1/models")).json()["data"]] == ["big"]
        small = generation_pb2.ServiceStatus(model=common_pb2.ModelInfo(name="small", context_length=128))
        draft: Any = SimpleNamespace(status=lambda: small, model=small.model, breaker=Breaker(1.0))
        made.served.backend.drafts.append(draft)
        listed = (await made.client.get("/v1/models")).json()["data"]
        assert [(each["id"], each["meta"]["name"]) for each in listed] == [("big", "big"), ("draft", "small")]
        assert (await made.client.get("/v1/models/draft")).json() == listed[1]
        for name, meant in (("target", "big"), ("big", "big")):
            found = (await made.client.get(f"/v1/models/{name}")).json()
            assert (found["id"], found["meta"]["name"]) == (name, meant), "as requests may call it"


async def test_models_are_told_as_anthropics_clients_read_them_too() -> None:
    async with face() as made:
        made.served.started_s = 0
        page = (await made.client.get("/v1/models")).json()
    assert (page["has_more"], page["first_id"], page["last_id"]) == (False, "big", "big")
    (model,) = page["data"]
    assert (model["type"], model["display_name"], model["lifecycle"]) == ("model", "big", "active")
    assert model["created_at"] == "1970-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("GET", "/v2", 404, "not_found"),
        ("DELETE", "/health", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_there(method: str, path: str, status: int, code: str) -> None:
    async with face() as made:
        answer = await made.client.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/chat/completions", "nothing is served at /chat/completions: the base URL of OpenAI's clients ends with /v1"),
        ("/v1/v1/messages", "nothing is served at /v1/v1/messages: this client adds /v1 to its base URL by itself"),
        ("/v1/images", "nothing is served at /v1/images"),
    ],
)
async def test_a_client_with_another_base_url_is_told(path: str, said: str) -> None:
    async with face() as made:
        answer = await made.post(path, {})
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, said)
    assert ("type" in answer.json()) == path.endswith("messages"), "in the form of who asks"


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
async def test_the_description_is_not_made_on_the_loop_that_serves(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with face() as made:
        threads, describe = [], made.app.openapi
        monkeypatch.setattr(made.app, "openapi", lambda: threads.append(threading.get_ident()) or describe())
        assert (await made.client.get(path)).status_code == 200
        assert threads and threading.get_ident() not in threads


async def test_the_description_asks_nobody_else() -> None:
    async with face() as made:
        page = (await made.client.get("/docs")).text
        assert "/v1/models" in page
        assert not re.findall(r"https?://|src=|@import|url\(", page)


async def test_every_path_declares_the_statuses_of_errors() -> None:
    async with face() as made:
        paths = (await made.client.get("/openapi.json")).json()["paths"]
        for methods in paths.values():
            for operation in methods.values():
                assert {"400", "401", "404", "408", "413", "429", "500", "503"} <= operation["responses"].keys()
                assert "422" not in operation["responses"]
