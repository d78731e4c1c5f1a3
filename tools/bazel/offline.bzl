"""Stand-ins for the repositories that Bazel before version 7 would download.

That Bazel (Debian's package bazel-bootstrap is 4.2.3) still has the rules built in, so each
repository need only hand the native rules on, and a build needs no network.
"""

_COVERAGE = """
filegroup(
    name = "coverage_report_generator",
    visibility = ["//visibility:public"],
)
"""

def _native_rules(names):
    return "".join(["{0} = native.{0}\n".format(name) for name in names])

def _files_repository_impl(ctx):
    for path, content in ctx.attr.files.items():
        ctx.file(path, content)

_files_repository = repository_rule(
    implementation = _files_repository_impl,
    attrs = {"files": attr.string_dict(doc = "path -> content")},
)

def _rules_repository(name, folder, rules):
    _files_repository(
        name = name,
        files = {
            folder + "/BUILD": "",
            folder + "/defs.bzl": _native_rules(rules),
        },
    )

def offline_repositories():
    """Declares the stand-ins; to be called from the WORKSPACE file."""
    _rules_repository("rules_python", "python", ["py_binary", "py_library", "py_test"])
    _rules_repository("rules_cc", "cc", [
        "cc_binary",
        "cc_import",
        "cc_library",
        "cc_proto_library",
        "cc_test",
        "cc_toolchain",
        "cc_toolchain_suite",
    ])
    _rules_repository("rules_java", "java", [
        "java_binary",
        "java_import",
        "java_library",
        "java_runtime",
        "java_toolchain",
    ])
    _rules_repository("rules_proto", "proto", ["proto_library"])
    _files_repository(name = "remote_coverage_tools", files = {"BUILD": _COVERAGE})
