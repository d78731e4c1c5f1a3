"""`cmdcm abtest`: an ad auction replayed in a simulated pre-promotion window, policy by policy."""

import argparse
from pathlib import Path
from typing import Any

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError
from cmdcm.core.files import read_json, staged_directory, write_json, write_manifest
from cmdcm.datasets.log import open_event_log
from cmdcm.jobs.abtest import compare, replay
from cmdcm.jobs.abtest_page import render
from cmdcm.jobs.policies import BUILT_IN, Scorer, open_scorer
from cmdcm.jobs.tables import bounds, number

EXAMPLE = (
    "cmdcm abtest --events out/demo/events --preset demo --model cmdcm=out/demo/runs/cmdcm/model "
    "--model single_task=out/demo/runs/single_task/model --model oracle --model random "
    "--baseline single_task --output out/abtest"
)
RESULT, PAGE = "abtest.json", "abtest.html"
SHOWN = ("revenue", "delayed_gmv", "direct_gmv", "gmv", "conversions")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--events", type=Path, required=True, help="a simulated event log")
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="[NAME=]DIR",
        help=f"a trained model (RUN/model) or an exported version; or {' or '.join(BUILT_IN)}; "
        "may be repeated",
    )
    parser.add_argument("--baseline", required=True, help="policy that the others compare with")
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")


def run(args: argparse.Namespace, config: Config) -> int:
    """Replays the auctions, writes the numbers and the page, and prints the main ones."""
    policies: dict[str, Scorer | None] = {}
    for argument in args.model:
        name, scorer = _policy(argument)
        if name in policies:
            raise ConfigError(f"--model {argument}: there are two policies {name!r}")
        policies[name] = scorer
    if args.baseline not in policies:
        raise ConfigError(f"--baseline {args.baseline} is none of the policies {sorted(policies)}")
    result = compare(replay(open_event_log(args.events), policies, config), args.baseline, config)
    with staged_directory(args.output, overwrite=args.overwrite) as staging:
        write_json(staging / RESULT, result)
        config.save(staging / "config.json")
        (staging / PAGE).write_text(render(result), encoding="utf-8")
        write_manifest(staging, {"kind": "abtest", "policies": list(policies)})
    print(table(result))
    print(f"experiment in {args.output}")
    return 0


def table(result: dict[str, Any]) -> str:
    """Returns the differences to the baseline as text."""
    lines = [
        f"{result['auctions']['requests']:,} requests of {result['auctions']['users']:,} users, "
        f"{result['days'][0]} to {result['days'][-1]}; expected sums, in % of {result['baseline']}"
    ]
    lines += [f"note: {note}" for note in result["notes"]]
    lines.append(f"{'policy':14} " + " ".join(f"{name:>28}" for name in SHOWN))
    for name in result["policy_names"]:
        metrics = result["policies"][name]
        cells = []
        for metric in SHOWN:
            entry = metrics[metric]["expected"]
            if name == result["baseline"]:
                cells.append(f"{entry['total']['estimate']:,.0f}")
            else:
                interval = entry["difference"]
                cells.append(
                    f"{number(interval['estimate'], 2, signed=True)} "
                    f"[{bounds(interval, 2, signed=True)}]"
                )
        lines.append(f"{name:14} " + " ".join(f"{cell:>28}" for cell in cells))
    return "\n".join(lines)


def _policy(argument: str) -> tuple[str, Scorer | None]:
    if argument in BUILT_IN:
        return argument, None
    name, _, directory = argument.rpartition("=")
    if name in BUILT_IN:
        raise ConfigError(f"--model {argument}: {name!r} is a built-in policy; choose another name")
    path = Path(directory)
    scorer = open_scorer(path)
    return name or str(read_json(path / "config.json", "configuration")["model"]["name"]), scorer
