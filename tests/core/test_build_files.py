"""BUILD files: complete, up to date, and what the generator makes of a small repository."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmdcm.tests.checkout import ROOT
from cmdcm.tools.bazel.launch import pytest_arguments
from cmdcm.tools.bazel.modules import read_modules
from cmdcm.tools.bazel.update_build import BY_HAND, build_files, outdated


def sources_in_build_files(root: Path) -> list[str]:
    """Every file in the `srcs` of any target, read without the generator's help."""
    sources = []
    for build in root.rglob("BUILD"):
        if build.is_dir() or build.relative_to(root).parts[0] in ("build", ".venv", "out"):
            continue
        # A BUILD file is Python syntax; `srcs` is always a literal list of file names here.
        for call in ast.walk(ast.parse(build.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call):
                for keyword in call.keywords:
                    if keyword.arg == "srcs":
                        folder = build.parent.relative_to(root)
                        sources += [
                            (folder / name).as_posix() for name in ast.literal_eval(keyword.value)
                        ]
    return sources


def test_every_python_file_is_in_one_target():
    files = [module.path.as_posix() for module in read_modules(ROOT).values()]
    assert "core/config.py" in files
    assert sorted(sources_in_build_files(ROOT)) == sorted(files), "run `make build-files`"


def test_build_files_are_up_to_date():
    stale = [path.relative_to(ROOT).as_posix() for path in outdated(ROOT)]
    assert stale == [], "run `make build-files`"


@pytest.fixture
def repository(tmp_path):
    files = {
        "__init__.py": "",
        "setup.py": "",
        "core/__init__.py": "",
        "core/presets/a.toml": "",
        "core/errors.py": "class CmdcmError(Exception): ...",
        "core/files.py": "from cmdcm.core.errors import CmdcmError\nfrom cmdcm.core import errors",
        "jobs/__init__.py": "",
        "jobs/main.py": (
            "import importlib\n"
            "from cmdcm.core import files\n"
            "COMMANDS = 'cmdcm.jobs.commands.'\n"
            "if __name__ == '__main__':\n    importlib.import_module(COMMANDS + 'demo')\n"
        ),
        "jobs/commands/__init__.py": "",
        "jobs/commands/demo.py": (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import cmdcm.jobs.main\n"
        ),
        "tests/__init__.py": "",
        "tests/conftest.py": "",
        "tests/checkout.py": "",
        "tests/jobs/__init__.py": "",
        "tests/jobs/test_main.py": (
            "def test_x(monkeypatch):\n"
            "    from cmdcm.tests.checkout import ROOT\n"
            "    monkeypatch.setattr('cmdcm.core.files.errors', None)\n"
            "    ['python', '-m', 'cmdcm.jobs.main', 'cmdcm', 'cmdcm.not.there']\n"
        ),
        ".venv/lib/x.py": "",
        "out/y.py": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def rules(repository: Path, folder: str) -> dict[str, dict]:
    """Targets of a folder's BUILD file: name -> attributes that are literals."""
    tree = ast.parse(build_files(repository)[repository / folder / "BUILD"])
    found: dict[str, dict] = {}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        attributes = {
            str(k.arg): k.value.value if isinstance(k.value, ast.Constant) else ast.unparse(k.value)
            for k in call.keywords
        }
        if "name" in attributes:
            found[str(attributes["name"])] = {"rule": ast.unparse(call.func), **attributes}
    return found


def test_a_library_depends_on_what_it_imports_and_on_its_package(repository):
    core = rules(repository, "core")
    assert core["files"]["deps"] == "[':errors', ':package']"
    assert core["package"]["deps"] == "['//:package']"
    assert core["package"]["data"] == "glob(['presets/**'])"
    assert core["modules"]["deps"] == "[':errors', ':files', ':package']"


def test_names_in_strings_are_dependencies_and_type_checking_imports_are_not(repository):
    jobs = rules(repository, "jobs")
    assert jobs["main"]["deps"] == "[':package', '//core:files', '//jobs/commands:modules']"
    assert jobs["main_run"] == {
        "rule": "module_binary",
        "name": "main_run",
        "module": "cmdcm.jobs.main",
        "deps": "[':main']",
    }
    assert rules(repository, "jobs/commands")["demo"]["deps"] == "[':package']"


def test_a_package_that_imports_from_its_own_files_is_one_target(repository):
    (repository / "core" / "__init__.py").write_text("from cmdcm.core.files import errors")
    core = rules(repository, "core")
    assert list(core) == ["package", "modules"]
    assert core["package"]["srcs"] == "['__init__.py', 'errors.py', 'files.py']"
    assert core["package"]["deps"] == "['//:package']"
    main = ast.literal_eval(rules(repository, "jobs")["main"]["deps"])
    assert main == [":package", "//core:package", "//jobs/commands:modules"]


def test_a_test_depends_on_its_conftest_and_says_that_it_reads_the_checkout(repository):
    target = rules(repository, "tests/jobs")["test_main"]
    assert target["rule"] == "pytest_test"
    assert ast.literal_eval(target["deps"]) == [
        ":package",
        "//core:files",
        "//jobs:main",
        "//tests:checkout",
        "//tests:conftest",
    ]
    assert target["reads_checkout"] is True
    assert "slow" not in target


def test_ignored_folders_have_no_targets(repository):
    folders = [p.parent.relative_to(repository).as_posix() for p in build_files(repository)]
    assert folders == [".", "core", "jobs", "jobs/commands", "tests", "tests/jobs"]


def test_writing_twice_changes_nothing_and_keeps_what_was_written_by_hand(repository):
    for path, text in outdated(repository).items():
        path.write_text(text)
    assert outdated(repository) == {}

    build = repository / "core" / "BUILD"
    by_hand = f'\n{BY_HAND}exports_files(["x"])\n'
    build.write_text(build.read_text() + by_hand)
    assert outdated(repository) == {}

    (repository / "core" / "new.py").write_text("import cmdcm.core.errors")
    assert list(outdated(repository)) == [build]
    text = outdated(repository)[build]
    assert '"new.py"' in text
    assert text.endswith(by_hand)


def test_launcher_makes_the_runfiles_importable_whatever_their_folder_is_called(tmp_path):
    runfiles = tmp_path / "_main"
    (runfiles / "tools" / "bazel").mkdir(parents=True)
    launcher = runfiles / "tools" / "bazel" / "launch.py"
    launcher.symlink_to(ROOT / "tools" / "bazel" / "launch.py")
    (runfiles / "__init__.py").write_text("")
    (runfiles / "hello.py").write_text(
        "import sys, pathlib, cmdcm\n"
        "print(pathlib.Path(cmdcm.__file__).resolve(), *sys.argv[1:], pathlib.Path.cwd())"
    )
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT.parent),
        "TEST_TMPDIR": str(tmp_path),
        "BUILD_WORKING_DIRECTORY": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, launcher, "cmdcm.hello", "--flag"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(runfiles / "__init__.py"), "--flag", str(tmp_path)]


def test_launcher_hands_bazels_wishes_to_pytest():
    assert pytest_arguments({}) == []
    environment = {
        "XML_OUTPUT_FILE": "/x/test.xml",
        "TEST_TMPDIR": "/t",
        "TESTBRIDGE_TEST_ONLY": "batch",
    }
    expected = ["--junitxml=/x/test.xml", "--basetemp=/t/pytest", "-k", "batch"]
    assert pytest_arguments(environment) == expected
