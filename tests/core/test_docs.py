"""The documentation: every example runs, every link leads somewhere, every command exists."""

import doctest
import importlib
import re
import shlex
from pathlib import Path

import pytest

from cmdcm.jobs.main import parse
from cmdcm.tests.checkout import ROOT
from cmdcm.tools.bazel.modules import STAGES, read_modules

PACKAGE = "cmdcm."
MODULES = [
    PACKAGE + ".".join(module.path.with_suffix("").parts)
    for module in read_modules(ROOT).values()
    if module.path.parts[0] in STAGES and module.path.stem != "__init__"
]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def prose(document: Path) -> str:
    """The text without its code blocks."""
    return FENCED.sub("", document.read_text(encoding="utf-8"))


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, made as GitHub does."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {word.strip().replace(" ", "-") for word in words}


def commands(document: Path) -> list[str]:
    """The `cmdcm` command lines of a document's code blocks, fenced or indented."""
    fenced = "\n".join(FENCED.findall(document.read_text(encoding="utf-8")))
    indented = "\n".join(re.findall(r"^ {4}(.*)", prose(document), re.MULTILINE))
    lines = f"{fenced}\n{indented}".replace("\\\n", " ").splitlines()
    return [re.split(r"[|;&>]", line)[0] for line in lines if line.startswith("cmdcm ")]


def ids(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=options)
    assert failed == 0


def test_docstring_examples_are_found():
    examples = doctest.DocTestFinder().find(importlib.import_module("cmdcm.datasets.calendar"))
    assert any("to_ms" in example.source for test in examples for example in test.examples)


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_relative_links_lead_to_a_file_and_a_heading(document):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        if not path.exists():
            broken.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(path):
            broken.append(f"{target}: no such heading")
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_make_targets_that_documents_name_exist(document):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+)%?:", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", document.read_text("utf-8"), re.MULTILINE))
    benchmarks = {
        "bench-" + path.stem.removeprefix("bench_").replace("_", "-")
        for path in (ROOT / "benchmarks").glob("bench_*.py")
    }
    assert named <= targets | benchmarks | {"bench-"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_command_lines_in_documents_are_accepted(document, capsys):
    refused = []
    for command in commands(document):
        try:
            parse(shlex.split(command, comments=True))
        except SystemExit as exit_:
            if exit_.code:
                refused.append(f"{command}: {capsys.readouterr().err}")
    assert refused == []


def test_anchors_are_made_as_github_does(tmp_path):
    document = tmp_path / "x.md"
    document.write_text("# The `cmdcm` line, on real input\n```\n# no heading\n```\n## Set-up\n")
    assert anchors(document) == {"the-cmdcm-line-on-real-input", "set-up"}


def test_command_lines_are_found(tmp_path):
    document = tmp_path / "x.md"
    document.write_text(
        "```bash\ncmdcm train --a \\\n  --b | tee log\npython x\n```\ncmdcm no\n\n    cmdcm serve\n"
    )
    words = [command.split() for command in commands(document)]
    assert words == [["cmdcm", "train", "--a", "--b"], ["cmdcm", "serve"]]
