"""The machine that is measured on, and what processes take of it: processor time, memory, the GPU."""

import asyncio
import contextlib
import os
import platform
import re
import shutil
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from services.frame.program.version import VERSION, version_of

# A process that is asked for has ended.
GoneError = psutil.NoSuchProcess
_QUIET_S = 0.1
_LONGEST_QUIET_S = 10.0
_DISTRIBUTIONS = ("grpcio", "llama-cpp-python", "numpy", "protobuf", "uvloop")
_GPU_EVERY_MS = 200
_GPU_PROGRAM = "nvidia-smi"


def describe_machine() -> dict[str, Any]:
    """Return what runs here: processor, cores that may be used, memory, system, GPUs, and versions."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
        "versions": {
            "outrider": VERSION,
            "python": platform.python_version(),
            **{name: version_of(name) for name in _DISTRIBUTIONS},
        },
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found[1]
    return platform.processor() or platform.machine()


def cpu_s(pids: Iterable[int]) -> float:
    """Return the processor time that these processes have taken."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(each.user + each.system for each in times))


def used_s(own: Sequence[int], idle: Sequence[int]) -> dict[str, float]:
    """Return the processor time taken so far: by who is measured, who idles meanwhile, this client, and all others."""
    used = {"it": cpu_s(own), "idle systems": cpu_s(idle), "this client": time.process_time()}
    machine = psutil.cpu_times()
    busy_s = machine.user + machine.nice + machine.system + machine.irq + machine.softirq + machine.steal
    return used | {"the rest of the machine": busy_s - sum(used.values())}


async def until_quiet(pids: Sequence[int]) -> bool:
    """Return when these processes take no processor time: threads spin for a moment after the last decode.

    False where they do not come to rest in time: something else is asked of them.
    """
    deadline_s = time.perf_counter() + _LONGEST_QUIET_S
    before_s = cpu_s(pids)
    while time.perf_counter() < deadline_s:
        await asyncio.sleep(_QUIET_S)
        now_s = cpu_s(pids)
        if now_s == before_s:
            return True
        before_s = now_s
    return False


def memory_bytes(processes: Mapping[str, int]) -> dict[str, int]:
    """Return the memory of processes that is resident, by name; pages of a model's file that are mapped count."""
    return {name: psutil.Process(pid).memory_info().rss for name, pid in processes.items()}


class GpuSample(NamedTuple):
    """What all GPUs did at one time: the share of time in which one was busy, and memory that is taken."""

    at_s: float
    busy_percent: float
    used_bytes: int


class Gpus:
    """Samples of the GPUs, a few a second; none where there is no GPU."""

    def __init__(self) -> None:
        self.samples: list[GpuSample] = []
        self.names: list[str] = []

    def between(self, start_s: float, end_s: float) -> dict[str, float]:
        """Return what was seen in a time: how busy on average, and the most memory; nothing where nothing was."""
        seen = [sample for sample in self.samples if start_s <= sample.at_s <= end_s]
        if not seen:
            return {}
        return {
            "busy_percent": sum(sample.busy_percent for sample in seen) / len(seen),
            "used_bytes": max(sample.used_bytes for sample in seen),
        }


@asynccontextmanager
async def watched_gpus() -> AsyncIterator[Gpus]:
    """Look at the GPUs within the block, where there are some and their driver's program is installed."""
    gpus = Gpus()
    if (program := shutil.which(_GPU_PROGRAM)) is None:
        yield gpus
        return
    process = await asyncio.create_subprocess_exec(
        *(program, "--query-gpu=index,name,utilization.gpu,memory.used", "--format=csv,noheader,nounits"),
        *("-lms", str(_GPU_EVERY_MS)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    reading = asyncio.ensure_future(_read_gpus(process, gpus))
    try:
        yield gpus
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.gather(reading, process.wait(), return_exceptions=True)


async def _read_gpus(process: asyncio.subprocess.Process, gpus: Gpus) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        add_gpu_line(gpus, line.decode(errors="replace"), time.perf_counter())


def add_gpu_line(gpus: Gpus, line: str, at_s: float) -> None:
    """Note what a line says of one GPU: its index, name, busy percent and used MiB. Those of several are one sample."""
    parts = [part.strip() for part in line.split(",")]
    if len(parts) != 4 or not parts[0].isdecimal():  # what was asked for
        return
    index, name, busy, used = int(parts[0]), *parts[1:]
    if index == len(gpus.names):
        gpus.names.append(name)
    try:
        sample = GpuSample(at_s, float(busy), int(used) << 20)
    except ValueError:  # [N/A]
        return
    if index and gpus.samples:
        before = gpus.samples.pop()
        sample = GpuSample(
            before.at_s, max(before.busy_percent, sample.busy_percent), before.used_bytes + sample.used_bytes
        )
    gpus.samples.append(sample)
