"""Errors a user can act on, each with the exit code that scripts see.

A message says what is wrong, where, and what to do about it. The command line prints the message
alone, without a traceback; any other exception is a defect of ours and keeps its traceback.
"""


class CmdcmError(Exception):
    """Base of all errors with a cause outside the code. Exit code 1."""

    exit_code = 1


class ConfigError(CmdcmError):
    """A setting, flag or override that cannot be used. Exit code 2, as for wrong usage."""

    exit_code = 2


class DataError(CmdcmError):
    """Input data that is missing, malformed or too poor to go on with. Exit code 3."""

    exit_code = 3


class TrainingError(CmdcmError):
    """Training that cannot go on, such as a loss that is not finite. Exit code 4."""

    exit_code = 4


class ExportError(CmdcmError):
    """A model that cannot be exported, verified or published. Exit code 5."""

    exit_code = 5


class ServingError(CmdcmError):
    """A server that cannot start or a scoring call that failed. Exit code 6."""

    exit_code = 6


class OutputError(CmdcmError):
    """An output place that cannot be written, or a disk that is full. Exit code 7."""

    exit_code = 7


class RetrainError(CmdcmError):
    """A retraining job that may not go on: locked, late or frozen. Exit code 8.

    The serving model stays as it is.
    """

    exit_code = 8


class PreemptedError(CmdcmError):
    """A run that was told to stop and has saved its state; the same command goes on with it.

    Exit code 75, which sysexits.h calls EX_TEMPFAIL: a scheduler may simply start it again.
    """

    exit_code = 75
