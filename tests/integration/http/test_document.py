"""What docs/http.md says is so: its lines for a shell, and what it says of fields and paths."""

import asyncio
import json
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.http.faces import Faces, both_faces, chatting_model, url_of
from tests.npm import install_packages
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

ROOT = Path(__file__).parents[3]
DOCUMENT, README = ((ROOT / name).read_text() for name in ("docs/http.md", "README.md"))
LINES = [line for text in (DOCUMENT, README) for line in re.findall(r"^    (curl (?:.*\\\n)*.*)$", text, re.MULTILINE)]
# OpenAI's client for Node.js asks for 22 and works with 20.
OLDEST_NODE = 20
# Another one in each language would need a name here.
SNIPPETS = dict(re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def faces(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Faces]:
    async with both_faces(chatting_model(tmp_path_factory.mktemp("chatting"))) as faces:
        yield faces


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
@pytest.mark.parametrize("line", LINES)
async def test_its_lines_for_a_shell_work(faces: Faces, line: str) -> None:
    called = line.replace("http://127.0.0.1:8080", url_of(faces.orchestrator))
    assert called != line
    process = await asyncio.create_subprocess_shell(called, stdout=asyncio.subprocess.PIPE)
    answer, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 0
    *_, last = answer.decode().replace("data: [DONE]", "").strip().removeprefix("data: ").split("\ndata: ")
    told = json.loads(last)
    assert told["outrider"]["seed"] >= 0 if " -d " in line else told["data"], told


async def test_the_snippet_in_python_works(faces: Faces, tmp_path: Path) -> None:
    script = tmp_path / "snippet.py"
    script.write_text(SNIPPETS["python"].replace("http://127.0.0.1:8080", url_of(faces.orchestrator)))
    process = await asyncio.create_subprocess_exec(sys.executable, "-P", script, stdout=asyncio.subprocess.PIPE)
    said, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 0
    assert b"completion_tokens=32" in said


@pytest.fixture
def npm_folder(tmp_path: Path) -> Path:
    """A folder with OpenAI's client for Node.js, of the version that benchmarks/judges takes."""
    shutil.copy(ROOT / "benchmarks/judges/package.json", tmp_path)
    install_packages(tmp_path, OLDEST_NODE)
    return tmp_path


async def test_the_snippet_in_javascript_works(faces: Faces, npm_folder: Path) -> None:
    script = npm_folder / "snippet.mjs"
    script.write_text(SNIPPETS["javascript"].replace("http://127.0.0.1:8080", url_of(faces.orchestrator)))
    process = await asyncio.create_subprocess_exec("node", script, stdout=asyncio.subprocess.PIPE)
    said, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 0
    assert b"completion_tokens: 32" in said


async def test_it_names_all_paths(faces: Faces) -> None:
    paths = (await faces.http.get("/openapi.json")).json()["paths"]
    missing = [path for path in paths if f"`{path}" not in DOCUMENT and not path.startswith("/v1/models/")]
    assert not missing


async def test_what_changes_nothing_is_on_its_list(faces: Faces) -> None:
    schemas = (await faces.http.get("/openapi.json")).json()["components"]["schemas"]
    silent = {
        name
        for schema in schemas.values()
        for name, field in schema.get("properties", {}).items()
        if str(field.get("description", "")).startswith("changes nothing")
    }
    assert silent > {"user", "metadata"}
    # Of items that are sent back, and within objects that are named.
    within = {"id", "status", "phase", "signature", "logprobs", "display", "generate_summary", "include_obfuscation"}
    within |= {"summary"}
    listed = (
        " ".join(DOCUMENT.split()).partition("Fields that clients send and that change nothing:")[2].partition("##")[0]
    )
    assert not [name for name in silent - within if f"`{name}`" not in listed]
