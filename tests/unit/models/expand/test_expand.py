"""Expansion: the same logits from a larger file, through every type; and nothing left of what cannot be."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import platformdirs
import pytest

from models.command import CommandError
from models.expand.__main__ import main
from models.expand.expansion import Expansion
from models.expand.shape import LOW_BIT_TYPES, PRESETS, ExpansionError, Shape, estimated_bytes, expanded_config
from models.llama_gguf import MATRIX_TYPES, LlamaConfig, LlamaFile, ModelFileError, read_llama, tensor_shapes
from models.tiny import write_tiny_model
from services.engine.model.model import Model
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions, Segment
from tests.unit.models.expand.reference_llama import reference_logits

ROOT = Path(__file__).resolve().parents[4]
SHAPE = Shape(dim=160, num_layers=3, ffn=192)
BLOCK_SHAPE = Shape(dim=256, num_layers=3, ffn=512)
PAIR_TARGET = LlamaConfig(
    dim=384, num_layers=6, num_heads=6, num_kv_heads=6, ffn=1024, vocab_size=4096, context_length=2048
)
PROMPTS = [f"def function_{number}(argument):\n    return {number}" for number in range(20)]


def ignore_progress(_task: str, _share: float) -> None:
    pass


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny.gguf", dim=64, num_layers=2, ffn=128)


def expanded(model: Path, output: Path, shape: Shape, file_type: str = "F32", *, seed: int = 0) -> Path:
    Expansion.plan(model, shape, file_type, seed=seed).write(output, ignore_progress)
    return output


def greedy_texts(path: Path, num_tokens: int = 24) -> list[list[int]]:
    """What llama.cpp writes after each of PROMPTS."""
    loaded = Model(path)
    runtime = LlamaRuntime(loaded, RuntimeOptions(num_slots=1, context_length=256, num_threads=1))
    texts = []
    for prompt in PROMPTS:
        tokens = loaded.vocabulary.tokenize(prompt, add_bos=True, parse_special=False)
        runtime.cut(0, 0)
        written: list[int] = []
        pending: Sequence[int] = tokens
        for _ in range(num_tokens):
            position = len(tokens) + len(written) - len(pending)
            (logits,) = runtime.decode([Segment(0, position, pending, 1)])
            written.append(int(logits[-1].argmax()))
            pending = written[-1:]
        texts.append(written)
    runtime.close()
    loaded.close()
    return texts


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_expanded_logits_are_the_original_ones(tmp_path: Path, num_kv_heads: int, is_tied: bool) -> None:
    model = write_tiny_model(tmp_path / "m.gguf", dim=128, num_kv_heads=num_kv_heads, is_tied=is_tied)
    config, tensors, vocabulary = read_llama(model)
    large = expanded(model, tmp_path / "large.gguf", Shape(dim=384, num_layers=5, ffn=320))
    large_config, large_tensors, large_vocabulary = read_llama(large)
    tokens = [0, *np.random.default_rng(5).integers(2, config.vocab_size, 48).tolist()]

    original = reference_logits(config, tensors, tokens)
    difference = reference_logits(large_config, large_tensors, tokens) - original

    assert np.abs(difference).max() < 1e-4 < original.std()
    assert large_vocabulary == vocabulary
    assert large_config.head_size == config.head_size
    assert large_config.num_heads // large_config.num_kv_heads == config.num_heads // config.num_kv_heads
    assert (large_config.dim, large_config.num_layers, large_config.ffn) == (384, 5, 320)


def test_the_reference_is_what_llama_cpp_computes(model: Path) -> None:
    config, tensors, _ = read_llama(model)
    tokens = [0, *np.random.default_rng(6).integers(2, config.vocab_size, 30).tolist()]
    loaded = Model(model)
    runtime = LlamaRuntime(loaded, RuntimeOptions(num_slots=1, context_length=256, num_threads=1))
    (logits,) = runtime.decode([Segment(0, 0, tokens, len(tokens))])

    # llama.cpp keeps keys and values in half precision.
    np.testing.assert_allclose(logits, reference_logits(config, tensors, tokens), rtol=0, atol=0.05)
    runtime.close()
    loaded.close()


def test_llama_cpp_writes_the_same_text_with_an_expanded_model(tmp_path: Path, model: Path) -> None:
    assert greedy_texts(expanded(model, tmp_path / "large.gguf", SHAPE)) == greedy_texts(model)


def test_what_is_added_is_dense_and_what_it_feeds_is_zero(tmp_path: Path, model: Path) -> None:
    _, old, _ = read_llama(model)
    _, new, _ = read_llama(expanded(model, tmp_path / "large.gguf", SHAPE))

    for name, values in new.items():
        part = name.split(".")[-2]
        rows, columns = (*old.get(name, np.zeros((0, 0))).shape, 0)[:2]
        if part in {"attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"}:
            assert np.count_nonzero(values[rows:]) > 0.99 * values[rows:].size > 0
            assert not values[:rows, columns:].any()
        elif values.ndim == 2:
            assert not values[rows:].any() and not values[:, columns:].any()


@pytest.mark.parametrize("file_type", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K"])
def test_every_type_is_written_and_loads(tmp_path: Path, model: Path, file_type: str) -> None:
    path = expanded(model, tmp_path / "large.gguf", BLOCK_SHAPE, file_type)

    Model(path).close()
    file = LlamaFile(path)
    assert (file.config.dim, file.config.num_layers, file.config.ffn) == (256, 3, 512)
    assert file.fields["general.file_type"].value == (MATRIX_TYPES | LOW_BIT_TYPES)[file_type]
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_type_says_the_same(tmp_path: Path) -> None:
    """Rounding to a type twice is rounding once, so an expansion within a type loses nothing."""
    model = write_tiny_model(tmp_path / "m.gguf", file_type="Q8_0")
    _, old, _ = read_llama(model)
    _, new, _ = read_llama(expanded(model, tmp_path / "large.gguf", SHAPE, "Q8_0"))

    for name, values in old.items():
        if values.ndim == 2:
            np.testing.assert_array_equal(new[name][: values.shape[0], : values.shape[1]], values)


def test_the_seed_decides_every_byte(tmp_path: Path, model: Path) -> None:
    files = [
        expanded(model, tmp_path / f"{number}.gguf", SHAPE, seed=seed).read_bytes()
        for number, seed in enumerate((1, 1, 2))
    ]

    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("vocab_size", [4096, 8192])
@pytest.mark.parametrize("is_tied", [True, False])
def test_the_1b_preset_has_the_size_it_is_named_for(vocab_size: int, is_tied: bool) -> None:
    config = expanded_config(replace(PAIR_TARGET, vocab_size=vocab_size), PRESETS["1b"], "BF16")

    assert estimated_bytes(config, "BF16", is_tied=is_tied) == pytest.approx(1.66e9, rel=0.05)


@pytest.mark.parametrize("name", ["1b", "3b", "8b"])
def test_a_draft_preset_costs_about_a_thirtieth(name: str) -> None:
    def weights(preset: str) -> int:
        config = expanded_config(
            replace(PAIR_TARGET, dim=192, ffn=512, num_heads=3, num_kv_heads=3), PRESETS[preset], "F16"
        )
        return sum(map(prod, tensor_shapes(config).values()))

    assert weights(name) / weights(f"draft-{name}") == pytest.approx(30, rel=0.1)


BAD_SIZES = {
    "smaller dim": (Shape(32, 2, 128), "F32", "--dim 32 is below"),
    "fewer layers": (Shape(64, 1, 128), "F32", "--layers 1 is below"),
    "smaller ffn": (Shape(64, 2, 96), "F32", "--ffn 96 is below"),
    "no multiple of the head size": (Shape(80, 2, 128), "F32", "--dim 80 is not a multiple of 32, the head size"),
    "dim against the block": (Shape(96, 2, 256), "Q4_K_M", "--dim 96 is not a multiple of 256"),
    "ffn against the block": (Shape(256, 2, 130), "Q8_0", "--ffn 130 is not a multiple of 32"),
    "unknown type": (Shape(64, 2, 128), "Q9_X", "unknown type 'Q9_X'"),
}


@pytest.mark.parametrize("case", BAD_SIZES)
def test_sizes_that_cannot_be_are_refused(model: Path, case: str) -> None:
    shape, file_type, message = BAD_SIZES[case]

    with pytest.raises(ExpansionError, match=message):
        Expansion.plan(model, shape, file_type)


def test_shared_key_value_heads_stay_together(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "m.gguf", dim=128, num_kv_heads=2)

    with pytest.raises(ExpansionError, match="not a multiple of 64, 2 heads that share"):
        Expansion.plan(model, Shape(160, 2, 256), "F32")


def interrupt(_task: str, share: float) -> None:
    if share > 0.5:
        raise KeyboardInterrupt


@pytest.mark.parametrize("file_type", ["F32", "Q4_K_M"])
def test_an_interruption_leaves_nothing(tmp_path: Path, model: Path, file_type: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        Expansion.plan(model, BLOCK_SHAPE, file_type).write(tmp_path / "large.gguf", interrupt)

    assert list(tmp_path.iterdir()) == []


def test_a_failing_quantization_leaves_nothing(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expansion = Expansion.plan(model, BLOCK_SHAPE, "Q4_K_M")
    monkeypatch.setattr(sys, "executable", shutil.which("false"))

    with pytest.raises(ExpansionError, match=r"llama\.cpp could not make Q4_K_M"):
        expansion.write(tmp_path / "large.gguf", ignore_progress)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_too_full_is_seen_before_writing(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage(10**6, 10**6, 1000))

    with pytest.raises(ExpansionError, match="the disk is too full"):
        Expansion.plan(model, SHAPE, "F32").write(tmp_path / "large.gguf", ignore_progress)
    assert list(tmp_path.iterdir()) == []


def test_the_model_itself_is_never_replaced(model: Path) -> None:
    before = model.read_bytes()

    with pytest.raises(CommandError, match="choose another output"):
        main([str(model), "--dim", "64", "--layers", "2", "--ffn", "128", "--output", str(model), "--force"])
    assert model.read_bytes() == before


SIZES = ["--dim", "160", "--layers", "3", "--ffn", "192", "--type", "F32"]


def test_an_existing_output_is_replaced_only_by_force(tmp_path: Path, model: Path) -> None:
    output = tmp_path / "large.gguf"
    output.write_bytes(b"mine")

    with pytest.raises(CommandError, match="exists already"):
        main([str(model), *SIZES, "--output", str(output)])
    assert output.read_bytes() == b"mine"
    main([str(model), *SIZES, "--output", str(output), "--force"])
    assert LlamaFile(output).config.dim == 160


def test_a_user_without_a_home_folder(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2_000_000_000)
    with pytest.raises(CommandError, match=r"^there is no home folder to keep files in: "):
        main([str(model), *SIZES])


def test_the_cache_holds_one_file_per_model_shape_and_type(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda application: tmp_path / application)
    for arguments in (SIZES, SIZES, [*SIZES, "--type", "F16"], [*SIZES, "--seed", "3"]):
        main([str(model), *arguments])
    printed = capsys.readouterr()

    paths = [Path(line) for line in printed.out.splitlines()]
    assert paths[0] == paths[1]
    assert set(paths) == set((tmp_path / "outrider" / "models").iterdir())
    assert len(set(paths)) == 3
    assert printed.err.count("exists already") == 1


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[:-40], lambda whole: b"text" * 100])
def test_a_damaged_file_in_the_cache_is_made_anew(
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[bytes], bytes],
) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda application: tmp_path / application)
    main([str(model), *SIZES])
    path = Path(capsys.readouterr().out.strip())
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    main([str(model), *SIZES])
    warning, *others = capsys.readouterr().err.splitlines()
    assert str(path) in warning and warning.endswith("making it anew")
    assert not others
    assert path.read_bytes() == whole


def test_without_a_home_a_place_is_asked_for(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda application: Path("~/.cache") / application)
    with pytest.raises(CommandError, match="there is no home folder to keep files in: set XDG_CACHE_HOME"):
        main([str(model), *SIZES])
    assert not Path("~").exists()


BAD_ARGUMENTS = {
    "no model": ([], "MODEL"),
    "no sizes": (["MODEL"], "--dim and --layers and --ffn must be given"),
    "unknown preset": (["MODEL", "--preset", "2b"], "--preset"),
    "zero": (["MODEL", "--dim", "0"], "at least 1"),
    "no number": (["MODEL", "--dim", "x"], "--dim"),
    "missing model": (["absent.gguf", *SIZES], "absent.gguf"),
    "missing folder": (["MODEL", *SIZES, "--output", "absent/large.gguf"], "no folder absent"),
    "folder": (["MODEL", *SIZES, "--output", "."], "is a folder"),
    "corrupt model": (["corrupt.gguf", *SIZES], "not a valid GGUF"),
    "smaller": (["MODEL", "--dim", "32", "--layers", "2", "--ffn", "128"], "below"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_input_is_one_sentence(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    arguments, message = BAD_ARGUMENTS[case]
    (tmp_path / "corrupt.gguf").write_bytes(model.read_bytes()[:3000])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda application: tmp_path / application)

    with pytest.raises(CommandError) as raised:
        main([str(model) if argument == "MODEL" else argument for argument in arguments])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["corrupt.gguf"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "models.expand", *arguments]


def test_the_process_ends_with_2_and_one_line(tmp_path: Path) -> None:
    ended = subprocess.run(
        command(str(tmp_path / "absent.gguf"), "--preset", "1b"), check=False, cwd=ROOT, capture_output=True, text=True
    )

    assert ended.returncode == 2
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert "Traceback" not in ended.stderr


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, model: Path) -> None:
    arguments = command(str(model), *SIZES, "--output", str(tmp_path / "large.gguf"))
    limited = ["sh", "-c", 'ulimit -f 200; exec "$@"', "sh", *arguments]
    ended = subprocess.run(limited, check=False, cwd=ROOT, capture_output=True, text=True)

    assert ended.returncode == 2
    assert "cannot write" in ended.stderr and len(ended.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(tmp_path: Path, model: Path, number: signal.Signals) -> None:
    arguments = command(str(model), "--preset", "1b", "--output", str(tmp_path / "large.gguf"))
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not any(path.stat().st_size for path in tmp_path.iterdir()):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, number)
    _, complaint = process.communicate()

    assert process.returncode == 128 + number
    assert complaint.count("\n") == 1 and "nothing was written" in complaint
    assert list(tmp_path.iterdir()) == []


def test_a_corrupt_model_is_refused(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "corrupt.gguf"
    path.write_bytes(model.read_bytes()[:-40])

    with pytest.raises(ModelFileError, match="not a valid GGUF"):
        Expansion.plan(path, SHAPE, "F32")
