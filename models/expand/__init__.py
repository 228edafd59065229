"""Makes a model that costs what a larger one costs and says what the small one says: `python -m models.expand`."""
