"""The compiled passes over a row of logits, where they were built; _kernel.c explains them."""

try:
    from services.engine.sampling._kernel import mass, survivors, weigh
except ImportError:  # there was no compiler when the project was installed
    IS_COMPILED = False
else:
    IS_COMPILED = True

__all__ = ["IS_COMPILED", "mass", "survivors", "weigh"]
