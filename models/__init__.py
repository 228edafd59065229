"""The bundled pair, how it was trained, how it is expanded to the costs of large models, and how it is measured.

Nothing that serves needs it, but for the two files in `pair`.
"""
