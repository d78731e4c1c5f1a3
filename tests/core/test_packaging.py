"""The wheel and the editable installation: one package `cmdcm`, complete, nothing else."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

import cmdcm
from cmdcm.tests.checkout import ROOT
from cmdcm.tools.bazel.modules import STAGES, read_modules

NOT_SOURCE = shutil.ignore_patterns(
    ".*", "build", "dist", "out", "*.egg-info", "__pycache__", "tests", "docs"
)


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


DATA = (
    "core/presets/*",
    "export/templates/*",
    "jobs/templates/*",
    "jobs/bench/plans/*",
    "jobs/tune/spaces/*",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, built from a copy because setuptools leaves its traces in the source folder."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "any-name", ignore=NOT_SOURCE)
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "any-name"),
    )
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_the_stages_with_their_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {PurePosixPath(name) for name in archive.namelist()}
    metadata = {name for name in names if name.parts[0].endswith(".dist-info")}
    assert {name.parts[0] for name in names - metadata} == {"cmdcm"}

    modules = [m.path for m in read_modules(ROOT).values() if m.path.parts[0] in STAGES]
    data = [path.relative_to(ROOT) for pattern in DATA for path in ROOT.glob(pattern)]
    assert any(path.suffix == ".toml" for path in data)
    expected = {PurePosixPath("cmdcm", path) for path in [*modules, *data]}
    expected |= {PurePosixPath("cmdcm/__init__.py"), PurePosixPath("cmdcm/py.typed")}
    assert names - metadata == expected


def test_wheel_alone_can_be_imported_and_reads_its_data(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = (
        "import cmdcm, cmdcm.core.config as c; print(cmdcm.__file__, c.load_config().seed, "
        "*c.presets(), sep='\\n')"
    )
    output = run(sys.executable, "-c", program, PYTHONPATH=str(tmp_path)).splitlines()
    assert output[:2] == [str(tmp_path / "cmdcm" / "__init__.py"), "1"]
    assert output[2:] == sorted(path.stem for path in (ROOT / "core/presets").glob("*.toml"))


def test_wheel_declares_the_command_and_the_supported_python(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = [n for n in archive.namelist() if n.endswith("entry_points.txt")]
        assert "cmdcm = cmdcm.jobs.main:run" in archive.read(entry_points).decode()
        (metadata,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        lines = archive.read(metadata).decode().splitlines()
    assert "Name: cmdcm" in lines
    assert f"Version: {cmdcm.__version__}" in lines
    assert {"Requires-Python: >=3.11,<3.13", "Requires-Python: <3.13,>=3.11"} & set(lines)


def test_editable_installation_is_this_checkout():
    # From another folder and without PYTHONPATH, so that only the installation can provide it.
    program = "import cmdcm, cmdcm.core.errors as e; print(cmdcm.__file__, e.__file__, sep='\\n')"
    output = run("env", "-C", "/", "-u", "PYTHONPATH", sys.executable, "-P", "-c", program)
    assert output.splitlines() == [str(ROOT / "__init__.py"), str(ROOT / "core" / "errors.py")]


def test_no_stage_is_a_top_level_package():
    program = "import importlib.util as u, sys; print([s for s in sys.argv[1:] if u.find_spec(s)])"
    output = run("env", "-u", "PYTHONPATH", sys.executable, "-P", "-c", program, *STAGES)
    assert output.strip() == "[]"


def test_tests_import_the_same_modules_as_users():
    """Under pytest there is one `cmdcm`: no module exists twice under two names."""
    twice = [
        name
        for name, module in sys.modules.items()
        if name.partition(".")[0] in STAGES
        and (getattr(module, "__file__", None) or "").startswith(str(ROOT))
    ]
    assert twice == []


def test_importing_chooses_keras_2():
    program = "import cmdcm, os; print(os.environ['TF_USE_LEGACY_KERAS'])"
    assert run(sys.executable, "-c", program, TF_USE_LEGACY_KERAS="0").strip() == "1"


def test_bazel_s_module_has_the_package_s_version():
    module = (ROOT / "MODULE.bazel").read_text(encoding="utf-8")
    assert f'name = "cmdcm",\n    version = "{cmdcm.__version__}"' in module
