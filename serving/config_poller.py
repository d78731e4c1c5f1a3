"""Following a model config file: what it says is served, also after it changes."""

import threading
from pathlib import Path

from absl import logging

from cmdcm.core.errors import CmdcmError
from cmdcm.serving.model_config import read_model_config
from cmdcm.serving.models import Models


class ConfigPoller:
    """Reads a model config file again and again and puts it in place.

    Every look applies the file, changed or not, as TensorFlow Serving does: a label that was
    refused because its version was still loading is set at the next look, and what a reload
    request has changed meanwhile is undone. A file that cannot be put in place changes nothing.

    Args:
        models: The served models.
        path: A text proto of ModelServerConfig.
        poll_seconds: Seconds between two looks at the file.
    """

    def __init__(self, models: Models, path: Path, poll_seconds: float):
        self._models = models
        self._path = Path(path)
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="model-config", daemon=True)
        self._complaint = ""

    def start(self) -> None:
        """Starts to look at the file in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stops; a reload under way ends first."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def poll(self) -> None:
        """Reads the file once and puts it in place."""
        try:
            self._models.reload(read_model_config(self._path))
        except CmdcmError as error:
            if str(error) != self._complaint:  # once, not at every poll
                logging.error("%s is not put in place: %s", self._path, error)
            self._complaint = str(error)
        else:
            self._complaint = ""

    def _run(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            try:
                self.poll()
            except Exception:  # the thread must outlive a surprise; the next poll may succeed
                logging.exception("polling %s failed", self._path)
