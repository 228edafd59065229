"""The files of the page, as they are served."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from orchestrator.http import page
from orchestrator.http.page.routes import PAGE_PATHS
from tests.unit.orchestrator.http.scripted_face import face

FOLDER = Path(page.__file__).parent
FILES = [path for path in sorted(FOLDER.iterdir()) if path.suffix not in (".py", "")]
TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}


def path_of(file: Path) -> str:
    return "/" if file.name == "index.html" else f"/page/{file.name}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
async def test_each_file_is_served_as_what_it_is(file: Path) -> None:
    assert path_of(file) in PAGE_PATHS
    async with face() as made:
        answer = await made.client.get(path_of(file))
        assert answer.content == file.read_bytes()
        assert answer.headers["content-type"].partition(";")[0] == TYPES[file.suffix]
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = await made.client.get(path_of(file), headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


async def test_the_page_is_there_before_there_are_models() -> None:
    async with face() as made:
        made.registry.is_open = False
        assert [(await made.client.get(path)).status_code for path in PAGE_PATHS] == [200] * len(PAGE_PATHS)
        assert (await made.client.get("/v1/models")).status_code == 503


async def test_the_page_is_no_part_of_the_api() -> None:
    async with face() as made:
        assert not set((await made.client.get("/openapi.json")).json()["paths"]) & set(PAGE_PATHS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_file_names_only_its_neighbours(file: Path) -> None:
    """What is inline would be refused by the page's own policy."""
    text = file.read_text()
    named = re.findall(r'(?:href|src)="([^"#]+)"|from "\./([^"]+)"', text)
    names = {(page or module).removeprefix("page/") for page, module in named} - {"docs"}
    assert names <= {each.name for each in FILES}
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|<style|\sstyle=|\son\w+=|@import|url\(", text)


def test_each_file_is_in_the_wheel() -> None:
    project = tomllib.loads((FOLDER.parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["orchestrator.http.page"]
    assert [file.name for file in FILES if not any(fnmatch(file.name, pattern) for pattern in patterns)] == []
