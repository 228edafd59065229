"""The compiled part; everything else is declared in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "services.engine.sampling._kernel",
            sources=["services/engine/sampling/_kernel.c", "services/engine/sampling/_vector.c"],
            depends=["services/engine/sampling/_vector.h"],
            extra_compile_args=["-O3"],
            # Without a compiler the sampler does the same in numpy, slower.
            optional=True,
        )
    ]
)
