"""``python -m models.train <step>``: make the bundled pair, step by step."""

import services.frame.program.importing  # noqa: F401, I001  before what takes its time
import sys

from models.train.cli import main

sys.exit(main())
