"""Models that keep a recurrent state, with the programs as users run them."""

import json
from pathlib import Path

import pytest

from tests.e2e.programs import run, serving
from tests.foreign_models import hybrid, recurrent

pytestmark = pytest.mark.e2e

ASKED = ("--max-tokens", "24", "--json", "def main(")


def test_a_hybrid_target_and_a_recurrent_draft(home: Path, tmp_path: Path) -> None:
    target, draft = hybrid(tmp_path / "target.gguf"), recurrent(tmp_path / "draft.gguf")
    fits = run(home, "pair", str(target), str(draft))
    assert (fits.returncode, fits.stdout) == (0, "the draft fits the target\n")
    with serving(home, "--target", str(target), "--draft", str(draft)) as system:
        address = ("--address", system.address)
        status = json.loads(run(home, "status", *address, "--json").stdout)
        assert [status[name]["model"]["architecture"] for name in ("target", "draft")] == ["lfm2", "mamba"]
        texts = []
        for speculation in ("off", "4", "auto"):
            finished = run(home, "generate", *address, "--speculation", speculation, *ASKED)
            assert (finished.returncode, finished.stderr) == (0, "")
            texts.append(json.loads(finished.stdout)["text"])
    assert len(set(texts)) == 1
    alone = run(home, "generate", "--target", str(target), "--draft", str(target), "--exact", "on", *ASKED)
    assert json.loads(alone.stdout)["text"] == texts[0]
