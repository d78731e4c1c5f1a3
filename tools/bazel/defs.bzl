"""What the BUILD files load besides @rules_python: tests run by pytest, and runnable modules."""

load("@rules_python//python:defs.bzl", "py_binary", "py_test")

_LAUNCHER = "//tools/bazel:launch.py"
_SETTINGS = "//:pyproject.toml"

def pytest_test(name, srcs, deps, reads_checkout = False, slow = False):
    """Runs one test file under pytest with the settings of pyproject.toml.

    Args:
      name: name of the target.
      srcs: the test file alone.
      deps: libraries that the test imports.
      reads_checkout: the test looks at the checkout's files, which Bazel does not know; it runs
        every time and outside the sandbox.
      slow: the test may take up to 15 minutes; `--test_tag_filters=-slow` leaves it out.
    """
    py_test(
        name = name,
        srcs = srcs + [_LAUNCHER],
        main = _LAUNCHER,
        args = ["pytest", "-c", "$(rootpath %s)" % _SETTINGS, "--rootdir=."] +
               ["$(rootpath %s)" % src for src in srcs],
        data = [_SETTINGS],
        size = "large" if slow else "medium",
        tags = (["external", "local"] if reads_checkout else []) + (["slow"] if slow else []),
        deps = deps,
    )

def module_binary(name, module, deps):
    """Makes `bazel run` do what `python -m MODULE` does.

    Args:
      name: name of the target.
      module: dotted name of the module.
      deps: the module's library.
    """
    py_binary(
        name = name,
        srcs = [_LAUNCHER],
        main = _LAUNCHER,
        args = [module],
        deps = deps,
    )
