"""Runs a module from a Bazel target's runfiles: `launch.py MODULE ARGUMENT...`.

Two things are set up first. The runfiles' copy of the repository becomes importable as `cmdcm`
whatever its folder is called (`cmdcm` with a WORKSPACE, `_main` with a MODULE.bazel). And the
`python3` of PATH takes over, because third-party packages live in its virtual environment and not
in Bazel's toolchain. Only the standard library is needed here.
"""

import os
import sys
import tempfile
from pathlib import Path


def pytest_arguments(environment: dict[str, str]) -> list[str]:
    """Returns pytest's options for what Bazel's test protocol asks for in the environment."""
    arguments = []
    if "XML_OUTPUT_FILE" in environment:
        arguments.append(f"--junitxml={environment['XML_OUTPUT_FILE']}")
    if "TEST_TMPDIR" in environment:
        arguments.append(f"--basetemp={environment['TEST_TMPDIR']}/pytest")
    if "TESTBRIDGE_TEST_ONLY" in environment:
        arguments += ["-k", environment["TESTBRIDGE_TEST_ONLY"]]
    return arguments


def main() -> None:
    """Replaces this process by `python3 -m MODULE ARGUMENT...`."""
    module, *arguments = sys.argv[1:]
    # Not resolved: the runfiles are links into the checkout, and only declared files count.
    repository = Path(__file__).absolute().parents[2]
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR")))
    (folder / "cmdcm").symlink_to(repository)

    environment = {key: value for key, value in os.environ.items() if key[:6] != "PYTHON"}
    environment["PYTHONPATH"] = str(folder)
    if module == "pytest":
        arguments += pytest_arguments(environment)
        # The sandbox lets a test write to its temporary folder only.
        for variable in ("HYPOTHESIS_STORAGE_DIRECTORY", "NUMBA_CACHE_DIR", "MPLCONFIGDIR"):
            environment[variable] = str(folder / variable.lower())
    # `bazel run` starts in the runfiles; relative paths are the caller's.
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
    os.execvpe("python3", ["python3", "-m", module, *arguments], environment)  # noqa: S606, S607


if __name__ == "__main__":
    main()
