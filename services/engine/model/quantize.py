"""llama.cpp's own quantization of a whole GGUF file: `python -m services.engine.model.quantize SOURCE TARGET TYPE`.

A process of its own, because llama.cpp cannot be interrupted between tensors and its assertions end the process.
"""

import ctypes
import os
import sys
from pathlib import Path

import llama_cpp

from services.engine.complaints import pop_complaint
from services.engine.control_groups import usable_cores
from services.engine.errors import EngineError
from services.frame.program.printable import one_line


def quantize_file(source: Path, target: Path, file_type: int, *, num_threads: int = 0) -> None:
    """Write `source` (F32, F16 or BF16) to `target` as `file_type`, a value of llama.cpp's `llama_ftype`.

    `num_threads` 0 takes all cores this process may use. What was written of `target` stays when this fails.

    Raises:
        EngineError: llama.cpp refused; the message ends in its reason.
    """
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = file_type
    parameters.nthread = num_threads or usable_cores()
    if llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(parameters)) != 0:
        raise EngineError(f"cannot quantize {source}: {pop_complaint()}")


def main() -> None:
    """Quantize as the command line says; on failure print one sentence and exit with 1."""
    source, target, file_type = sys.argv[1:]
    try:
        quantize_file(Path(source), Path(target), int(file_type))
    except EngineError as error:
        print(one_line(str(error)), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
