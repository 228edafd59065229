"""Who may ask over HTTP: with keys, and from pages of a browser."""

import logging
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter
from pydantic import ValidationError

from orchestrator.http.exchange.reading import Fields, JsonRoute
from orchestrator.http.page.routes import PAGE_PATHS
from orchestrator.settings import OrchestratorSettings
from services.frame.program.api_keys import ApiKeys, caller_name
from tests.unit.orchestrator.http.scripted_face import Face, face

ALICE, MALLORY = "alice-0123456789", "mallory-01234567"
SHOWN = [{"authorization": f"Bearer {ALICE}"}, {"authorization": f"bearer {ALICE}"}, {"x-api-key": ALICE}]
NOT_SHOWN = [
    {},
    {"authorization": f"Bearer {MALLORY}"},
    {"authorization": ALICE},
    {"authorization": "Bearer"},
    {"x-api-key": MALLORY},
    {"api-key": ALICE},
    # The one that counts first is wrong.
    {"authorization": f"Bearer {MALLORY}", "x-api-key": ALICE},
]


class Said(Fields):
    text: str


@pytest.fixture
def keys(tmp_path: Path) -> ApiKeys:
    file = tmp_path / "keys.txt"
    file.touch(0o600)
    file.write_text(f"alice: {ALICE}\n")
    return ApiKeys(file)


def add_echo(made: Face) -> list[str]:
    """A path that takes a body, as those of the APIs do; what it returns has who called it, as often as it was."""
    callers: list[str] = []
    router = APIRouter(route_class=JsonRoute)

    @router.post("/echo")
    async def echo(said: Said) -> str:
        callers.append(caller_name.get())
        return said.text

    made.app.include_router(router)
    return callers


@pytest.mark.parametrize("headers", SHOWN)
async def test_who_shows_a_key_is_served_and_known_by_its_name(keys: ApiKeys, headers: dict[str, str]) -> None:
    async with face(keys=keys) as made:
        callers = add_echo(made)
        assert (await made.post("/echo", {"text": "a"}, **headers)).json() == "a"
        assert callers == ["alice"]
        assert caller_name.get() == ""


@pytest.mark.parametrize("headers", NOT_SHOWN)
async def test_who_shows_none_is_not(keys: ApiKeys, headers: dict[str, str]) -> None:
    async with face(keys=keys) as made:
        callers = add_echo(made)
        for path in ("/echo", "/v1/models", "/metrics", "/no-such-path", "/health/x"):
            answer = await made.client.request("POST" if path == "/echo" else "GET", path, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            error = answer.json()["error"]
            assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
            assert "authorization: Bearer KEY" in error["message"]
        assert not callers


async def test_anthropics_clients_are_answered_in_their_form(keys: ApiKeys) -> None:
    async with face(keys=keys) as made:
        answer = await made.client.post("/v1/messages", json={})
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
        assert answer.json()["type"] == "error"


async def test_strangers_do_not_learn_what_a_server_waits_for(keys: ApiKeys) -> None:
    async with face(keys=keys) as made:
        made.registry.is_open = False
        made.registry.wait = "loading secret.gguf"
        assert (await made.client.get("/v1/models")).status_code == 401
        assert (await made.client.get("/v1/models", headers=SHOWN[0])).status_code == 503


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
async def test_strangers_are_told_whether_a_server_is_ready_and_not_why_it_is_not(keys: ApiKeys, path: str) -> None:
    async with face(keys=keys) as made:

        async def told(headers: dict[str, str]) -> str:
            answer = await made.client.get(path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
            assert answer.headers["retry-after"]
            return str(answer.json()["error"]["message"])

        made.service.is_available = False
        made.service.reason = "the target at secret.example:1 is away"
        for headers in SHOWN:
            assert await told(headers) == made.service.reason
        for headers in NOT_SHOWN:
            assert await told(headers) == "the service waits for its target"
        made.served.service = None
        made.served.server.wait = "waiting for the target at secret.example:1"
        assert await told(SHOWN[0]) == f"the service is still starting: {made.served.server.wait}"
        assert await told({}) == "the service is still starting"
        made.served.server.draining.set()
        assert await told(SHOWN[0]) == await told({}) == "the service is stopping"


async def test_who_needs_no_key_is_not_counted_among_those_turned_away(keys: ApiKeys) -> None:
    async with face(keys=keys) as made:
        await made.client.get("/health")
        assert keys.num_refused == 0
        await made.client.get("/health", headers=NOT_SHOWN[1])
        assert keys.num_refused == 1


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/docs", "/openapi.json", *PAGE_PATHS])
async def test_some_paths_ask_for_no_key(keys: ApiKeys, path: str) -> None:
    async with face(keys=keys) as made:
        assert (await made.client.get(path)).status_code == 200


async def test_no_key_is_in_a_log(keys: ApiKeys, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with face(keys=keys) as made:
        for headers in (*SHOWN, *NOT_SHOWN):
            answer = await made.client.get("/v1/models", headers=headers)
            assert not {ALICE, MALLORY} & set(answer.text.split('"'))
    assert ALICE not in caplog.text and MALLORY not in caplog.text


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/plain", '{"text": "a"}'),
        ("application/x-www-form-urlencoded", '{"text": "a"}'),
        ("multipart/form-data; boundary=x", '{"text": "a"}'),
        (None, '{"text": "a"}'),
        ("text/plain; application/json", '{"text": "a"}'),
    ],
)
async def test_what_a_page_sends_without_asking_first_has_no_effect(kind: str | None, body: str) -> None:
    """Of these types a browser sends a body anywhere, and only hides the answer."""
    async with face() as made:
        callers = add_echo(made)
        headers = {"origin": "https://evil.example"} | ({"content-type": kind} if kind else {})
        answer = await made.client.post("/echo", content=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
        assert not callers


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
async def test_no_path_takes_a_body_of_such_a_type(kind: str | None) -> None:
    async with face() as made:
        paths = (await made.client.get("/openapi.json")).json()["paths"]
        posted = [path for path, methods in paths.items() if "post" in methods]
        assert posted
        for path in posted:
            body = b'{"model": "big", "prompt": "a", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}'
            answer = await made.client.post(path, content=body, headers={"content-type": kind} if kind else {})
            assert answer.status_code == 400, path
            assert "sent with content-type: application/json" in answer.json()["error"]["message"], path
        assert not made.service.requests
        assert not made.texts.asked


def asking(origin: str) -> dict[str, str]:
    """What a browser asks with before it sends JSON, or a key, for a page of another origin."""
    return {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-lang",
    }


async def test_pages_of_others_are_told_nothing(keys: ApiKeys) -> None:
    for settings in ({}, {"keys": keys}, {"http_origins": "https://ours.example"}):
        async with face(**settings) as made:  # type: ignore[arg-type]
            asked = await made.client.options("/v1/models", headers=asking("https://evil.example"))
            assert asked.status_code >= 400
            got = await made.client.get("/v1/models", headers={"origin": "https://evil.example"})
            for answer in (asked, got):
                assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origins", ["https://ours.example", "http://other:8000, https://ours.example", "*"])
async def test_pages_that_are_named_may_ask(keys: ApiKeys, origins: str) -> None:
    async with face(keys=keys, http_origins=origins) as made:
        # The question comes without a key.
        asked = await made.client.options("/v1/models", headers=asking("https://ours.example"))
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-headers"] == "authorization,content-type,x-stainless-lang"
        refused = await made.client.get("/v1/models", headers={"origin": "https://ours.example"})
        assert refused.status_code == 401
        got = await made.client.get("/v1/models", headers=SHOWN[0] | {"origin": "https://ours.example"})
        assert got.status_code == 200
        for answer in (asked, refused, got):
            assert answer.headers["access-control-allow-origin"] in ("*", "https://ours.example")
            assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "origins", ["ours.example", "https://ours.example/", "https://", "ftp://a", "https://a b", "**"]
)
def test_what_is_no_origin_is_refused(origins: str) -> None:
    with pytest.raises(ValidationError, match="an origin is http://NAME"):
        OrchestratorSettings(http_origins=origins)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:8080", "10.1.2.3:1", "localhost", "LOCALHOST:8080"),
        *("a.localhost", "orchestrator:8080", "ours.example", "OURS.example:8080", "ours.example."),
    ],
)
async def test_a_host_of_ours_is_served(host: str) -> None:
    async with face(http_names="other.example, ours.example") as made:
        assert (await made.client.get("/v1/models", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "a:b:c.d"])
async def test_a_host_that_a_page_made_lead_here_is_not(host: str, keys: ApiKeys) -> None:
    async with face() as made:
        answer = await made.client.get("/v1/models", headers={"host": host})
        assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")
        assert "--http-names" in answer.json()["error"]["message"]
    # A page knows no key, so that those who do may ask by any name.
    async with face(keys=keys) as made:
        assert (await made.client.get("/v1/models", headers={"host": host} | SHOWN[0])).status_code == 200


@pytest.mark.parametrize("settings", [{"http_metrics": "some"}, {"http_vllm_metrics": "some"}])
def test_there_is_no_other_page_of_metrics(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OrchestratorSettings(**settings)
