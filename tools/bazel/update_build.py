"""Writes the BUILD files from the Python files and their imports: `make build-files`.

Every Python file gets a target of its own, named after it (`__init__.py` is called `package`), so
that a test depends on the files it uses and runs again only when one of them changes:

    core/config.py         //core:config             py_library
    core/__init__.py       //core:package            py_library, with the stage's data files;
                                                     and with all files of its folder, where it
                                                     imports from them
    all files of a stage   //core:modules            py_library; the root's is //:cmdcm
    tests/core/test_x.py   //tests/core:test_x       pytest_test
    a file with a `__main__` guard   //...:NAME_run  module_binary, besides its library

Dependencies are what a file's `import` statements name, and the dotted names among its strings:
`"cmdcm.jobs.main"` (run as `python -m`), `"cmdcm.jobs.commands."` (any of the folder, imported by
name). Lines below `BY_HAND` in a BUILD file are kept.
"""

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cmdcm.tools.bazel.modules import STAGES, Module, imported, read_modules

LAUNCHER = "//tools/bazel:launch"
CHECKOUT = "//tests:checkout"
"""Tests that import this look at the checkout itself; see tools/bazel/defs.bzl."""
HEADER = "# Written by `make build-files` from the Python files here and their imports.\n"
BY_HAND = "# Below this line by hand.\n"
_DOTTED_NAME = re.compile(r"cmdcm(\.\w+)+\.?|cmdcm\.")


def _named_in_strings(module: Module, modules: Mapping[str, Module]) -> Iterator[str]:
    """Yields the labels of modules, or of whole folders, that string constants name."""
    for node in ast.walk(module.tree):
        if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            continue
        if not _DOTTED_NAME.fullmatch(node.value):
            continue
        name = node.value.rstrip(".")
        if name != node.value and name in modules:
            yield _modules_label(modules[name].folder)
            continue
        while name not in modules:  # it may go on inside the module: a function to replace
            name = name.rpartition(".")[0]
        if name != "cmdcm":
            yield modules[name].label


def _modules_label(folder: str) -> str:
    return f"//{folder}:modules" if folder else "//:cmdcm"


def dependencies(files: Sequence[Module], modules: Mapping[str, Module]) -> list[str]:
    """Returns the labels that the target of `files` depends on, as a BUILD file writes them."""
    labels = set()
    for module in files:
        labels |= {other.label for other, _ in imported(module, modules)}
        labels |= set(_named_in_strings(module, modules))
        # Importing a module imports the packages above, and pytest reads the conftest.py files.
        package = module.name.rpartition(".")[0]
        above = [package]
        if module.is_test:
            above += [f"{package}.conftest", f"{package.rpartition('.')[0]}.conftest"]
        labels |= {modules[name].label for name in above if name in modules}
    return _relative(labels - {files[0].label}, files[0].folder)


def _relative(labels: Iterable[str], folder: str) -> list[str]:
    """Shortens the labels of one's own folder, and sorts them as buildifier does."""
    here = f"//{folder}:"
    short = (
        ":" + label.removeprefix(here) if label.startswith(here) else label for label in labels
    )
    return sorted(short, key=lambda label: (label[0] != ":", label.replace(":", "!")))


@dataclass
class Rule:
    """One call in a BUILD file; attributes are written in the order in which they are given."""

    kind: str
    attributes: dict[str, str | list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.kind}("]
        for name, value in self.attributes.items():
            if isinstance(value, str):
                lines.append(f"    {name} = {value},")
            elif len(value) == 1:
                lines.append(f'    {name} = ["{value[0]}"],')
            elif value:
                lines += [f"    {name} = [", *(f'        "{item}",' for item in value), "    ],"]
        return "\n".join([*lines, ")"])


def target_rules(files: Sequence[Module], modules: Mapping[str, Module], root: Path) -> list[Rule]:
    """Returns the rules of one target's files: usually one file."""
    target, folder = files[0].target, files[0].folder
    deps = dependencies(files, modules)
    attributes: dict[str, str | list[str]] = {
        "name": f'"{target}"',
        "srcs": [module.path.name for module in files],
    }
    if files[0].is_test:
        if CHECKOUT in deps:
            attributes["reads_checkout"] = "True"
        if "mark.slow" in ast.unparse(files[0].tree):
            attributes["slow"] = "True"
        return [Rule("pytest_test", {**attributes, "deps": deps})]
    if files[0].name == "cmdcm":  # the root's other folders are no part of the package
        attributes["data"] = ["py.typed"]
    elif target == "package" and (data := _data(root / folder)):
        attributes["data"] = data
    rules = [Rule("py_library", {**attributes, "deps": deps})]
    for module in files:
        if module.is_runnable and module.label != LAUNCHER:
            runnable: dict[str, str | list[str]] = {
                "name": f'"{module.path.stem}_run"',
                "module": f'"{module.name}"',
                "deps": [f":{target}"],
            }
            rules.append(Rule("module_binary", runnable))
    return rules


def _data(folder: Path) -> str:
    """Returns the glob of a package's data files: its sub-folders without any Python."""
    patterns = [
        f"{path.name}/**"
        for path in sorted(folder.iterdir())
        if path.is_dir()
        and path.name[0] not in "._"
        and any(path.iterdir())
        and not any(path.rglob("*.py"))
    ]
    return f"glob({json.dumps(patterns)})" if patterns else ""


def _modules_rule(folder: str, modules: Mapping[str, Module]) -> Rule:
    """Returns the target of all files of a stage's folder and its sub-folders."""
    if folder:
        labels = {m.label for m in modules.values() if m.folder == folder}
        folders = {m.folder for m in modules.values()}
        labels |= {_modules_label(f) for f in folders if f.rpartition("/")[0] == folder}
    else:
        labels = {"//:package", *(_modules_label(stage) for stage in STAGES)}
    name = _modules_label(folder).rpartition(":")[2]
    return Rule("py_library", {"name": f'"{name}"', "deps": _relative(labels, folder)})


def build_file(folder: str, modules: Mapping[str, Module], root: Path) -> str:
    """Returns the generated part of a folder's BUILD file."""
    targets: dict[str, list[Module]] = {}
    for module in modules.values():
        if module.folder == folder:
            targets.setdefault(module.target, []).append(module)
    rules = [rule for files in targets.values() for rule in target_rules(files, modules, root)]
    if folder.partition("/")[0] in ("", *STAGES):
        rules.append(_modules_rule(folder, modules))
    kinds = {rule.kind for rule in rules}
    loads = []
    if "py_library" in kinds:
        loads.append('load("@rules_python//python:defs.bzl", "py_library")')
    if ours := sorted(kinds - {"py_library"}):
        loads.append(f'load("//tools/bazel:defs.bzl", {json.dumps(ours)[1:-1]})')
    blocks = ["\n".join(loads), 'package(default_visibility = ["//visibility:public"])']
    return HEADER + "\n\n".join([*blocks, *map(str, rules)]) + "\n"


def build_files(root: Path) -> dict[Path, str]:
    """Returns what each BUILD file of the repository should hold."""
    modules = read_modules(root)
    wanted = {}
    for folder in sorted({module.folder for module in modules.values()}):
        path = root / folder / "BUILD"
        present = path.read_text(encoding="utf-8") if path.exists() else ""
        _, marker, by_hand = present.partition(BY_HAND)
        text = build_file(folder, modules, root)
        wanted[path] = f"{text}\n{marker}{by_hand}" if marker else text
    return wanted


def outdated(root: Path) -> dict[Path, str]:
    """Returns the BUILD files that are not as they should be, and what they should hold."""
    return {
        path: text
        for path, text in build_files(root).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }


def main() -> int:
    """Writes the BUILD files that are out of date, or with --check only names them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if outdated")
    check = parser.parse_args().check
    root = Path(__file__).resolve().parents[2]
    files = outdated(root)
    for path, text in files.items():
        print(f"{path.relative_to(root)}: {'out of date' if check else 'written'}")
        if not check:
            path.write_text(text, encoding="utf-8")
    return int(check and bool(files))


if __name__ == "__main__":
    sys.exit(main())
