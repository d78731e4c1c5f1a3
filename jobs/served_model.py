"""What commands ask of a served model's folders: its features, its newest version, its state."""

import argparse
from pathlib import Path

from cmdcm.core.config import Config
from cmdcm.core.errors import CmdcmError, ConfigError, DataError, ServingError
from cmdcm.export.versions import check_version
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


def check_servable(version: int, folder: Path, config: Config) -> None:
    """Checks a version before servers are told of it: tensorflow_model_server checks nothing.

    Raises:
        ServingError: Its files differ from its manifest, or its graph is not trusted.
    """
    try:
        check_version(folder, require_manifest=config.serving.require_manifest)
    except CmdcmError as error:
        raise ServingError(f"version {version} should not be served: {error}") from error


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
