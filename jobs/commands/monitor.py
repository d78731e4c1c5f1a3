"""`cmdcm monitor`: what servers answered, against what happened."""

import argparse
import datetime
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from cmdcm.core.config import Config
from cmdcm.core.errors import CmdcmError, ConfigError
from cmdcm.core.files import staged_directory, write_json
from cmdcm.core.locations import location
from cmdcm.core.signals import Termination
from cmdcm.datasets.log import open_event_log
from cmdcm.jobs.monitor.alerts import alert_rules
from cmdcm.jobs.monitor.dashboard import dashboard
from cmdcm.jobs.monitor.endpoint import MetricsEndpoint
from cmdcm.jobs.monitor.monitor import Sources, monitor
from cmdcm.jobs.monitor.page import render
from cmdcm.jobs.monitor.prometheus import metrics_page, write_textfile

EXAMPLE = (
    "cmdcm monitor --requests out/requests/*.tfrecord --examples out/examples "
    "--events out/events --output out/status"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument(
        "--requests",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="TFRecords of PredictionLog with answers: a sample of the traffic; a quoted pattern "
        "is looked up at every look",
    )
    parser.add_argument(
        "--examples", type=Path, required=True, help="examples that the model was trained on"
    )
    parser.add_argument("--events", type=location, help="event log that goes on, for the labels")
    parser.add_argument(
        "--reference",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="earlier TFRecords of PredictionLog, by which the scores are measured",
    )
    parser.add_argument("--model_base_path", type=Path, help="base path, for the versions' age")
    parser.add_argument(
        "--model_config_file",
        type=Path,
        help="the servers' model config file, for labels and registry (default: "
        "serving.model_config_file)",
    )
    parser.add_argument(
        "--retrain_work", type=Path, help="retrain.work of the job, for what it last decided"
    )
    parser.add_argument("--now", help="instant to look from, ISO with a time zone (default: now)")
    parser.add_argument(
        "--textfile", type=Path, help="also write the metrics there, for the node exporter"
    )
    parser.add_argument(
        "--port",
        type=int,
        help="stay, look again and again, and answer Prometheus on this port; 0 for a free one",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to answer on (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--every",
        type=float,
        default=60.0,
        metavar="MINUTES",
        help="minutes between two looks, with --port (default: 60)",
    )
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")


def run(args: argparse.Namespace, config: Config) -> int:
    """Looks once; or, with a port, until SIGTERM or SIGINT."""
    if args.port is None:
        _look(args, config, overwrite=args.overwrite)
        return 0
    if args.now is not None:
        raise ConfigError("--port goes by the clock: leave --now out")
    if args.every <= 0:
        raise ConfigError("--every should be more than 0 minutes")
    with Termination() as termination, MetricsEndpoint(args.host, args.port) as endpoint:
        endpoint.show(_look(args, config, overwrite=args.overwrite))
        print(f"metrics at {endpoint.address}", flush=True)
        while _waited(60 * args.every, termination):
            try:
                endpoint.show(_look(args, config, overwrite=True))
            except CmdcmError as error:
                # The age of the last good look tells it: CmdcmMonitoringSilent.
                logging.error("cmdcm monitor: %s", error)
    return 0


def _look(args: argparse.Namespace, config: Config, *, overwrite: bool) -> Mapping[str, Any]:
    """Writes the status page, its numbers, the metrics, the alert rules and the dashboard."""
    named = args.model_config_file or config.serving.model_config_file
    sources = Sources(
        requests=list(_files(args.requests)),
        examples=args.examples,
        events=open_event_log(args.events) if args.events else None,
        reference=args.reference,
        base_path=args.model_base_path,
        model_config_file=Path(named) if named else None,
        retrain_work=args.retrain_work,
    )
    with staged_directory(args.output, overwrite=overwrite) as staging:
        result = monitor(sources, config, _now_ms(args.now))
        write_json(staging / "monitor.json", result)
        (staging / "status.html").write_text(render(result), encoding="utf-8")
        (staging / "metrics.prom").write_bytes(metrics_page(result))
        (staging / "alerts.yaml").write_text(alert_rules(config), encoding="utf-8")
        write_json(staging / "dashboard.json", dashboard(config))
    if args.textfile:
        write_textfile(args.textfile, result)
    for finding in result["findings"]:
        print(f"{finding['alert']:26}{finding['text']}")
    print(
        f"{result['rows']:,} scores of {result['requests']:,} requests: "
        f"{len(result['findings'])} findings; see {args.output / 'status.html'}",
        flush=True,
    )
    return result


def _files(patterns: Sequence[Path]) -> Iterator[Path]:
    """Yields the files of each pattern; one that has none stays, so that reading names it."""
    for pattern in patterns:
        base = pattern.anchor
        found = [] if pattern.exists() else Path(base).glob(str(pattern.relative_to(base)))
        yield from sorted(found) or [pattern]


def _waited(seconds: float, termination: Termination) -> bool:
    """Waits for the next look; False if the process should end instead."""
    until = time.monotonic() + seconds
    while not termination.asked and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 1.0))
    return not termination.asked


def _now_ms(text: str | None) -> int:
    if text is None:
        return round(datetime.datetime.now(datetime.UTC).timestamp() * 1000)
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"--now {text}: {error}") from error
    if time.tzinfo is None:
        raise ConfigError(f"--now {text} has no time zone; write it as 2026-11-10T12:00+08:00")
    return round(time.timestamp() * 1000)
