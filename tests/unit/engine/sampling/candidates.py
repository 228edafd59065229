"""What truncation leaves of a row, as a list."""

import numpy as np
from numpy.typing import NDArray

from services.engine.sampling import SamplingParams
from services.engine.sampling.adjust import adjusted
from services.engine.sampling.truncate import edge_of_candidates, top_candidates


def candidates_of(logits: NDArray[np.float32], params: SamplingParams) -> list[tuple[float, int]]:
    """(z, token) of every candidate, in the order of the reference."""
    row = adjusted(logits, params, {})
    if params.top_k:
        ids, z = top_candidates(row, params)
    else:
        values = row.dense.astype(np.float64)
        values[row.ids] = row.values
        ids, z = np.arange(logits.size), values / params.temperature
        kept = edge_of_candidates(row, row.best()[1] / params.temperature, params).keeps(ids, z) & (z > -np.inf)
        ids, z = ids[kept], z[kept]
    order = np.lexsort((ids, -z))
    return list(zip(z[order].tolist(), ids[order].tolist(), strict=True))
