"""What an orchestrator is asked for by `outrider generate` and `outrider chat`."""

import io
import sys
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict

from orchestrator.cli import commands as cli
from orchestrator.generation.request import check_alone
from outrider.v1 import common_pb2, generation_pb2
from tests.unit.orchestrator.cli.running import run


def asked_for(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> generation_pb2.GenerateRequest:
    """What an orchestrator is asked for by a command."""
    asked: list[generation_pb2.GenerateRequest] = []

    async def note(
        address: str, tls: object, options: object, request: generation_pb2.GenerateRequest, *_: object
    ) -> None:
        asked.append(request)

    monkeypatch.setattr(cli, {"generate": "stream_text", "chat": "hold_chat"}[arguments[0]], note)
    if "--model" not in arguments:
        arguments = (*arguments, "--address", "127.0.0.1:1")
    assert run(monkeypatch, *arguments) == 0
    return asked[0]


SAMPLING = {
    "temperature": 0.5,
    "top_k": 40,
    "top_p": 0.75,
    "min_p": 0.125,
    "repetition_penalty": 1.25,
    "presence_penalty": -0.5,
    "frequency_penalty": 2.0,
}


@pytest.mark.parametrize("command", [["generate", "a"], ["chat"]])
def test_what_is_said_of_sampling_is_asked_for(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SAMPLING.items()]
    more = ["--seed", "7", "--speculation", "3", "--max-tokens", "-1"]
    request = asked_for(monkeypatch, *command, *flags, *more)
    assert request.sampling == common_pb2.Sampling(**SAMPLING)
    assert (request.seed, request.speculation.num_draft_tokens, request.max_tokens) == (7, 3, 2**31 - 1)


@pytest.mark.parametrize("command", [["generate", "a"], ["chat"]])
def test_what_is_not_said_is_left_open(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    request = asked_for(monkeypatch, *command)
    assert {field.name for field, _ in request.sampling.ListFields()} <= {"temperature"}
    assert not request.HasField("seed")
    assert not request.stop


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], {"temperature": 0.2, "top_p": 0.9}),
        (["--temperature", "1"], {"temperature": 1}),
        (["--top-p", "0.5"], {"temperature": 0.8, "top_p": 0.5}),
        (["--min-p", "0.5"], {"temperature": 0.2, "top_p": 0.9, "min_p": 0.5}),
        (["--model", "./smollm2"], {"temperature": 0.8}),
    ],
)
def test_a_model_in_one_word_is_sampled_as_its_makers_advise(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], expected: dict[str, float]
) -> None:
    """Unless the command line says otherwise."""
    monkeypatch.setattr("orchestrator.cli.options.find_pair", lambda *_, **__: (Path("found.gguf"), None))
    request = asked_for(monkeypatch, "chat", "--model", "smollm2", *flags)
    assert request.sampling == common_pb2.Sampling(**expected)


@pytest.mark.parametrize("command", [["generate", "a"], ["chat"]])
def test_where_to_stop(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    flags = ["--stop", "\n\n", "--stop", "b", "--stop-token", "0", "--stop-token", str(2**32 - 1)]
    request = asked_for(monkeypatch, *command, *flags)
    assert (list(request.stop), list(request.stop_tokens)) == (["\n\n", "b"], [0, 2**32 - 1])


@pytest.mark.parametrize("expected", ["def f():\n    return 1\n", ""])
def test_what_is_expected_is_the_text_of_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, expected: str) -> None:
    path = tmp_path / "expected.py"
    path.write_text(expected)
    assert asked_for(monkeypatch, "generate", "a", "--prediction", str(path)).prediction.text == expected
    request = asked_for(monkeypatch, "generate", "a", "--drafter", "prediction")
    assert request.speculation.drafter == generation_pb2.DRAFTER_PREDICTION
    assert not request.prediction.text


@pytest.mark.parametrize("command", [["generate", "a"], ["chat"]])
def test_who_answers(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    assert not asked_for(monkeypatch, *command).model
    for name in ("draft", "target", "big-model"):
        assert asked_for(monkeypatch, *command, "--answer-by", name).model == name


@pytest.mark.parametrize("flags", [[], ["--speculation", "off"], ["--drafter", "none"], ["--drafter", "auto"]])
def test_the_draft_model_is_asked_for_nothing_that_it_refuses(
    monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    check_alone(asked_for(monkeypatch, "generate", "a", "--answer-by", "draft", *flags))


def test_what_the_model_of_a_chat_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    (message,) = asked_for(monkeypatch, "chat", "--system", "be brief").chat.messages
    assert (message.role, message.content) == ("system", "be brief")


VARIABLES = {
    "enable_thinking=false": False,
    "num=3": 3.0,
    "effort=high": "high",
    'effort="high"': "high",
    'tools=[{"name": "a=b"}]': [{"name": "a=b"}],
    "none=null": None,
    "empty=": "",
    "number=NaN": "NaN",
    "open=[1,": "[1,",
}


@pytest.mark.parametrize("given", VARIABLES)
def test_what_a_template_is_given(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    flags = ["--template-name", "tool_use", "--template-variable", "a=1", "--template-variable", given]
    chat = asked_for(monkeypatch, "chat", *flags).chat
    assert chat.template_name == "tool_use"
    assert MessageToDict(chat.template_variables) == {"a": 1.0, given.partition("=")[0]: VARIABLES[given]}


@pytest.mark.parametrize(
    ("content", "prompt"),
    [(b"def f(\n", "def f("), (b"a\n\n", "a\n"), (b"a\r\n", "a"), (b" a", " a"), ("\N{BULLET}".encode(), "\N{BULLET}")],
)
def test_a_prompt_of_a_file_or_of_stdin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes, prompt: str
) -> None:
    path = tmp_path / "prompt.txt"
    path.write_bytes(content)
    assert asked_for(monkeypatch, "generate", "--file", str(path)).text == prompt
    for source in (["-"], ["--file", "-"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert asked_for(monkeypatch, "generate", *source).text == prompt
