"""The set of served models: their versions and labels, replaced as a whole by a new config.

Behaviour and codes follow TensorFlow Serving's `server_core.cc`. It differs in that a config that
cannot be put in place changes nothing at all.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
from absl import logging
from tensorflow_serving.apis import model_pb2
from tensorflow_serving.config import model_server_config_pb2

from cmdcm.core.errors import ServingError
from cmdcm.serving.loading import load_servable
from cmdcm.serving.model_config import ModelSettings, model_settings
from cmdcm.serving.servable import Servable
from cmdcm.serving.status import StatusError, invalid_argument, not_found
from cmdcm.serving.version_status import VersionStatus
from cmdcm.serving.versions import ModelVersions

_KEPT_MODELS = 100  # removed models whose status is still told


@dataclass(frozen=True)
class _Served:
    versions: ModelVersions
    labels: Mapping[str, int]


class Models:
    """Serves the models of a ModelServerConfig; safe to call from many threads.

    Args:
        poll_seconds: Seconds between two looks at a model's base path; 0 looks once only.
        max_num_load_retries: How often a version that cannot be loaded is tried again.
        load_retry_seconds: Seconds before it is tried again.
        allow_version_labels_for_unavailable_models: Let a label that is new name a version that
            does not serve.
        load: Loads a version from (folder, name, number).

    Example:
        >>> models = Models()  # doctest: +SKIP
        >>> models.reload(single_model_config("cmdcm", Path("out/export")))  # doctest: +SKIP
        >>> with models.use(ModelSpec(name="cmdcm")) as servable:  # doctest: +SKIP
        ...     servable.predict("serving_default", {"examples": examples})
        >>> models.stop()  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        poll_seconds: float = 2.0,
        max_num_load_retries: int = 5,
        load_retry_seconds: float = 60.0,
        allow_version_labels_for_unavailable_models: bool = False,
        load: Callable[[Path, str, int], Servable] = load_servable,
    ):
        self._poll_seconds = poll_seconds
        self._max_num_load_retries = max_num_load_retries
        self._load_retry_seconds = load_retry_seconds
        self._allow_unavailable_labels = allow_version_labels_for_unavailable_models
        self._load = load
        self._reloading = threading.Lock()
        self._configured = False
        # Replaced as a whole, so that a request sees the set of before or the new one.
        self._served: Mapping[str, _Served] = {}
        self._removed: dict[str, ModelVersions] = {}

    def names(self) -> list[str]:
        """Returns the names of the served models."""
        return sorted(self._served)

    def available(self, name: str) -> list[int]:
        """Returns the versions of a model that serve, in ascending order; none if unknown."""
        served = self._served.get(name)
        return [] if served is None else served.versions.available()

    def reload(self, config: model_server_config_pb2.ModelServerConfig) -> None:
        """Serves the models of `config` and no others; also the first ones.

        Returns once each new model serves a version. What the config changes in the others, as
        their version policy, is done after that. A model that is not listed is unloaded when the
        calls that use it have ended.

        Raises:
            StatusError: And nothing has changed. INVALID_ARGUMENT, the config cannot be;
                FAILED_PRECONDITION, a label names a version that does not serve, or the config
                lists no models where there were some; UNKNOWN, a new model cannot be loaded.
        """
        with self._reloading:
            if config.WhichOneof("config") is None:
                if self._configured:
                    raise StatusError(
                        grpc.StatusCode.FAILED_PRECONDITION,
                        "Cannot transition to requested config. It is only legal to transition "
                        "from one ModelConfigList to another.",
                    )
                return
            wanted = model_settings(config)
            for settings in wanted.values():
                self._check_labels(settings)
            self._replace(wanted, self._start(wanted))
            self._configured = True

    def stop(self) -> None:
        """Unloads all models; calls under way end first."""
        with self._reloading:
            every = [served.versions for served in self._served.values()]
            every += self._removed.values()
            for versions in every:
                versions.close()
            for versions in every:
                versions.join()

    @contextlib.contextmanager
    def use(self, spec: model_pb2.ModelSpec) -> Iterator[Servable]:
        """Yields the servable that a ModelSpec means, which stays loaded until the block ends.

        Raises:
            StatusError: INVALID_ARGUMENT for no name or an unknown label, NOT_FOUND for a model or
                version that does not serve.
        """
        with contextlib.ExitStack() as stack:
            yield self._enter(stack, spec)

    def _enter(self, stack: contextlib.ExitStack, spec: model_pb2.ModelSpec) -> Servable:
        while True:
            served = self._find(spec)
            if served is None:
                raise not_found(f"Could not find any versions of model {spec.name}")
            version = _version(spec, served.labels)
            try:
                return stack.enter_context(served.versions.use(version))
            except StatusError:
                # A reload may have moved the label and dropped the version that it named.
                if self._find(spec) is served:
                    raise

    def statuses(self, spec: model_pb2.ModelSpec) -> list[VersionStatus]:
        """Returns the status of the version that a ModelSpec names, or of all, newest first.

        A model that was removed is still known, until a hundred others are.

        Raises:
            StatusError: INVALID_ARGUMENT for no name or an unknown label, NOT_FOUND for a model or
                version that was never seen.
        """
        served = self._find(spec)
        if served is not None:
            return served.versions.statuses(_version(spec, served.labels))
        removed = self._removed.get(spec.name)
        if removed is None:
            raise not_found(f"Could not find any versions of model {spec.name}")
        return removed.statuses(_version(spec, {}))

    def _find(self, spec: model_pb2.ModelSpec) -> _Served | None:
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        return self._served.get(spec.name)

    def _check_labels(self, settings: ModelSettings) -> None:
        served = self._served.get(settings.name)
        labels = {} if served is None else served.labels
        available = self.available(settings.name)
        for label, version in settings.labels.items():
            is_new = labels.get(label, version) == version
            if version not in available and not (self._allow_unavailable_labels and is_new):
                raise StatusError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"Request to assign label to version {version} of model {settings.name}, which "
                    f"is not currently available for inference (label {label!r}). Load the "
                    "version first, or set allow_version_labels_for_unavailable_models to let new "
                    "labels come before their version",
                )

    def _start(self, wanted: Mapping[str, ModelSettings]) -> dict[str, ModelVersions]:
        """Returns the started versions of the models that are new."""
        started: dict[str, ModelVersions] = {}
        try:
            for settings in wanted.values():
                if settings.name in self._served:
                    continue
                started[settings.name] = ModelVersions(
                    settings.name,
                    settings.base_path,
                    policy=settings.policy,
                    poll_seconds=self._poll_seconds,
                    max_num_load_retries=self._max_num_load_retries,
                    load_retry_seconds=self._load_retry_seconds,
                    load=self._load,
                )
                started[settings.name].start()
        except ServingError as error:
            for versions in started.values():
                versions.close()
            raise StatusError(
                grpc.StatusCode.UNKNOWN, f"1 model(s) did not become available: {error}"
            ) from error
        return started

    def _replace(
        self, wanted: Mapping[str, ModelSettings], started: Mapping[str, ModelVersions]
    ) -> None:
        old = self._served
        self._served = {
            name: _Served(started[name] if name in started else old[name].versions, settings.labels)
            for name, settings in wanted.items()
        }
        for name, settings in wanted.items():
            self._removed.pop(name, None)
            if name not in started:
                old[name].versions.configure(settings.base_path, settings.policy)
        for name in sorted(set(old) - set(wanted)):
            logging.info("model %r is no longer served", name)
            self._removed[name] = old[name].versions
            old[name].versions.close()
        for name in list(self._removed)[:-_KEPT_MODELS]:
            del self._removed[name]


def _version(spec: model_pb2.ModelSpec, labels: Mapping[str, int]) -> int | None:
    """Returns the number of the version that a ModelSpec names; None for the newest."""
    match spec.WhichOneof("version_choice"):
        case "version":
            return spec.version.value
        case "version_label":
            if spec.version_label not in labels:
                raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
            return labels[spec.version_label]
        case _:
            return None
