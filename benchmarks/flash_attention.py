"""What a decode takes with flash attention and without, in turn, by sessions, rows and positions; milliseconds.

`python benchmarks/flash_attention.py [--model PATH] [--threads N]` prints JSON lines. Contexts are filled without being
evaluated: what is in them makes no difference to the time.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from orchestrator.stack.bundled import bundled_pair
from services.engine.model.model import Model
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions
from services.engine.startup.measuring import Budget, least_times, rows_after


def measure(runtimes: dict[str, LlamaRuntime], length: int, num_sessions: int, num_rows: int, seconds: float) -> None:
    """Print one line."""
    turn = {name: rows_after(runtime, length, num_rows, num_sessions) for name, runtime in runtimes.items()}
    times = least_times([turn], Budget(3600.0), seconds, num_rounds=1000)
    line: dict[str, object] = {"positions": length, "sessions": num_sessions, "rows": num_rows}
    line |= {f"{name}_ms": round(1e3 * times[name], 2) for name in times}
    print(json.dumps(line | {"ratio": round(times["on"] / times["off"], 2)}), flush=True)


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--positions", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each line")
    arguments = parser.parse_args()
    model = Model(arguments.model or bundled_pair()[0])
    options = RuntimeOptions(
        num_slots=max(arguments.sessions),
        context_length=max(arguments.positions) + max(arguments.rows),
        max_batch_rows=512,
        num_threads=arguments.threads,
        can_fill=True,
    )
    runtimes = {
        name: LlamaRuntime(model, replace(options, flash_attention=is_on))
        for name, is_on in (("off", False), ("on", True))
    }
    held = 0
    for length in sorted(arguments.positions):
        for runtime in runtimes.values():
            for slot in range(options.num_slots):
                runtime.fill(slot, held, length)
        held = length
        for num_sessions in arguments.sessions:
            for num_rows in arguments.rows:
                measure(runtimes, length, num_sessions, num_rows, arguments.seconds)


if __name__ == "__main__":
    main()
