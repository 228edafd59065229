"""`outrider bench` up to the first process: what is refused, and what is measured."""

import errno
import os
from pathlib import Path

import pytest

from orchestrator.bench.course import Course
from orchestrator.bench.measuring.bench import Load, Results
from orchestrator.bench.systems.services import Checkout
from orchestrator.bench.systems.system import System
from orchestrator.cli import measuring, progress
from services.frame.program.startup import StartupError
from tests.unit.orchestrator.cli.running import run
from tests.waiting import soon


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["--streams", "1,x"], "--streams is '1,x': 1 to 256 streams can run at once", id="streams"),
        pytest.param(["--streams", "0"], "--streams is '0': 1 to 256 streams", id="no stream"),
        pytest.param(["--streams", ""], "--streams is empty", id="empty"),
        pytest.param(["--settings", "fast"], "--settings is 'fast': a setting is plain", id="setting"),
        pytest.param(["--settings", "65"], "1 to 64 draft tokens", id="too many draft tokens"),
        pytest.param(["--exact", "maybe"], "--exact is 'maybe': 'maybe' is none of off, on and auto", id="exact"),
        pytest.param(["--arrival", "poisson", "--rate", "0"], "--rate is above 0, not 0", id="rate"),
        pytest.param(["--arrival", "soon"], "'--arrival'", id="arrival"),
        pytest.param(["--prompts", "no/such"], "cannot read prompts from no/such", id="no prompts"),
        pytest.param(["--tokens", "1024"], "--context 1024 does not hold --tokens 1024", id="context"),
        pytest.param(
            ["--against", "no/such"],
            "--against is the folder of a checkout of this project, and no/such is none\n",
            id="no checkout",
        ),
        pytest.param(["--peer-url", "host:1"], "--peer-url is an address such as http", id="address"),
        pytest.param(["--peer-llama-server", "no/such"], "there is no program no/such", id="no program"),
        pytest.param(["--peer-llama-server", __file__, "--peer-settings", "x"], "--peer-settings is 'x'", id="peer's"),
        pytest.param(["--peer-settings", "plain"], "that --peer-llama-server names", id="settings without a peer"),
        pytest.param(
            ["--peer-model", "m"], "--peer-model is of a peer that --peer-url names", id="model without a peer"
        ),
        pytest.param(["--out", "no/such/file"], "there is no folder no/such for --out", id="no folder"),
        pytest.param(["--budget", "-1"], "'--budget'", id="negative budget"),
        pytest.param(["--target", "no/such.gguf"], "there is no model file no/such.gguf", id="no model"),
        pytest.param(
            ["--target", __file__, "--settings", "3"], "--settings has 3, which needs a --draft", id="no draft"
        ),
    ],
)
def test_bad_use_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert run(monkeypatch, "bench", *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert expected in printed.err
    assert printed.err.count("\n") == 1


def checkout(root: Path) -> Path:
    """A folder with as much of this project as can be looked for without starting it."""
    for folder in ("orchestrator/cli", "services/target", "services/draft", "protos/outrider/v1"):
        (root / folder).mkdir(parents=True)
    for name in ("common", "draft", "generation", "model", "target"):
        (root / f"protos/outrider/v1/{name}_pb2.py").touch()
    (root / "pyproject.toml").write_text('[project]\nname = "outrider"\nversion = "0.0.9"\n')
    return root


@pytest.mark.parametrize(
    ("lacking", "content", "expected"),
    [
        pytest.param("orchestrator/cli", None, "has no orchestrator/cli", id="command line"),
        pytest.param("services/draft", None, "has no services/draft", id="service"),
        pytest.param(
            "protos/outrider/v1/target_pb2.py", None, "has no protos/outrider/v1/target_pb2.py", id="protocol"
        ),
        pytest.param("pyproject.toml", None, "has no pyproject.toml", id="project"),
        pytest.param(
            "pyproject.toml",
            '[project]\nname = "other"\nversion = "1"\n',
            "has a pyproject.toml without a version of outrider",
            id="another project",
        ),
        pytest.param(
            "pyproject.toml",
            '[project]\nname = "outrider"\n',
            "has a pyproject.toml without a version of outrider",
            id="no version",
        ),
        pytest.param("pyproject.toml", "project = 3\n", "without a version of outrider", id="no table"),
        pytest.param("pyproject.toml", "[", "has a pyproject.toml that cannot be read: ", id="no TOML"),
    ],
)
def test_a_folder_that_cannot_be_measured_is_refused_with_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: list[tuple[list[System], Load, Course]],
    tmp_path: Path,
    lacking: str,
    content: str | None,
    expected: str,
) -> None:
    path = checkout(tmp_path / "there") / lacking
    path.rmdir() if path.is_dir() else path.unlink()
    if content is not None:
        path.write_text(content)
    assert run(monkeypatch, "bench", "--against", "there") == 2
    told = capsys.readouterr().err
    assert told.startswith("outrider: --against is the folder of a checkout of this project, and there ")
    assert expected in told
    assert told.count("\n") == 1
    assert not asked


def test_this_very_checkout_can_be_measured() -> None:
    assert Checkout(Path(__file__).parents[4]).problem == ""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[list[System], Load, Course]]:
    """What would have been measured, from a folder that can be written to."""
    seen: list[tuple[list[System], Load, Course]] = []

    async def note(systems: list[System], load: Load, course: Course, results: Results, *_: object) -> None:
        seen.append((systems, load, course))
        results.runs.append({})

    monkeypatch.setattr(measuring, "_measure_and_tell", note)
    monkeypatch.chdir(tmp_path)
    return seen


def test_without_options_the_bundled_pair_is_measured(
    monkeypatch: pytest.MonkeyPatch, asked: list[tuple[list[System], Load, Course]]
) -> None:
    assert run(monkeypatch, "bench") == 0
    ((systems, load, course),) = asked
    assert [system.name for system in systems] == ["outrider"]
    assert [setting.name for setting in systems[0].settings] == ["plain", "auto", "1", "3", "7", "plain again"]
    assert {prompt.kind for prompt in load.prompts} == {"functions", "edits"}
    assert (list(course.streams), course.num_rounds, load.rate) == ([1, 4], 5, 0.0)


def test_everything_is_measured_in_the_same_run(
    monkeypatch: pytest.MonkeyPatch, asked: list[tuple[list[System], Load, Course]], tmp_path: Path
) -> None:
    checkout(tmp_path / "there")
    (tmp_path / "server").touch()
    arguments = ["--settings", "3 7", "--exact", "off,on", "--against", "there", "--peer-llama-server", "server"]
    assert run(monkeypatch, "bench", *arguments, "--peer-url", "http://host:1/v1", "--arrival", "poisson") == 0
    ((systems, load, _),) = asked
    names = ["outrider", "outrider, exact on", "other checkout", "llama-server", "peer"]
    assert [system.name for system in systems] == names
    assert [setting.name for setting in systems[0].settings] == ["plain", "3", "7", "plain again"]
    assert [setting.name for setting in systems[2].settings] == ["plain", "3", "7"]
    peers = ["plain", "3", "7", "16/0.75", "ngram-simple", "ngram-mod"]
    assert [setting.name for setting in systems[3].settings] == peers
    assert load.rate == 1.0


def test_without_a_draft_lookup_is_measured(
    monkeypatch: pytest.MonkeyPatch, asked: list[tuple[list[System], Load, Course]]
) -> None:
    assert run(monkeypatch, "bench", "--target", __file__, "--prompts", "prose,chat") == 0
    ((systems, load, _),) = asked
    assert [setting.name for setting in systems[0].settings] == ["plain", "ngram", "plain again"]
    assert {prompt.kind for prompt in load.prompts} == {"prose", "chat"}


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([{"system": "outrider", "round": 0, "error": "x"}], "every run failed"),
        ([{"system": "llama-server", "error": "x"}], "there was no time for a run, give more of it with --budget"),
        ([], "there was no time for a run, give more of it with --budget"),
    ],
)
def test_where_nothing_was_measured_the_exit_code_says_so(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    failures: list[dict[str, object]],
    expected: str,
) -> None:
    async def fail(_systems: object, _load: object, _course: object, results: Results, *_: object) -> None:
        results.failures += failures

    monkeypatch.setattr(measuring, "_measure_and_tell", fail)
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "bench") == 1
    assert capsys.readouterr().err == f"outrider: nothing was measured: {expected}\n"


@pytest.mark.parametrize("ending", ["json", "md", "spans.jsonl"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: list[tuple[list[System], Load, Course]],
    tmp_path: Path,
    ending: str,
) -> None:
    (tmp_path / f"outrider-bench.{ending}").mkdir()
    assert run(monkeypatch, "bench") == 2
    expected = f"outrider: cannot write outrider-bench.{ending}, which is a folder: give another place with --out\n"
    assert capsys.readouterr().err == expected
    assert not asked


def test_a_folder_that_cannot_be_written_into_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: list[tuple[list[System], Load, Course]],
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert run(monkeypatch, "bench") == 2
    assert capsys.readouterr().err.startswith("outrider: cannot write into .")
    assert not asked


def test_a_disk_that_fills_up_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(StartupError, match=r"cannot write .*mine\.json: No space left on device"):
        Results({}, tmp_path / "mine.json").save()
    assert not list(tmp_path.iterdir())


def test_a_terminal_is_shown_what_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said: list[str] = []

    async def measure(_systems: object, _load: object, _course: object, results: Results) -> None:
        results.doing = "outrider, auto, 4 streams, round 2"

        def is_said() -> bool:
            said.append(capsys.readouterr().err)
            return "outrider, auto, 4 streams, round 2: 0 s so far, about 1" in "".join(said)

        await soon(is_said)

    monkeypatch.setattr(measuring, "run_bench", measure)
    monkeypatch.setattr(progress, "_SHOWN_AFTER_S", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "bench") == 1


def test_random_arrivals_are_the_same_for_a_seed() -> None:
    one, same, other = (Load([], 1, rate=2.0, seed=seed).delays_s(5) for seed in (1, 1, 2))
    assert one == same != other
    assert one[0] == 0.0
    assert one == sorted(one)
    assert Load([], 1).delays_s(5) == []
