"""What the corpus is made of: packages with their versions, and what is left out of them."""

from __future__ import annotations

PACKAGES: tuple[str, ...] = (
    "annotated-types==0.8.0",
    "anyio==4.16.0",
    "attrs==26.1.0",
    "click==8.5.1",
    "coverage==7.17.3",
    "filelock==4.2.11",
    "fsspec==2026.9.0",
    "gguf==0.19.0",
    "grpcio==1.85.1",
    "grpcio-health-checking==1.85.1",
    "grpcio-reflection==1.85.1",
    "grpcio-status==1.85.1",
    "grpcio-tools==1.85.1",
    "huggingface_hub==2.4.0",
    "iniconfig==2.3.1",
    "jinja2==3.1.6",
    "markdown-it-py==4.3.0",
    "markupsafe==3.0.4",
    "mypy==2.4.1",
    "networkx==3.6.1",
    "numpy==2.4.6",
    "opentelemetry-api==1.45.2",
    "opentelemetry-exporter-otlp-proto-common==1.45.2",
    "opentelemetry-exporter-otlp-proto-grpc==1.45.2",
    "opentelemetry-sdk==1.45.2",
    "packaging==26.3",
    "pip==26.3",
    "platformdirs==4.14.5",
    "pluggy==1.7.0",
    "protobuf==7.36.2",
    "pydantic==2.14.3",
    "pydantic-settings==2.16.3",
    "pytest==9.2.0",
    "pytest-asyncio==1.5.0",
    "python-dotenv==1.2.4",
    "requests==2.34.2",
    "rich==15.0.0",
    "setuptools==84.2.1",
    "shellingham==1.5.4",
    "typer==0.29.2",
    "typing-extensions==4.16.0",
    "typing-inspection==0.4.5",
    "urllib3==2.8.0",
    "wheel==0.48.0",
)
"""Pinned, so that the corpus can be made again; installed without their dependencies, so that nothing else gets in."""

PERMISSIVE = ("MIT", "BSD", "APACHE", "PSF", "PYTHON SOFTWARE FOUNDATION", "ISC")
COPYLEFT = ("GPL", "LGPL", "AGPL", "MPL", "MOZILLA", "EPL", "CDDL")

STDLIB_LICENCE = "PSF-2.0"

SKIPPED_FOLDERS = frozenset(
    {
        "test", "tests", "testing", "idle_test", "lib2to3", "turtledemo", "pydoc_data", "encodings",
        "site-packages", "__pycache__", "_vendor", "vendor", "_vendored", "typeshed", "distutils", "lib-dynload",
    }
)  # fmt: skip
"""Tests, tables, vendored copies; distutils, because setuptools ships a newer copy of it."""
