"""What streams go on with: the kinds that come with the package, and files of the user's."""

from pathlib import Path

import pytest

from orchestrator.bench.load.prompts import KINDS, Prompt, for_streams, read_prompts
from services.frame.program.startup import StartupError


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_prompts(kind: str) -> None:
    prompts = read_prompts([kind])
    assert len(prompts) >= 8
    assert len(set(prompts)) == len(prompts)
    assert all(prompt.kind == kind for prompt in prompts)
    assert all(bool(prompt.messages) == (kind == "chat") for prompt in prompts)


def test_functions_suffice_for_sixteen_streams() -> None:
    assert len(set(for_streams(read_prompts(["functions"]), 16))) == 16


@pytest.mark.parametrize("text", ["%%", "%%\n", "%%\n%%\n", "\n%%\n  \n%%\n%%", " \n"])
def test_lines_that_part_texts_are_no_prompt(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.txt"
    file.write_text(text)
    with pytest.raises(StartupError, match="there is no prompt in"):
        read_prompts([str(file)])
    file.write_text(f"one\n{text.strip()}\n%%\ntwo\n%%")
    assert [prompt.text for prompt in read_prompts([str(file)])] == ["one", "two"]


def test_texts_of_a_file_are_parted_by_lines_and_lose_their_last_newline(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("first\nline\n%%\n\n  second %% still\n%%\n\n%%\nlast")
    texts = [prompt.text for prompt in read_prompts([str(file)])]
    assert texts == ["first\nline", "\n  second %% still", "last"]
    assert {prompt.kind for prompt in read_prompts([str(file)])} == {"mine"}


def test_a_file_of_json_has_texts_and_chats(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"text": "go on"}\n\n{"messages": [{"role": "user", "content": "hello"}]}\n')
    assert read_prompts([str(file)]) == [Prompt("mine", "go on"), Prompt("mine", messages=(("user", "hello"),))]


def test_a_line_may_say_what_is_expected(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    chat = '"messages": [{"role": "user", "content": "hello"}]'
    file.write_text(f'{{"text": "go on", "prediction": "as before"}}\n{{{chat}, "prediction": "hi"}}\n')
    assert [prompt.prediction for prompt in read_prompts([str(file)])] == ["as before", "hi"]


def test_edits_are_expected_to_be_what_was_there_before() -> None:
    for prompt in read_prompts(["edits"]):
        before, _, after = prompt.text.partition("\n\n# After: ")
        assert prompt.prediction and before.endswith(prompt.prediction)
        assert prompt.prediction.splitlines()[0].strip() and after
    assert not any(prompt.prediction for prompt in read_prompts(["functions", "prose", "chat"]))


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"text": ""}',
        '{"text": "a", "prediction": 1}',
        '{"messages": []}',
        '{"messages": [{"role": "user"}]}',
        '{"messages": ["a"]}',
    ],
)
def test_what_is_no_prompt_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(f'{{"text": "a"}}\n{line}\n')
    with pytest.raises(StartupError, match=r"line 2 of .*mine\.jsonl is no prompt"):
        read_prompts([str(file)])


def test_a_file_that_is_not_there_is_refused_with_the_kinds(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="name a file, or one of functions, edits, prose, chat"):
        read_prompts([str(tmp_path / "missing.txt")])


def test_an_empty_file_and_one_that_is_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("\n%%\n")
    with pytest.raises(StartupError, match="there is no prompt"):
        read_prompts([str(file)])
    file.write_bytes(b"\xff")
    with pytest.raises(StartupError, match="not valid UTF-8"):
        read_prompts([str(file)])


def test_kinds_take_turns_and_come_again_where_streams_are_more() -> None:
    prompts = read_prompts(["functions", "edits"])
    assert [prompt.kind for prompt in prompts[:4]] == ["functions", "edits", "functions", "edits"]
    assert len(for_streams(prompts[:3], 7)) == 7
    assert for_streams(prompts[:3], 7)[3] == prompts[0]
