"""The arrays that evaluation speaks of, by name."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Embeddings = npt.NDArray[np.float32]  # (N, D), each row of unit length
