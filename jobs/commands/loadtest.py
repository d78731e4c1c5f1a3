"""`cmdcm loadtest`: latency, errors, CPU and limit of a scoring server."""

import argparse
import os
from pathlib import Path

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError
from cmdcm.core.files import staged_directory
from cmdcm.features.spec import FeatureSpec
from cmdcm.jobs.loadtest.arrivals import ARRIVALS
from cmdcm.jobs.loadtest.measurement import Measured, measure_closed_loop, measure_open_loop
from cmdcm.jobs.loadtest.report import Result, table, write_report
from cmdcm.jobs.loadtest.saturation import Bounds, Saturation, find_saturation
from cmdcm.jobs.loadtest.statistics import Summary
from cmdcm.jobs.loadtest.traffic import Mix, Traffic, read_rows
from cmdcm.jobs.served_model import add_spec_arguments, load_spec, newest_version
from cmdcm.serving.channels import ClientTls
from cmdcm.serving.scoring import CANDIDATES_SIGNATURE, SIGNATURES
from cmdcm.serving.warmup import WARMUP_FILE

EXAMPLE = (
    "cmdcm loadtest --target 127.0.0.1:8500 --model_base_path out/serving/cmdcm "
    "--mix 100:3,500:1 --rate 50 --output out/loadtest"
)

_MAX_ROWS = 20_000
_LEAST_CALLS = 20  # of a measurement; the percentiles of fewer say nothing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument(
        "--target", help="HOST:PORT of the server (default: serving.host and serving.port)"
    )
    parser.add_argument("--model_name", help="name of the served model (default: export.name)")
    parser.add_argument("--label", default="", help="version label to ask for, such as canary")
    parser.add_argument("--server_pid", type=int, help="process whose CPU time to measure, too")
    parser.add_argument("--tls", action="store_true", help="call with TLS")
    for flag, what in (
        ("root_certificates", "of the authorities that signed the server's certificate"),
        ("private_key", "of the client's key, for mutual TLS"),
        ("certificate_chain", "of the client's certificate, for mutual TLS"),
    ):
        parser.add_argument(f"--{flag}", type=Path, metavar="FILE", help=f"PEM {what}")
    parser.add_argument("--server_name", default="", help="name in the server's certificate")
    add_spec_arguments(parser)
    parser.add_argument(
        "--requests",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="TFRecords of PredictionLog to draw users and candidates from (default: the warm-up "
        "requests of the newest version under --model_base_path)",
    )
    parser.add_argument(
        "--mix",
        default="100:1,500:1",
        help="number of candidates and share of each, SIZE:WEIGHT,... (default: %(default)s)",
    )
    parser.add_argument(
        "--signature",
        nargs="+",
        choices=SIGNATURES,
        default=[CANDIDATES_SIGNATURE],
        help="signatures to measure, one after the other (default: %(default)s)",
    )
    parser.add_argument(
        "--rate", type=float, nargs="+", default=[], help="open loop: calls a second"
    )
    parser.add_argument(
        "--clients", type=int, nargs="+", default=[], help="closed loop: callers at once"
    )
    parser.add_argument(
        "--saturate",
        type=float,
        metavar="RATE",
        help="search the highest rate within the bounds, from this one on",
    )
    parser.add_argument(
        "--max_p99_ms", type=float, default=10.0, help="its bound of p99 (default: %(default)s)"
    )
    parser.add_argument(
        "--max_errors",
        type=float,
        default=0.0,
        help="its bound of the share of failed calls (default: %(default)s)",
    )
    parser.add_argument(
        "--arrivals",
        choices=ARRIVALS,
        default=ARRIVALS[0],
        help="when calls of an open loop are due",
    )
    parser.add_argument(
        "--seconds", type=float, default=12.0, help="of a measurement (default: %(default)s)"
    )
    parser.add_argument(
        "--warmup", type=float, default=2.0, help="of these left out (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of arrivals and requests")
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")


def run(args: argparse.Namespace, config: Config) -> int:
    """Measures, writes the report and prints its table."""
    if not args.rate and not args.clients and args.saturate is None:
        raise ConfigError("set --rate (open loop), --clients (closed loop) or --saturate")
    if min([1, *args.clients]) < 1:
        raise ConfigError(f"--clients should be positive. Received: {args.clients}")
    bounds = Bounds(args.max_p99_ms, args.max_errors)
    spec = load_spec(args)
    measured = _measured(args, config, spec)
    traffic = _traffic(args, config, spec)
    results: list[Result] = []
    saturation: dict[str, Saturation] = {}
    with staged_directory(args.output, overwrite=args.overwrite) as staging:
        for signature in args.signature:

            def at_rate(rate: float, signature: str = signature) -> Summary:
                summary = measure_open_loop(measured, traffic, signature, rate)
                name = f"{signature}, {rate:.4g} calls/s"
                results.append(Result(name, signature, {"rate": rate}, summary))
                return summary

            for rate in args.rate:
                at_rate(rate)
            for clients in args.clients:
                summary = measure_closed_loop(measured, traffic, signature, clients)
                name = f"{signature}, {clients} client{'s' if clients > 1 else ''}"
                results.append(Result(name, signature, {"clients": clients}, summary))
            if args.saturate is not None:
                saturation[signature] = find_saturation(
                    at_rate, bounds, args.saturate, least=_LEAST_CALLS / args.seconds
                )
        write_report(staging, _settings(args, measured), results, saturation)
    print(table(results, saturation), end="")
    print(f"see {args.output / 'loadtest.svg'}")
    return 0


def _measured(args: argparse.Namespace, config: Config, spec: FeatureSpec) -> Measured:
    pems = (args.root_certificates, args.private_key, args.certificate_chain)
    tls = ClientTls(*pems, args.server_name) if args.tls or any(pems) else None
    return Measured(
        target=args.target or f"{config.serving.host}:{config.serving.port}",
        model_name=args.model_name or config.export.name,
        spec=spec,
        label=args.label,
        deadline_ms=config.serving.deadline_ms,
        max_message_mb=config.serving.max_message_mb,
        sizes=config.export.warmup_candidates,
        tls=tls,
        server_pid=args.server_pid,
        warmup=args.warmup,
        seconds=args.seconds,
        arrivals=args.arrivals,
        seed=args.seed,
    )


def _traffic(args: argparse.Namespace, config: Config, spec: FeatureSpec) -> Traffic:
    mix = Mix.parse(args.mix)
    files = args.requests
    if not files:
        if args.model_base_path is None:
            raise ConfigError(
                "requests to send are needed: pass --requests FILE (logged requests) or "
                "--model_base_path DIR (the export directory, for its warm-up requests)"
            )
        files = [newest_version(args.model_base_path) / WARMUP_FILE]
    max_bytes = config.serving.max_message_mb << 20
    rows = read_rows(files, spec, max_rows=_MAX_ROWS, max_bytes=max_bytes)
    return Traffic(rows, spec, mix, args.seed)


def _settings(args: argparse.Namespace, measured: Measured) -> dict[str, object]:
    """Returns what a reader needs to judge the figures or to measure again."""
    return {
        "target": measured.target,
        "model_name": measured.model_name,
        "label": measured.label,
        "mix": {str(size): weight for size, weight in Mix.parse(args.mix).weights.items()},
        "padded_to": list(measured.sizes),
        "arrivals": measured.arrivals,
        "seconds": measured.seconds,
        "warmup": measured.warmup,
        "seed": measured.seed,
        "deadline_ms": measured.deadline_ms,
        "max_p99_ms": args.max_p99_ms,
        "max_errors": args.max_errors,
        "cpus": os.cpu_count(),
    }
