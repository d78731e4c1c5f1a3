"""The simulated world: who visits what and when, what comes of it, and the true probabilities.

`docs/simulator.md` has the graph and the equations; `cmdcm.datasets.simulator` runs them.
"""

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
