"""Accidents that happen to the target service of a command: code that its process runs before ours."""

import os
from pathlib import Path

from tests.e2e.programs import environment

# Python imports it at every start.
_MODULE = "sitecustomize.py"
_BEGIN = """
import os, pathlib, sys, time
folder = pathlib.Path(__file__).parent
if "services.target" in sys.orig_argv:
"""
CRASH_AT_ONCE = """
    print("no such instruction", file=sys.stderr, flush=True)
    os.abort()
"""
CRASH_WHILE_LOADING = """
    import llama_cpp

    def crash(*_):
        print("a bad tensor", file=sys.stderr, flush=True)
        os.abort()

    llama_cpp.llama_model_load_from_file = crash
"""
# Until there is a file `open`, or until llama.cpp would be told to give up.
LOAD_SLOWLY = """
    import llama_cpp

    load = llama_cpp.llama_model_load_from_file

    def slowly(path, parameters):
        while not (folder / "open").exists():
            if not parameters.progress_callback(0.5, None):
                return None
            time.sleep(0.005)
        return load(path, parameters)

    llama_cpp.llama_model_load_from_file = slowly
"""
PROBE_FOR_EVER = """
    import services.engine.startup.probe

    services.engine.startup.probe._MIN_ROWS = float("inf")
"""


def cause(folder: Path, accident: str) -> dict[str, str]:
    """Prepare an accident in a folder; return the variables with which programs have it."""
    folder.mkdir()
    (folder / _MODULE).write_text(_BEGIN + accident)
    return {"PYTHONPATH": os.pathsep.join((str(folder), environment(folder)["PYTHONPATH"]))}


def open_gate(folder: Path) -> None:
    """Let a target that loads slowly go on."""
    (folder / "open").touch()
