"""cmdcm: the production ranking model for e-commerce pre-promotion periods.

Importing the package chooses Keras 2 (tf_keras): TensorFlow Recommenders, TPU embeddings and
ParameterServerStrategy need it, and TensorFlow reads the switch when its Keras is first touched.
This is the one place where it is set.
"""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

__version__ = "0.1.0"
