"""What no field of a file tells of a model is found by trying it."""

from pathlib import Path

import pytest

from services.frame.program.startup import StartupError
from tests import foreign_models
from tests.integration.services import draft_server, target_server

pytestmark = pytest.mark.integration


async def test_a_model_that_gives_no_logits_is_refused(tmp_path: Path) -> None:
    """One for embeddings, whose file is that of a usual decoder: its logits are zeros."""
    path = foreign_models.embedder(tmp_path / "model.gguf")
    for server in (target_server, draft_server):
        with pytest.raises(StartupError, match=r"cannot serve model\.gguf: its logits are the same whatever the text"):
            async with server(path):
                pass
