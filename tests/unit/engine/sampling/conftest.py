"""The sampler in every form that this machine has."""

from collections.abc import Iterator

import pytest

from services.engine.sampling import kernel

if kernel.IS_COMPILED:
    from services.engine.sampling import _kernel

    VARIANTS = _kernel.available()
else:
    VARIANTS = ()


@pytest.fixture(params=["numpy", *VARIANTS])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every way to pass over a row that this machine has."""
    name = str(request.param)
    monkeypatch.setattr(kernel, "IS_COMPILED", name != "numpy")
    if name != "numpy":
        _kernel.select(name)
    yield name
    if VARIANTS:
        _kernel.select(VARIANTS[-1])
