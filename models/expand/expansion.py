"""Expanding a model file into another file, whichever type it is to have."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

from models.expand.shape import LOW_BIT_TYPES, ExpansionError, Shape, estimated_bytes, expanded_config
from models.expand.tensors import write_expanded
from models.llama_gguf import LlamaConfig, LlamaFile, tensor_shapes
from services.frame.program.atomic_file import replacing

_INTERMEDIATE_TYPE = "F16"  # what llama.cpp quantizes: of the types of two bytes, the one that rounds weights least
_POLL_S = 0.2

OnProgress = Callable[[str, float], None]
"""Told what is being done and about which share of it is done."""


@dataclass(frozen=True)
class Expansion:
    """A model to be expanded, found to be possible; make it with `plan`."""

    source: LlamaFile
    config: LlamaConfig
    file_type: str
    seed: int

    @classmethod
    def plan(cls, model: Path, shape: Shape, file_type: str, *, seed: int = 0) -> Expansion:
        """Looks at `model` and what is wanted of it; `file_type` is one of `shape.TYPES`.

        Raises ModelFileError for a file that is no llama model, ExpansionError for what cannot be made of it.
        """
        source = LlamaFile(model)
        config = expanded_config(source.config, shape, file_type)
        if file_type in LOW_BIT_TYPES and importlib.util.find_spec("llama_cpp") is None:
            raise ExpansionError(f"llama.cpp makes {file_type}: install the extra 'engine', or choose another type")
        return cls(source, config, file_type, seed)

    def write(self, output: Path, on_progress: OnProgress) -> None:
        """Writes the expanded model to `output`, whose folder must exist, holding one tensor in memory at a time.

        Raises ExpansionError when the disk is too full, `output` is the model itself or llama.cpp refuses,
        ModelFileError when a weight cannot be stored in the type, OSError when writing fails. Then, and on
        KeyboardInterrupt and SystemExit, nothing is left behind.
        """
        if output.exists() and output.samefile(self.source.path):
            raise ExpansionError(f"{output} is the model to be expanded: choose another output")
        self._check_free_space(output.parent)
        if self.file_type not in LOW_BIT_TYPES:
            self._write(output, self.file_type, on_progress)
            return
        with replacing(output) as temporary, TemporaryDirectory(prefix=".expand-", dir=output.parent) as folder:
            intermediate = Path(folder) / "intermediate.gguf"
            self._write(intermediate, _INTERMEDIATE_TYPE, on_progress)
            size = self._estimated_bytes(self.file_type)
            task = f"making {self.file_type}"
            _quantize(intermediate, temporary, self.file_type, lambda num_bytes: on_progress(task, num_bytes / size))
            LlamaFile(temporary)  # llama.cpp does not look whether its last bytes reached the disk

    def _write(self, path: Path, file_type: str, on_progress: OnProgress) -> None:
        total = sum(map(prod, tensor_shapes(self.config, is_tied=self.source.is_tied).values()))
        done = 0

        def count(num_values: int) -> None:
            nonlocal done
            done += num_values
            on_progress(f"writing {file_type}", done / total)

        write_expanded(self.source, path, self.config, file_type, seed=self.seed, on_values=count)

    def _check_free_space(self, folder: Path) -> None:
        needed = self._estimated_bytes(self.file_type)
        if self.file_type in LOW_BIT_TYPES:
            needed += self._estimated_bytes(_INTERMEDIATE_TYPE)
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise ExpansionError(
                f"the disk is too full: {needed / 1e9:.2f} GB are needed in {folder}, {free / 1e9:.2f} GB are free"
            )

    def _estimated_bytes(self, file_type: str) -> int:
        return estimated_bytes(self.config, file_type, is_tied=self.source.is_tied)


def _quantize(source: Path, target: Path, file_type: str, on_bytes: Callable[[int], None]) -> None:
    arguments = [str(source), str(target), str(int(LOW_BIT_TYPES[file_type]))]
    command = [sys.executable, "-P", "-m", "services.engine.model.quantize", *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as child:
        try:
            complaint = _wait(child, lambda: on_bytes(target.stat().st_size))
        except BaseException:
            child.kill()
            raise
    if child.returncode != 0:
        lines = complaint.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"its process ended with {child.returncode}"
        raise ExpansionError(f"llama.cpp could not make {file_type}: {reason}")


def _wait(child: subprocess.Popen[bytes], on_wait: Callable[[], None]) -> bytes:
    while True:
        try:
            return child.communicate(timeout=_POLL_S)[1]
        except subprocess.TimeoutExpired:
            on_wait()
