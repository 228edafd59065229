"""The file of costs: JSON with a version, one measured point a line."""

import json
import re
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from orchestrator.costs.model_costs import Costs, ModelCosts
from services.frame.program.atomic_file import replacing
from services.frame.program.startup import StartupError

VERSION = 1
# 8B parameters as BF16 on an H200.
H200 = Path(__file__).with_name("h200-8b-bf16.json")
# 0.8B parameters as BF16 on two cores that have instructions for BF16; there is no draft in it.
CPU = Path(__file__).with_name("cpu-0.8b-bf16.json")
_COSTS = TypeAdapter(Costs)
# A point, as it is written with an indentation.
_POINT = re.compile(r'\{\s*"sessions"[^{}]*\}')


def load_costs(path: Path) -> Costs:
    """Read a file of costs. Raises StartupError, in a sentence, for one that cannot be read or is none."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise StartupError(f"cannot read costs {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise StartupError(f"{path} is no file of costs: it is not JSON") from error
    if not isinstance(content, dict) or "version" not in content:
        raise StartupError(f'{path} is no file of costs: it has no "version"')
    if (version := content.pop("version")) != VERSION:
        raise StartupError(f"{path} is a file of costs of version {version}, and this program reads {VERSION}")
    try:
        # Read as JSON again, so that a list may become a tuple and nothing else may become what it is not.
        costs = _COSTS.validate_json(json.dumps(content))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise StartupError(f"{path} is no file of costs: {place}: {problem['msg']}") from error
    for role, model in (("target", costs.target), ("draft", costs.draft)):
        if model is not None and (trouble := _trouble(model)):
            raise StartupError(f"{path} is no file of costs: {role}: {trouble}")
    return costs


def save_costs(path: Path, costs: Costs) -> None:
    """Write a file of costs, whole or not at all. Raises OSError."""
    content = {"version": VERSION, **_COSTS.dump_python(costs, mode="json", by_alias=True, exclude_none=True)}
    text = _POINT.sub(lambda point: " ".join(point[0].split()), json.dumps(content, indent=2))
    with replacing(path) as part:
        part.write_text(f"{text}\n")


def _trouble(model: ModelCosts) -> str:
    """Return what is wrong with points that are well-formed each, empty where nothing is."""
    seen = set()
    for point in model.points:
        where = f"{point.num_sessions} sessions, {point.num_rows} rows, context {point.context}"
        if point.num_rows < point.num_sessions:
            return f"{where}: a session of a decode has a row at least"
        if (point.place, point.flash_attention) in seen:
            return f"{where} is there twice"
        seen.add((point.place, point.flash_attention))
    if model.flash_attention is not None and model.flash_attention not in {p.flash_attention for p in model.points}:
        return f"no point was measured with flash_attention {str(model.flash_attention).lower()}"
    return ""
