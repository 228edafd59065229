"""aiperf on chats that stream, with prompts of a file and the server's own counts: what it reports of drafts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

URL = os.environ["OUTRIDER_URL"]
PROMPTS = ("def main(argv):\n", "import os\nimport ", "class Stack:\n", "for line in lines:\n")
NUM_REQUESTS, NUM_TOKENS = 8, 32


def save_tokenizer(folder: Path) -> None:
    """Write a tokenizer of single bytes: one is loaded even where all counts are the server's."""
    letters = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run of aiperf left."""
    path = tmp_path_factory.mktemp("aiperf")
    save_tokenizer(path / "tokenizer")
    prompts = path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"text": prompt}) + "\n" for prompt in PROMPTS))
    options = {
        "--model": "target",
        "--url": URL,
        "--endpoint-type": "chat",
        "--input-file": prompts,
        "--custom-dataset-type": "single_turn",
        "--tokenizer": path / "tokenizer",
        "--concurrency": 2,
        "--request-count": NUM_REQUESTS,
        "--artifact-dir": path / "out",
        "--ui": "none",
    }
    flags = ("--streaming", "--use-server-token-count", "--extra-inputs", "temperature:0", f"max_tokens:{NUM_TOKENS}")
    command = [Path(sys.executable).with_name("aiperf"), "profile", *flags]
    for option in options.items():
        command += map(str, option)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return path / "out"


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    """What it reports of the requests."""
    told: dict[str, Any] = json.loads((folder / "profile_export_aiperf.json").read_text())
    return told


def test_every_request_is_answered(report: dict[str, Any]) -> None:
    assert report["request_count"]["avg"] == NUM_REQUESTS
    assert report["request_error_rate"]["avg"] == 0 and not report["error_summary"]


def test_tokens_are_counted_by_the_server(report: dict[str, Any]) -> None:
    assert report["total_usage_completion_tokens"]["avg"] == NUM_REQUESTS * NUM_TOKENS
    assert report["output_sequence_length"]["avg"] == NUM_TOKENS


def test_acceptance_is_reported(report: dict[str, Any]) -> None:
    assert report["spec_decode_acceptance_length"]["avg"] > 1
    assert 0 < report["spec_decode_overall_draft_acceptance_rate"]["avg"] <= 100
    histogram = report["pooled_spec_decode_acceptance_histogram"]
    assert sum(histogram.values()) == report["total_spec_decode_steps"]["avg"] > 0


def test_usage_says_the_same_of_drafts(report: dict[str, Any]) -> None:
    accepted = report["total_usage_accepted_prediction_tokens"]["avg"]
    drafted = accepted + report["total_usage_rejected_prediction_tokens"]["avg"]
    assert accepted == report["spec_decode_accepted_draft_tokens"]["sum"]
    assert drafted == report["spec_decode_draft_tokens"]["sum"]


def test_the_page_of_metrics_is_read(folder: Path) -> None:
    metrics = json.loads((folder / "server_metrics_export.json").read_text())["metrics"]
    names = ("num_drafts", "num_draft_tokens", "num_accepted_tokens", "num_accepted_tokens_per_pos")
    assert {f"vllm:spec_decode_{name}" for name in names} <= set(metrics)
    assert {"vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"} <= set(metrics)
