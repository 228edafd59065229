"""``python -m models.train <step>``: make the bundled pair, step by step."""

from __future__ import annotations

import sys

from models.train.cli import main

sys.exit(main())
