"""The arrays that modules pass to one another, by name."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Embeddings = npt.NDArray[np.float32]  # (N, D), each row of unit length
