"""`python -m services.engine.costs`: measure one model, or two in turn, and tell it on stdout in lines of JSON.

The first line is what will be measured and on what; each line after it is the times of one decode, and how many cores
other programs have kept busy so far. After each line this
process waits for a line on stdin, so that whoever reads has done with it before the next decode is timed on the same
cores. It ends where stdin ends.
"""

import services.frame.program.importing  # noqa: F401, I001  before what takes its time
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import psutil

from services.engine.complaints import ending_refused
from services.engine.costs.measured_model import MeasuredModel
from services.engine.costs.plan import DRAFT_ROWS, TARGET_ROWS, Shape
from services.engine.costs.rounds import run_rounds
from services.engine.errors import EngineError
from services.engine.runtime.devices import accelerators
from services.frame.program.output import CODE_FAILED, announce, guarded_output
from services.frame.program.startup import Parser, StartupError, refuse
from services.frame.program.version import VERSION

_PROGRAM = "outrider-costs"
_ROWS = {"target": TARGET_ROWS, "draft": DRAFT_ROWS}
_CPU_NAME = re.compile(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", re.MULTILINE)


class _NobodyListensError(Exception):
    """Stdin has ended."""


@dataclass(frozen=True)
class _Measured:
    """A decode of one of the models."""

    role: str
    shape: Shape

    @property
    def num_rows(self) -> int:
        """Rows of all sessions together."""
        return self.shape.num_rows

    def line(self) -> dict[str, object]:
        """Return its place, in the words of a file of costs."""
        setup = self.shape.setup
        return {
            "role": self.role,
            "sessions": self.shape.num_sessions,
            "rows": self.num_rows,
            "context": setup.context,
            "flash_attention": setup.flash_attention,
        }


@guarded_output(_PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    """Measure as the command line says; return the exit code. What cannot be measured is refused in a sentence."""
    started_s = time.perf_counter()
    parser = Parser(prog=_PROGRAM)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--gpu-layers", type=int, default=-1)
    parser.add_argument("--budget", type=float, required=True)
    try:
        options = parser.parse_args(argv)
        paths = {"target": options.target} | ({"draft": options.draft} if options.draft else {})
        with ending_refused(f"{_PROGRAM}: cannot measure"), ExitStack() as opened:
            models = {
                role: opened.enter_context(
                    MeasuredModel(
                        path,
                        _ROWS[role],
                        context=options.context,
                        num_threads=options.threads,
                        gpu_layers=options.gpu_layers,
                    )
                )
                for role, path in paths.items()
            }
            _run(models, options.slots, started_s + options.budget)
    except (EngineError, StartupError) as error:
        refuse(StartupError(str(error)), _PROGRAM)
    except _NobodyListensError:
        return CODE_FAILED
    return 0


def _run(models: Mapping[str, MeasuredModel], num_slots: int, end_s: float) -> None:
    plans = {role: model.plan(num_slots, 1 / len(models)) for role, model in models.items()}
    measured = [_Measured(role, shape) for role, plan in plans.items() for shape in plan.shapes]
    _tell(
        {
            "machine": machine(models["target"]),
            "models": {role: _describe(model) for role, model in models.items()},
            "settings": {
                "outrider": VERSION,
                "llama_cpp_python": llama_cpp.__version__,
                "system_info": llama_cpp.llama_print_system_info().decode().strip(),
                "threads": models["target"].threads,
            },
            "left_out": {role: list(plan.left_out) for role, plan in plans.items()},
            "planned": [each.line() for each in measured],
        }
    )

    started_s, busy_s = time.perf_counter(), _busy_elsewhere_s()

    def measure(each: _Measured) -> list[float]:
        times_s = models[each.role].measure(each.shape)
        busy_elsewhere = (_busy_elsewhere_s() - busy_s) / (time.perf_counter() - started_s)
        times_ms = [round(1e3 * time_s, 4) for time_s in times_s]
        _tell(each.line() | {"times_ms": times_ms, "busy_elsewhere": max(0.0, round(busy_elsewhere, 2))})
        return times_s

    run_rounds(measured, measure, end_s)


def _tell(line: Mapping[str, object]) -> None:
    """Say something, and return once it was taken in. Raises _NobodyListensError."""
    announce(json.dumps(line))
    if not sys.stdin.readline():
        raise _NobodyListensError


def _busy_elsewhere_s() -> float:
    """Return the seconds for which cores of this machine have been busy with anything but this process."""
    machine = psutil.cpu_times()
    busy_s = machine.user + machine.nice + machine.system + machine.irq + machine.softirq + machine.steal
    return float(busy_s - time.process_time())


def machine(model: MeasuredModel) -> str:
    """Return what decodes run on, in words: cores and processor, and GPUs where layers are there."""
    try:
        found = _CPU_NAME.search(Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    threads = model.threads
    cores = f"{threads} thread{'s' * (threads > 1)} on {found[1].strip() if found else 'an unknown processor'}"
    gpus = [gpu.name for gpu in accelerators()] if model.num_gpu_layers else []
    return ", ".join([*gpus, cores])


def _describe(measured: MeasuredModel) -> str:
    model = measured.model
    where = f", {measured.num_gpu_layers} layers on the GPU" if measured.num_gpu_layers > 0 else ""
    return f"{model.name}, {model.num_parameters / 1e6:.1f}M parameters, {model.quantization}{where}"


if __name__ == "__main__":
    sys.exit(main())
