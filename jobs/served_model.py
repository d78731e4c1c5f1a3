"""Where a command finds what belongs to a served model: its features and its warm-up requests."""

import argparse
from pathlib import Path

from cmdcm.core.errors import ConfigError, DataError
from cmdcm.features.spec import FeatureSpec
from cmdcm.serving.version_folders import find_versions

SPEC_FILE = Path("assets.extra") / "feature_spec.json"


def add_spec_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `load_spec` reads."""
    parser.add_argument("--spec", type=Path, help="feature_spec.json of the model")
    parser.add_argument(
        "--model_base_path",
        type=Path,
        help="export directory to take the newest version's spec from, if --spec is not given",
    )


def load_spec(args: argparse.Namespace) -> FeatureSpec:
    """Returns the features of the model that the flags name.

    Raises:
        ConfigError: No flag names it.
        DataError: There is no such file or version.
    """
    if args.spec is not None:
        return FeatureSpec.load(args.spec)
    if args.model_base_path is None:
        raise ConfigError(
            "the model's features are needed: pass --spec FILE (feature_spec.json of the export) "
            "or --model_base_path DIR (the export directory)"
        )
    return FeatureSpec.load(newest_version(args.model_base_path) / SPEC_FILE)


def newest_version(base_path: Path) -> Path:
    """Returns the folder of the newest version under a base path.

    Raises:
        DataError: It is no directory or holds no version.
    """
    if not base_path.is_dir():
        raise DataError(f"--model_base_path {base_path} is not a directory")
    versions = find_versions(base_path)
    if not versions:
        raise DataError(f"--model_base_path {base_path} holds no exported version")
    return versions[max(versions)]
