"""Judges from outside: clients and tools that others wrote, on the bundled pair as `outrider serve` serves it.

`python benchmarks/judges/run.py [--only NAME ...] [--out FILE]` makes for each judge an environment of its own, with
the versions of `constraints.txt` and `package.json`, serves the pair with `--exact on` and a template for chats, and
beside it a model that calls a tool, and runs the judge. FILE gets what became of it, and keeps what is there of others;
all are printed as a table. The exit status is 1 where a check failed. `--environments FOLDER` keeps the environments,
and uses those that are there. They take gigabytes, and minutes to make.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from documented import documented_requests
from environments import Environment, NodeEnvironment, PythonEnvironment
from serving import served_caller, served_pair
from verdicts import Verdict, read_checks, read_verdicts, table, to_json

from orchestrator.stack.bundled import bundled_pair

FOLDER = Path(__file__).parent
# A judge that hangs is a judge that fails.
_LIMIT_S = 1800.0


@dataclass(frozen=True)
class Judge:
    """One of them: the package whose version counts, its checks, and the packages that they need beside it."""

    package: str
    checks: str
    beside: tuple[str, ...] = ()

    @property
    def is_node(self) -> bool:
        """Whether it runs in Node.js."""
        return self.checks.endswith(".mjs")

    def environment(self, folder: Path) -> Environment:
        """Return where it runs, made in a folder if it is not there yet. Raises SubprocessError and OSError."""
        if self.is_node:
            return NodeEnvironment(folder, FOLDER / "package.json")
        return PythonEnvironment(folder, FOLDER / "constraints.txt", (self.package, "pytest", *self.beside))


JUDGES = {
    "openai": Judge("openai", "openai_python.py"),
    "anthropic": Judge("anthropic", "anthropic_python.py"),
    "openai-npm": Judge("openai", "openai_node.mjs"),
    "anthropic-npm": Judge("@anthropic-ai/sdk", "anthropic_node.mjs"),
    "schemathesis": Judge("schemathesis", "schemathesis_page.py"),
    "aiperf": Judge("aiperf", "aiperf_chat.py"),
    "lm-eval": Judge("lm_eval", "lm_eval_task.py", ("lm_eval[api]", "gguf", "transformers")),
}


def prepare(name: str, folder: Path) -> Environment | Verdict:
    """Return where a judge runs, made below the folder, or what kept it from being made."""
    chosen = JUDGES[name]
    try:
        # Those of Node.js share theirs.
        return chosen.environment(folder / ("node" if chosen.is_node else name))
    except (OSError, subprocess.SubprocessError) as error:
        return Verdict(name, chosen.package, "", 0, {"the environment": str(error)})


def judge(name: str, environment: Environment, urls: dict[str, str]) -> Verdict:
    """Run a judge in its environment; `urls` are variables that say where is what it judges."""
    chosen = JUDGES[name]
    report = environment.folder / f"{name}.xml"
    report.unlink(missing_ok=True)
    shown = json.dumps(documented_requests())
    variables = urls | {"OUTRIDER_TARGET": str(bundled_pair()[0]), "OUTRIDER_EXAMPLES": shown}
    try:
        said = environment.run(FOLDER / chosen.checks, report, variables, _LIMIT_S)
    except (OSError, subprocess.SubprocessError) as error:
        said = str(error)
    checks = read_checks(report) if report.exists() else {}
    failed = {check: problem for check, problem in checks.items() if problem}
    if not checks:
        failed = {"all": said[-2000:]}
    return Verdict(name, chosen.package, environment.version(chosen.package), len(checks), failed)


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="judges-") as made:
        yield Path(made)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the arguments of a command line. Raises SystemExit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(JUDGES), default=list(JUDGES), metavar="NAME")
    parser.add_argument("--out", type=Path, metavar="FILE")
    parser.add_argument("--environments", type=Path, metavar="FOLDER")
    return parser.parse_args(arguments)


def main() -> None:
    """Run the judges that are asked for."""
    arguments = parse()
    # So that what is served ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    out: Path | None = arguments.out
    verdicts = {each.name: each for each in read_verdicts(out)} if out is not None and out.exists() else {}
    with _folder(arguments.environments) as folder:
        # Nothing is served while packages are installed, which takes all cores.
        prepared = {name: prepare(name, folder) for name in arguments.only}
        with served_pair(folder) as url, served_caller(folder) as caller_url:
            urls = {"OUTRIDER_URL": url, "OUTRIDER_CALLER_URL": caller_url}
            for name, environment in prepared.items():
                found = environment if isinstance(environment, Verdict) else judge(name, environment, urls)
                verdicts[name] = found
                print(f"{name}: {found.sentence}", file=sys.stderr, flush=True)
                if out is not None:
                    known = [verdicts[each] for each in JUDGES if each in verdicts]
                    out.write_text(json.dumps(to_json(known), indent=1) + "\n")
    print(table(list(verdicts.values())))
    sys.exit(1 if any(verdicts[name].failed for name in arguments.only) else 0)


if __name__ == "__main__":
    main()
