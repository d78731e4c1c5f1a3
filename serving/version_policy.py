"""Which of the versions in a base path are wanted: the policies latest, all and specific."""

from collections.abc import Callable, Collection

from tensorflow_serving.config.file_system_storage_path_source_pb2 import (
    FileSystemStoragePathSourceConfig,
)

VersionPolicy = Callable[[Collection[int]], set[int]]
"""Chooses the wanted ones among the numbers of the versions found."""


def latest(found: Collection[int]) -> set[int]:
    """Returns the newest version alone, as is the default.

    Example:
        >>> latest({1, 9, 20})
        {20}
    """
    return set(sorted(found)[-1:])


def version_policy(proto: FileSystemStoragePathSourceConfig.ServableVersionPolicy) -> VersionPolicy:
    """Returns the policy that a `model_version_policy` describes; latest(1) if it is empty.

    Example:
        >>> policy = FileSystemStoragePathSourceConfig.ServableVersionPolicy()
        >>> policy.latest.num_versions = 2
        >>> sorted(version_policy(policy)({1, 9, 20}))
        [9, 20]
    """
    match proto.WhichOneof("policy_choice"):
        case "all":
            return set
        case "specific":
            versions: frozenset[int] = frozenset(proto.specific.versions)
            return lambda found: set(found) & versions
        case _:
            count = max(proto.latest.num_versions, 1)
            return lambda found: set(sorted(found)[-count:])
