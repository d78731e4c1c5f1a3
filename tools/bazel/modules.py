"""The repository's Python files, and which of them import which."""

import ast
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

STAGES = ("core", "datasets", "features", "model", "export", "serving", "jobs")
"""The stages, in the order of imports: each imports only from those to its left."""

IGNORED = frozenset({"build", "dist", "out"})


@dataclass(frozen=True)
class Module:
    """One Python file of the repository.

    Attributes:
        path: Relative to the repository's root.
        tree: Its syntax tree.
        target: Name of the file's target in its folder's BUILD file.
    """

    path: PurePosixPath
    tree: ast.Module
    target: str

    @property
    def name(self) -> str:
        """The dotted import name."""
        parts = self.path.with_suffix("").parts
        return ".".join(("cmdcm", *(parts[:-1] if parts[-1] == "__init__" else parts)))

    @property
    def folder(self) -> str:
        """The folder, empty for the root."""
        return "" if self.path.parent == PurePosixPath() else str(self.path.parent)

    @property
    def label(self) -> str:
        """The absolute Bazel label."""
        return f"//{self.folder}:{self.target}"

    @property
    def is_test(self) -> bool:
        """Whether pytest collects the file."""
        return self.path.name.startswith("test_")

    @property
    def is_runnable(self) -> bool:
        """Whether the file does something when it is run as a program."""
        return any(
            isinstance(node, ast.If) and "__name__ == '__main__'" in ast.unparse(node.test)
            for node in self.tree.body
        )


def read_modules(root: Path) -> dict[str, Module]:
    """Returns all Python files below `root` by their dotted name, in the order of their paths."""
    modules = {}
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if f not in IGNORED and f[0] != ".")
        for name in sorted(files):
            if name.endswith(".py"):
                path = Path(folder, name)
                tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
                target = path.stem.replace("__init__", "package")
                module = Module(PurePosixPath(path.relative_to(root).as_posix()), tree, target)
                modules[module.name] = module
    # Importing a file runs its package's __init__.py; where that imports from the folder's files in
    # turn, they need each other and are one target.
    circular = {
        module.folder
        for module in modules.values()
        if module.path.stem == "__init__"
        and any(other.folder == module.folder for other, _ in imported(module, modules))
    }
    return {
        name: replace(module, target="package") if module.folder in circular else module
        for name, module in modules.items()
    }


def imported(module: Module, modules: Mapping[str, Module]) -> Iterator[tuple[Module, int]]:
    """Yields each module that `import` statements of `module` name, with the line.

    Imports for type checkers alone (`if TYPE_CHECKING:`) are left out.
    """
    todo: list[ast.AST] = [module.tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo.extend(node.orelse)
            continue
        todo.extend(ast.iter_child_nodes(node))
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(node, module)
            names = [
                name if (name := f"{source}.{alias.name}") in modules else source
                for alias in node.names
            ]
        for name in names:
            if name in modules:
                yield modules[name], getattr(node, "lineno", 0)


def _absolute(node: ast.ImportFrom, module: Module) -> str:
    if not node.level:
        return node.module or ""
    up = node.level - (module.path.stem == "__init__")  # one dot is the package itself
    parts = module.name.split(".")
    package = parts[: len(parts) - up]
    return ".".join([*package, node.module] if node.module else package)
