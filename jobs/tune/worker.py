"""A process of its own for each trial, so that none inherits memory and a crash ends but one.

It reports values one by one and waits after each for the word to go on. It ends with the process
that started it, even when that one is killed: a search that is resumed shares its folders with no
orphan.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from cmdcm.core.errors import CmdcmError, PreemptedError

_PATIENCE_S = 60

Report = Callable[[Any], None]
"""Sends a value to the process that started this one, and returns when it may go on."""


class Worker:
    """Runs `function(job, report)` in a process of its own.

    Args:
        function: A function of a module, to be imported there.
        job: Its first argument.

    Attributes:
        connection: Ready to read when there is something to receive.
    """

    def __init__(self, function: Callable[[Any, Report], None], job: Any):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, function, job), daemon=True)
        self._process.start()
        theirs.close()

    def receive(self) -> tuple[str, Any]:
        """Returns what comes next.

        It is ("report", value), ("done", None), ("failed", why), or ("preempted", None) when
        somebody told the process to end.
        """
        try:
            kind, value = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            return _ended(self._process.exitcode)
        return kind, value

    def go_on(self) -> None:
        """Lets the function go on after a report."""
        with contextlib.suppress(BrokenPipeError):  # it was killed; the next message says so
            self.connection.send(None)

    def stop(self) -> None:
        """Ends the process; a training saves its state first, if it can do so soon."""
        self._process.terminate()
        self._process.join(_PATIENCE_S)
        self._process.kill()
        self._process.join()
        self.connection.close()


def _ended(exit_code: int | None) -> tuple[str, str | None]:
    """Returns the message that a process without a word of farewell stands for."""
    if exit_code == -signal.SIGTERM:
        return "preempted", None
    return "failed", how_it_ended(exit_code)


def how_it_ended(exit_code: int | None) -> str:
    """Says how a process ended that did not say so itself."""
    if exit_code is None or exit_code >= 0:
        return f"its process ended with code {exit_code}"
    number = signal.Signals(-exit_code)
    hint = ", perhaps for lack of memory" if number == signal.SIGKILL else ""
    return f"its process was ended by {number.name}{hint}"


def _work(connection: Connection, function: Callable[[Any, Report], None], job: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the search, which stops its trials
    threading.Thread(target=end_with_parent, daemon=True).start()

    def report(value: Any) -> None:
        connection.send(("report", value))
        connection.recv()

    try:
        function(job, report)
    except PreemptedError:
        connection.send(("preempted", None))
    except CmdcmError as error:
        connection.send(("failed", str(error)))
    except Exception as error:
        traceback.print_exc()
        connection.send(("failed", f"{type(error).__name__}: {error}"))
    else:
        connection.send(("done", None))


def end_with_parent() -> None:
    """Waits for the process that started this one, and then ends this one at once."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
