"""What is known of a version: its state, and why it could not be loaded."""

import enum
from dataclasses import dataclass

import grpc


class State(enum.IntEnum):
    """States of a version, with the numbers of `ModelVersionStatus.State`."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class VersionStatus:
    """What is known of one version; `code` is OK unless it could not be loaded."""

    version: int
    state: State
    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""
