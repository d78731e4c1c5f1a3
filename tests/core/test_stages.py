"""The order of the stages: each imports only from those to its left."""

import ast

from cmdcm.tests.checkout import ROOT
from cmdcm.tools.bazel.modules import STAGES, imported, read_modules


def violations(root) -> list[str]:
    modules = read_modules(root)
    found = []
    for module in modules.values():
        stage = module.path.parts[0]
        if stage not in STAGES:
            continue
        for other, line in imported(module, modules):
            source = other.path.parts[0]
            allowed = (*STAGES[: STAGES.index(stage) + 1], "__init__.py")
            if source not in allowed:
                found.append(f"{module.path}:{line}: {stage} imports {other.name}")
    return found


def test_no_stage_imports_from_its_right():
    assert violations(ROOT) == []


def test_a_violation_names_file_and_line(tmp_path):
    for stage in ("core", "model", "tests"):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "__init__.py").write_text("")
    (tmp_path / "__init__.py").write_text("__version__ = '1'")
    (tmp_path / "model" / "x.py").write_text(
        "import cmdcm.core\nfrom cmdcm import __version__\nfrom cmdcm.tests import y\n"
    )
    (tmp_path / "core" / "x.py").write_text("def f():\n    from ..model.x import g\n")
    assert violations(tmp_path) == [
        "core/x.py:2: core imports cmdcm.model.x",
        "model/x.py:3: model imports cmdcm.tests",
    ]


def test_setup_packages_these_stages():
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "STAGES":
            assert tuple(ast.literal_eval(node.value)) == STAGES
            return
    raise AssertionError("setup.py has no STAGES")
