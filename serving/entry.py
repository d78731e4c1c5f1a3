"""Where the calls of both transports enter: under a deadline, counted, with errors as statuses."""

import time
from collections.abc import Callable
from typing import TypeVar

from absl import logging

from cmdcm.serving.calls import Call, work_on
from cmdcm.serving.handlers import Handlers
from cmdcm.serving.metrics import Metrics
from cmdcm.serving.status import StatusError, from_exception

_Answer = TypeVar("_Answer")


class Entry:
    """Runs the handlers of calls.

    Args:
        handlers: Answers the calls.
        metrics: Where inference calls are counted.

    Attributes:
        handlers: The handlers, for the transports to choose from.
        metrics: The metrics, for their page.
    """

    def __init__(self, handlers: Handlers, metrics: Metrics):
        self.handlers = handlers
        self.metrics = metrics

    def answer(self, handler: Callable[[], _Answer]) -> _Answer:
        """Runs a handler; whatever goes wrong becomes a status.

        Raises:
            StatusError: The handler's own, or INTERNAL for a defect, which is logged.
        """
        try:
            return handler()
        except StatusError:
            raise
        except Exception as error:  # a defect must not take the connection down
            logging.exception("call failed")
            raise from_exception(error) from error

    def infer(
        self, call: Call, entrypoint: str, model_name: str, handler: Callable[[], _Answer]
    ) -> _Answer:
        """Runs the handler of an inference call and counts it.

        Args:
            call: The call, which is the current one while the handler runs.
            entrypoint: `GRPC` or `REST`.
            model_name: Name of the model that is asked for.
            handler: Answers the call.

        Raises:
            StatusError: As `answer`, or DEADLINE_EXCEEDED, the deadline passed before.
        """
        status = "OK"
        try:
            with work_on(call):
                return self.answer(handler)
        except StatusError as error:
            status = error.code.name
            raise
        finally:
            # Names that clients make up are counted together: each would be a series that stays.
            name = model_name if model_name in self.handlers.models.names() else ""
            seconds = time.monotonic() - call.arrived
            self.metrics.request(name, call.api, entrypoint, status, seconds)
