"""Judges from outside: clients and tools that others wrote, on the bundled pair as `outrider serve` serves it.

`python benchmarks/judges/run.py [--only NAME ...] [--out FILE]` serves the pair with `--exact on`, its target with a
template for chats, makes for each judge an environment of its own in a temporary folder, with the versions of
`constraints.txt` and `package.json`, and runs it. FILE gets what became of all, which is printed as a table too. The
exit status is 1 where a check failed. `--environments FOLDER` keeps the environments, and uses those that are there;
`--url` judges what is served elsewhere.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from environments import Environment, NodeEnvironment, PythonEnvironment
from serving import served_pair
from verdicts import Verdict, read_checks, table, to_json

from orchestrator.stack.bundled import bundled_pair

FOLDER = Path(__file__).parent
# A judge that hangs is a judge that fails.
_LIMIT_S = 1500.0


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
        """Return where it runs, made in a folder if it is not there yet."""
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


def judge(name: str, url: str, folder: Path) -> Verdict:
    """Run one of the judges; its environment is in the folder."""
    chosen = JUDGES[name]
    try:
        # Those of Node.js share theirs.
        environment = chosen.environment(folder / ("node" if chosen.is_node else name))
        report = environment.folder / f"{name}.xml"
        report.unlink(missing_ok=True)
        variables = {"OUTRIDER_URL": url, "OUTRIDER_TARGET": str(bundled_pair()[0])}
        said = environment.run(FOLDER / chosen.checks, report, variables, _LIMIT_S)
    except (OSError, subprocess.SubprocessError) as error:
        return Verdict(name, chosen.package, "", {"the environment": str(error)})
    checks = read_checks(report) if report.exists() else {}
    return Verdict(name, chosen.package, environment.version(chosen.package), checks or {"all": said[-2000:]})


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
    parser.add_argument("--url", default="", metavar="URL")
    return parser.parse_args(arguments)


def main() -> None:
    """Run the judges that are asked for."""
    arguments = parse()
    verdicts = []
    with _folder(arguments.environments) as folder, served_pair(folder, arguments.url) as url:
        for name in arguments.only:
            verdicts.append(judge(name, url, folder))
            print(f"{name}: {verdicts[-1].sentence}", file=sys.stderr, flush=True)
            if arguments.out is not None:
                arguments.out.write_text(json.dumps(to_json(verdicts), indent=1) + "\n")
    print(table(verdicts))
    sys.exit(1 if any(verdict.failed for verdict in verdicts) else 0)


if __name__ == "__main__":
    main()
