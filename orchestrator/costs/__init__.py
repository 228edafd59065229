"""What decodes cost on one machine: measured points in a JSON file, and the time of any decode read off between them.

Read `model_costs.py` first. `costs_file.py` is the file, which `outrider costs` writes; two older measurements
are kept here in its form.
"""

from orchestrator.costs.costs_file import CPU, H200, load_costs, save_costs
from orchestrator.costs.model_costs import Costs, ModelCosts, Point

__all__ = ["CPU", "H200", "Costs", "ModelCosts", "Point", "load_costs", "save_costs"]
