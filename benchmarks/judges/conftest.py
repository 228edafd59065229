"""What every judge in Python is told: where the pair is served."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the address."""
    parser.addoption("--url", required=True, help="as in http://127.0.0.1:8080")


@pytest.fixture(scope="session")
def url(request: pytest.FixtureRequest) -> str:
    """Where the pair is served."""
    return str(request.config.getoption("--url"))
