"""How small models are run, and how far logits may lie apart."""

from services.engine.runtime.runtime import RuntimeOptions
from tests.foreign_models import WINDOW

NUM_SLOTS, LENGTH = 4, 8 * WINDOW
# Positions of another session that lose their place make a difference of about 1; rounding makes one of 0.01, and with
# flash attention of 0.08.
TOLERANCE = 0.2
OPTIONS = RuntimeOptions(num_slots=NUM_SLOTS, context_length=256, max_batch_rows=256, num_threads=1)
