"""Settings under which an engine would never answer are refused."""

import pytest

from services.draft.settings import DraftSettings
from services.engine.startup.settings import EngineSettings
from services.frame.program.settings import load_settings, parse_settings
from services.frame.program.startup import StartupError
from services.target.settings import TargetSettings


@pytest.mark.parametrize(("batch_rows", "max_draft_tokens"), [(0, 64), (32, 16), (16, 0), (80, 64), (65536, 16)])
def test_a_batch_that_holds_a_whole_draft(batch_rows: int, max_draft_tokens: int) -> None:
    values = {"model": "model.gguf", "batch_rows": batch_rows, "max_draft_tokens": max_draft_tokens}
    assert load_settings(TargetSettings, values).batch_rows == batch_rows


@pytest.mark.parametrize(("batch_rows", "max_draft_tokens"), [(1, 0), (4, 16), (31, 16), (79, 64)])
def test_a_batch_too_small_for_a_draft(batch_rows: int, max_draft_tokens: int) -> None:
    values = {"model": "model.gguf", "batch_rows": batch_rows, "max_draft_tokens": max_draft_tokens}
    with pytest.raises(StartupError, match=f"--batch-rows must be 0 or at least {max_draft_tokens + 16}"):
        load_settings(TargetSettings, values)


@pytest.mark.parametrize(
    ("value", "chosen"),
    [("auto", "auto"), ("on", "on"), ("off", "off"), ("true", "on"), ("False", "off"), ("1", "on"), ("0", "off")],
)
@pytest.mark.parametrize("program", [TargetSettings, DraftSettings])
def test_flash_attention_was_a_switch(
    program: type[EngineSettings], value: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{program.model_config.get('env_prefix')}FLASH_ATTENTION", value)
    assert load_settings(program, {"model": "model.gguf"}).flash_attention == chosen


def test_flash_attention_is_no_other_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_settings(TargetSettings, ["--model", "model.gguf", "--flash-attention", "on"]).flash_attention == "on"
    monkeypatch.setenv("OUTRIDER_TARGET_FLASH_ATTENTION", "perhaps")
    with pytest.raises(StartupError, match=r"_FLASH_ATTENTION is 'perhaps': .*'auto', 'on' or 'off'"):
        load_settings(TargetSettings, {"model": "model.gguf"})


def test_more_layers_than_llama_cpp_can_count() -> None:
    with pytest.raises(StartupError, match=r"^--gpu-layers is 2147483648: "):
        load_settings(TargetSettings, {"model": "a.gguf", "gpu_layers": 2**31})
