"""Writing deployment files, and reading what they say."""

from pathlib import Path

import yaml

from cmdcm.core.config import load_config
from cmdcm.jobs.deployment.render import Versions, write_deployment


def write(output: Path, *overrides: str, base: str = "/srv/models", canary: int | None = 4) -> Path:
    write_deployment(output, load_config(overrides=overrides), Versions(Path(base), 3, canary))
    return output


def documents(path: Path) -> list[dict]:
    return list(yaml.safe_load_all(path.read_text()))


def deployment(written: Path, name: str) -> dict:
    return documents(written / "kubernetes" / f"{name}.yaml")[0]


def pod(written: Path, name: str) -> dict:
    return deployment(written, name)["spec"]["template"]["spec"]


def flags(command: list[str]) -> dict[str, str]:
    return dict(argument.removeprefix("--").split("=", 1) for argument in command[1:])
