"""What decodes cost on one machine: measured points in a JSON file, and the time of any decode read off between them.

Read `model_costs.py` first. `costs_file.py` is the file, which `outrider costs` writes; `h200-8b-bf16.json` is the
first one kept.
"""

from orchestrator.costs.costs_file import H200, load_costs, save_costs
from orchestrator.costs.model_costs import Costs, ModelCosts, Point

__all__ = ["H200", "Costs", "ModelCosts", "Point", "load_costs", "save_costs"]
