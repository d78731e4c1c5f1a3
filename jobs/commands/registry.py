"""`cmdcm registry`: registers versions, and tells what each was made of."""

import argparse
import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError, ServingError
from cmdcm.core.locations import location
from cmdcm.export.versions import versions
from cmdcm.jobs.registry.aliases import differences, follow
from cmdcm.jobs.registry.lineage import Lineage, lineage_of
from cmdcm.jobs.registry.registry import Registered, Registry
from cmdcm.jobs.rollout.config_file import ModelConfigFile, placement_of
from cmdcm.jobs.rollout.lock import rollout_lock
from cmdcm.model.evaluation import load_evaluation
from cmdcm.model.mlflow_run import flat

EXAMPLE = "cmdcm registry diff champion challenger"

_SHA = 12  # characters of a checksum that are shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument("action", choices=["list", "show", "diff", "register", "sync"])
    parser.add_argument(
        "versions", nargs="*", help="numbers or aliases: one to show, two to compare"
    )
    parser.add_argument("--model", help="name of the served model (default: export.name)")
    parser.add_argument(
        "--model_config_file",
        type=Path,
        help="the servers' model config file: sync sets the aliases by its labels, list compares "
        "them (default: serving.model_config_file)",
    )
    parser.add_argument(
        "--export", type=location, help="version to register, BASE/NUMBER, or BASE for its newest"
    )
    parser.add_argument("--trained", type=Path, help="the model that it was made of, RUN/model")
    parser.add_argument("--evaluation", type=Path, help="an evaluation of that model")
    parser.add_argument("--promotion", default="", help="promotion that it is for")
    parser.add_argument("--as_of", default="", help="instant after which nothing was known")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, config: Config) -> int:
    """Acts, and prints."""
    wanted = {"show": 1, "diff": 2}.get(args.action, 0)
    if len(args.versions) != wanted:
        raise ConfigError(
            f"{args.action} takes {wanted or 'no'} versions. Received: {args.versions}"
        )
    if args.action == "register" and not (args.export and args.trained):
        raise ConfigError("register needs --export and --trained")
    named = args.model_config_file or config.serving.model_config_file
    file = Path(named) if named else None
    registry = Registry.of(config, args.model or "")
    match args.action:
        case "list":
            return _list(registry, args, file)
        case "show":
            return _show(registry, args)
        case "diff":
            return _diff(registry, args)
        case "register":
            return _register(registry, args)
        case _:
            return _sync(registry, file)


def _list(registry: Registry, args: argparse.Namespace, file: Path | None) -> int:
    found = registry.versions()
    if args.json:
        print(json.dumps([_as_dict(version) for version in found], indent=2))
    elif not found:
        print(f"no version of {registry.model} is registered in {registry.uri}")
    else:
        rows = [("version", "aliases", "registered", "model", "training days", "code")]
        rows += [
            (
                str(v.version),
                ", ".join(v.aliases) or "-",
                _time(v.created_ms),
                v.tags.get("model", ""),
                v.tags.get("data.train", ""),
                v.tags.get("code_revision", "")[:_SHA],
            )
            for v in found
        ]
        _print_rows(rows)
    if file is not None:
        labels = placement_of(ModelConfigFile(file, registry.model).entry()).labels
        faults = differences(registry, labels)
        if faults:
            raise ServingError("; ".join(faults))
    return 0


def _show(registry: Registry, args: argparse.Namespace) -> int:
    version = registry.resolve(args.versions[0])
    lineage = registry.lineage(version.version)
    if args.json:
        print(json.dumps({**_as_dict(version), "lineage": lineage.as_dict()}, indent=2))
        return 0
    rows = [
        ("version", f"{version.version} of {registry.model}"),
        ("aliases", ", ".join(version.aliases) or "-"),
        ("registered", _time(version.created_ms)),
        ("export", version.export),
        ("manifest SHA-256", version.manifest_sha256),
        ("run", version.run),
        *((name, text) for name, text in _leaves(lineage).items() if text not in ("", "{}")),
    ]
    _print_rows(rows)
    return 0


def _diff(registry: Registry, args: argparse.Namespace) -> int:
    sides = [registry.resolve(name) for name in args.versions]
    leaves = [_leaves(registry.lineage(side.version)) for side in sides]
    names = [
        name for name in {**leaves[0], **leaves[1]} if leaves[0].get(name) != leaves[1].get(name)
    ]
    if args.json:
        changes = {name: [side.get(name) for side in leaves] for name in names}
        print(json.dumps(changes, indent=2))
        return 0
    if not names:
        print(f"versions {sides[0].version} and {sides[1].version} were made of the same")
        return 0
    rows = [("", *(str(side.version) for side in sides), "change")]
    rows += [
        (name, *(side.get(name, "-") for side in leaves), _change(*(s.get(name) for s in leaves)))
        for name in names
    ]
    _print_rows(rows)
    return 0


def _register(registry: Registry, args: argparse.Namespace) -> int:
    export = args.export
    if not export.name.isdecimal():
        found = versions(export)
        if not found:
            raise ConfigError(f"{export} holds no version; pass BASE/NUMBER as --export")
        export = export / str(found[-1])
    evaluation = load_evaluation(args.evaluation / "evaluation.json") if args.evaluation else None
    lineage = lineage_of(
        args.trained, evaluation=evaluation, promotion=args.promotion, as_of=args.as_of
    )
    number = registry.register(export, lineage)
    print(f"version {number} of {registry.model} is registered in {registry.uri}")
    return 0


def _sync(registry: Registry, file: Path | None) -> int:
    if file is None:
        raise ConfigError("set --model_config_file, the file that the servers read")
    with rollout_lock(file):
        labels = placement_of(ModelConfigFile(file, registry.model).entry()).labels
        aliases = follow(registry, labels)
    print(", ".join(f"{alias} = {version}" for alias, version in sorted(aliases.items())) or "none")
    faults = differences(registry, labels)
    if faults:
        raise ServingError("; ".join(faults))
    return 0


def _as_dict(version: Registered) -> dict[str, Any]:
    return {
        "version": version.version,
        "aliases": list(version.aliases),
        "registered": _time(version.created_ms),
        "export": version.export,
        "manifest_sha256": version.manifest_sha256,
        "run": version.run,
        "tags": dict(version.tags),
    }


def _leaves(lineage: Lineage) -> Mapping[str, str]:
    """Returns every value of a lineage by its dotted name."""
    return dict(flat(lineage.as_dict()))


def _change(before: str | None, after: str | None) -> str:
    """Returns the difference of two numbers; nothing for what is none."""
    try:
        return f"{float(after or '') - float(before or ''):+.6g}"
    except ValueError:
        return ""


def _time(time_ms: int) -> str:
    time = datetime.datetime.fromtimestamp(time_ms / 1000, datetime.UTC)
    return time.strftime("%Y-%m-%d %H:%M UTC")


def _print_rows(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
