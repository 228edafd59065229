"""What is told of the machine, and what the GPUs' program says."""

import os

import pytest

from orchestrator.bench.measuring.machine import Gpus, add_gpu_line, cpu_s, describe_machine, memory_bytes, used_s


def test_the_machine_is_told_with_versions() -> None:
    told = describe_machine()
    assert told["processor"]
    assert told["cores"] == len(os.sched_getaffinity(0))
    assert told["memory_bytes"] > 1 << 28
    assert set(told["versions"]) >= {"outrider", "python", "grpcio", "llama-cpp-python"}


def test_processes_have_memory_and_processor_time() -> None:
    own = os.getpid()
    assert memory_bytes({"this": own})["this"] > 1 << 20
    assert cpu_s([own]) > 0
    assert set(used_s([own], [])) == {"it", "idle systems", "this client", "the rest of the machine"}


def test_samples_of_several_gpus_are_one() -> None:
    gpus = Gpus()
    for at_s, lines in ((1.0, ["0, H200, 40, 100", "1, H200, 60, 50"]), (2.0, ["0, H200, 80, 300", "1, H200, 0, 50"])):
        for line in lines:
            add_gpu_line(gpus, line, at_s)
    assert gpus.names == ["H200", "H200"]
    assert gpus.between(0.0, 3.0) == {"busy_percent": 70.0, "used_bytes": 350 << 20}
    assert gpus.between(1.5, 3.0)["busy_percent"] == 80.0


@pytest.mark.parametrize("line", ["", "no devices were found", "0, A, [N/A], 5", "0, A, 5, [N/A]"])
def test_what_is_no_sample_is_left_out(line: str) -> None:
    gpus = Gpus()
    add_gpu_line(gpus, line, 1.0)
    assert gpus.between(0.0, 2.0) == {}
