"""Measures the bundled pair on held-out files: `python -m models.evaluate`."""
