"""Errors: scripts can tell them apart by the exit code."""

import pytest

from cmdcm.core import errors

KINDS: list[type[errors.CmdcmError]] = [
    kind for kind in vars(errors).values() if isinstance(kind, type)
]


def test_each_kind_has_an_exit_code_of_its_own():
    # 0 is success, and scripts rely on the codes: a published one never changes.
    assert {kind.__name__: kind.exit_code for kind in KINDS} == {
        "CmdcmError": 1,
        "ConfigError": 2,
        "DataError": 3,
        "TrainingError": 4,
        "ExportError": 5,
        "ServingError": 6,
        "OutputError": 7,
        "RetrainError": 8,
        "PreemptedError": 75,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_docstring_states_the_exit_code(kind):
    assert f"Exit code {kind.exit_code}" in kind.__doc__


@pytest.mark.parametrize("kind", KINDS)
def test_all_are_caught_as_one_and_keep_their_message(kind):
    with pytest.raises(errors.CmdcmError, match=r"^what, where, what to do$"):
        raise kind("what, where, what to do")
