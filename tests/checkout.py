"""The checkout itself, for the tests that look at files instead of behaviour.

Under Bazel a test that imports this module runs outside the sandbox and every time.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The repository's root; resolved, because Bazel's runfiles are links into the checkout."""
