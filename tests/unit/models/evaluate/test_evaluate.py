"""The whole evaluation over tiny models, and its report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from models.command import CommandError
from models.evaluate.__main__ import main
from models.evaluate.measure import GREEDY, HELD_OUT, MODES, SAMPLED, Metrics, measure
from models.evaluate.pair import Pair, PairError, Settings
from models.evaluate.report import BEGIN, END, draw_plot, table, update_card, write_metrics
from models.llama_gguf import read_llama, write_llama
from models.tiny import write_tiny_pair

SETTINGS = Settings(
    num_files=3,
    window=256,
    overlap=64,
    num_texts=5,
    prompt_tokens=32,
    acceptance_tokens=48,
    repetition_tokens=64,
    num_headers=5,
    header_prompt_tokens=64,
    header_tokens=24,
    timed_tokens=4,
)
TEXTS = [
    "\n\n".join(f"def {name}_{n}(a, b):\n    value = a * {n}\n    return value - b\n" for n in range(30))
    for name in ("function", "another", "third")
]


def ignore_progress(_task: str, _share: float) -> None:
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    write_tiny_pair(folder)
    return folder


@pytest.fixture(scope="module")
def metrics(folder: Path) -> Iterator[Metrics]:
    with Pair(folder / "target.gguf", folder / "draft.gguf", num_threads=2) as pair:
        yield measure(pair, TEXTS, SETTINGS, ignore_progress)


def test_figures_are_plausible(metrics: Metrics) -> None:
    assert metrics["target"]["num_parameters"] > metrics["draft"]["num_parameters"]
    for mode in MODES:
        for num_draft_tokens in (4, 8):
            figures = metrics["acceptance"][mode][f"{num_draft_tokens}_draft_tokens"]
            assert len(figures["per_position"]) == num_draft_tokens
            assert 0.3 < figures["mean_of_first_4"] < 1.0
            assert 1.0 < figures["mean_accepted_length"] < 1.0 + num_draft_tokens
    assert metrics["parse_rate"]["num_headers"] == 5
    assert metrics["parse_rate"][HELD_OUT] > 0
    assert 0 <= metrics["repeated_8_grams"][SAMPLED] < 0.5
    # A model of random weights is a worse guess than none.
    assert metrics["target"]["bits_per_byte"] > 8.0


def test_a_draft_that_is_the_target_is_always_accepted(folder: Path) -> None:
    with Pair(folder / "target.gguf", folder / "target.gguf", num_threads=1) as pair:
        metrics = measure(pair, TEXTS, SETTINGS, ignore_progress)

    assert metrics["target"]["bits_per_byte"] == metrics["draft"]["bits_per_byte"]
    for mode in MODES:
        assert metrics["acceptance"][mode]["8_draft_tokens"]["mean_of_first_4"] > 0.97


def test_figures_but_times_do_not_depend_on_the_number_of_threads(folder: Path, metrics: Metrics) -> None:
    with Pair(folder / "target.gguf", folder / "draft.gguf", num_threads=1) as pair:
        again = measure(pair, TEXTS, SETTINGS, ignore_progress)

    for kind in ("acceptance", "parse_rate", "repeated_8_grams"):
        assert again[kind] == metrics[kind]
    assert again["target"]["bits_per_byte"] == pytest.approx(metrics["target"]["bits_per_byte"])


def test_progress_of_every_task_ends_at_1(folder: Path) -> None:
    shares: dict[str, list[float]] = {}
    with Pair(folder / "target.gguf", folder / "draft.gguf", num_threads=1) as pair:
        measure(
            pair, TEXTS, replace(SETTINGS, num_texts=2), lambda task, share: shares.setdefault(task, []).append(share)
        )

    assert len(shares) == 8
    assert all(told == sorted(told) and told[-1] == 1.0 for told in shares.values())


def test_files_that_are_too_short_are_refused(folder: Path) -> None:
    with (
        Pair(folder / "target.gguf", folder / "draft.gguf", num_threads=1) as pair,
        pytest.raises(PairError, match="no held-out file has 96 tokens"),
    ):
        measure(pair, ["x = 1\n"], SETTINGS, ignore_progress)


def test_models_with_different_tokenizers_are_refused(folder: Path, tmp_path: Path) -> None:
    config, tensors, vocabulary = read_llama(folder / "draft.gguf")
    tokens = [*vocabulary.tokens[:-2], *reversed(vocabulary.tokens[-2:])]
    other = tmp_path / "other.gguf"
    write_llama(other, config, tensors, replace(vocabulary, tokens=tokens), name="other")

    with pytest.raises(PairError, match="different tokenizers"):
        Pair(folder / "target.gguf", other, num_threads=1)


def test_metrics_are_written_as_json(tmp_path: Path, metrics: Metrics) -> None:
    write_metrics(tmp_path / "metrics.json", metrics)

    assert json.loads((tmp_path / "metrics.json").read_text())["acceptance"] == metrics["acceptance"]


def test_the_card_gets_the_table_and_keeps_the_rest(tmp_path: Path, metrics: Metrics) -> None:
    card = tmp_path / "README.md"
    card.write_text(f"# Pair\n\n{BEGIN}\nold figures\n{END}\n\nLimits.\n")
    update_card(card, metrics)
    update_card(card, metrics)

    assert card.read_text() == f"# Pair\n\n{BEGIN}\n{table(metrics)}{END}\n\nLimits.\n"


@pytest.mark.parametrize("text", ["# Pair\n", f"{END}\n{BEGIN}\n"])
def test_a_card_without_markers_is_left_alone(tmp_path: Path, metrics: Metrics, text: str) -> None:
    card = tmp_path / "README.md"
    card.write_text(text)

    with pytest.raises(ValueError, match="has no lines"):
        update_card(card, metrics)
    assert card.read_text() == text


def test_the_table_shows_the_figures(metrics: Metrics) -> None:
    text = table(metrics)

    for figure in (
        f"{metrics['target']['bits_per_byte']:.3f}",
        f"{metrics['draft']['ms_per_token']:.2f}",
        f"{metrics['acceptance'][GREEDY]['4_draft_tokens']['mean_accepted_length']:.2f}",
        f"{metrics['repeated_8_grams'][HELD_OUT]:.4f}",
    ):
        assert figure in text
    blocks = [block.splitlines() for block in text.strip().split("\n\n")]
    assert [len({line.count("|") for line in block}) for block in blocks] == [1, 1, 1], "cells are missing"


def test_the_plot_is_the_same_for_the_same_figures(tmp_path: Path, metrics: Metrics) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        draw_plot(tmp_path / name, metrics)

    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "<svg" in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "absent"], "no folder absent"),
        (["--texts", "empty"], "no held-out file in empty"),
        (["--texts", "broken"], "cannot read"),
        (["--work-dir", "empty"], "models.train corpus"),
        (["--texts", "short", "--target", "absent.gguf"], "absent.gguf"),
        (["--texts", "short", "--draft", "corrupt.gguf"], "corrupt.gguf"),
        (["--texts", "short"], "no held-out file has"),
        (["--threads", "-1"], "--threads"),
        (["--unknown"], "--unknown"),
    ],
)
def test_bad_input_is_one_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "short", "broken", "output"):
        (tmp_path / name).mkdir()
    (tmp_path / "short" / "file.py").write_bytes(b"x = 1\n")
    (tmp_path / "broken" / "file.py").write_bytes(b"\xff\n")
    (tmp_path / "corrupt.gguf").write_bytes((folder / "draft.gguf").read_bytes()[:4000])

    with pytest.raises(CommandError) as raised:
        main(["--pair", str(folder), "--output", "output", *arguments])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert list((tmp_path / "output").iterdir()) == []


def test_the_command_writes_figures_card_and_plot(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text(f"{BEGIN}\n{END}\n")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "file.py").write_text(TEXTS[0])
    texts = ["--texts", str(tmp_path / "texts")]
    main(["--pair", str(folder), "--output", str(tmp_path), *texts, "--quick", "--threads", "1"])

    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert table(metrics) in (tmp_path / "README.md").read_text()
    assert "bits per byte" in capsys.readouterr().out
