"""Steps: pure functions of declared inputs, whose results are found again by what made them.

A step's key is a digest of its name and version, the sections of the configuration that it reads,
the digests of its inputs' results, and what else it declares. Its directory is `WORK/steps/
NAME-KEY`; `step.json` there, written last, says that it is complete and holds the digest of its
result. So a run does what is missing and nothing else, a killed step goes on or begins again, and a
step whose inputs were made anew but are equal is not run again.

A step's module is imported when the step runs: a run that finds all steps done never loads
TensorFlow.
"""

import hashlib
import importlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from absl import logging

from cmdcm.core.config import Config, Section
from cmdcm.core.errors import RetrainError
from cmdcm.core.files import output_errors, read_json, staged_file, write_json
from cmdcm.jobs.retrain.memory import peak_mib, reset_peak
from cmdcm.jobs.retrain.window import Window

DONE = "step.json"
_RUNTIME = {"features": ("memory_gib", "workers"), "training": ("devices",)}
"""Settings of sections that change no result."""


class FrozenError(RetrainError):
    """A job that may not move labels forward: a promotion is about to start or has just started."""


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: Its name.
        needs: The steps whose results it reads.
        sections: Sections of the configuration that it reads.
        module: Module with `run(context, output)`, which returns the step's summary, JSON values
            with the `digest` of its result among them.
        effect: Whether it changes what others see (a base path, a registry, servers).
        version: Raised when the code gives other results.
    """

    name: str
    needs: tuple[str, ...]
    sections: tuple[str, ...]
    module: str
    effect: bool = False
    version: int = 1


@dataclass(frozen=True)
class Done:
    """A finished step.

    Attributes:
        path: Its directory.
        summary: What it said of itself.
        seconds: How long it took.
        peak_mib: The most memory that the process held in it, in MiB; None if not known.
        reused: Whether it was done before this run.
    """

    path: Path
    summary: Mapping[str, Any]
    seconds: float
    peak_mib: float | None
    reused: bool = True

    @property
    def digest(self) -> str:
        """The digest of the result."""
        return str(self.summary["digest"])


@dataclass
class Context:
    """What a step sees.

    Attributes:
        config: The configuration of the job.
        window: Promotion, as-of instant, known labels.
        done: The results of earlier steps by name.
        serving: What is known of the serving model (`cmdcm.jobs.retrain.served`); None on the first
            run.
        base: The trained model that training starts from; None for a cold start.
        override: `by` and `reason` of a person who accepts what the gate refuses; None for nobody.
        by: Who runs the job, for audit logs.
        check: Raises when the job should go no further: late, or without its lock.
        check_freeze: Raises a `FrozenError` when labels may not move forward.
        clock: Seconds since the epoch.
    """

    config: Config
    window: Window
    done: dict[str, Done] = field(default_factory=dict)
    serving: Mapping[str, Any] | None = None
    base: Mapping[str, Any] | None = None
    override: Mapping[str, str] | None = None
    by: str = ""
    check: Callable[[], None] = lambda: None
    check_freeze: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.time

    @property
    def work(self) -> Path:
        """The job's directory."""
        return Path(self.config.retrain.work).resolve()

    @property
    def candidate(self) -> Done:
        """The step that made the model to judge: `refresh` where it went on from `train`."""
        refreshed = self.done.get("refresh")
        if refreshed is None or "skipped" in refreshed.summary:
            return self.done["train"]
        return refreshed


def step_key(step: Step, context: Context, extra: Mapping[str, Any]) -> str:
    """Returns the key of a step whose inputs are done."""
    config = context.config
    sections = {}
    for name in step.sections:
        value = getattr(config, name)
        if isinstance(value, Section):
            value = value.model_dump(mode="json", exclude=set(_RUNTIME.get(name, ())))
        sections[name] = value
    described = {
        "step": step.name,
        "version": step.version,
        "sections": sections,
        "needs": {name: context.done[name].digest for name in step.needs},
        "extra": dict(extra),
    }
    return digest_of(described)[:16]


def digest_of(value: object) -> str:
    """Returns the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def find(step: Step, key: str, work: Path) -> Done | None:
    """Returns a step's result if it is complete."""
    path = work / "steps" / f"{step.name}-{key}"
    if not (path / DONE).exists():
        return None
    said = read_json(path / DONE, f"result of step {step.name}")
    return Done(path, said["summary"], said["seconds"], said["peak_mib"])


def run_step(step: Step, context: Context, key: str) -> Done:
    """Runs a step that is not done, or goes on with it; publishes `step.json` at its end."""
    path = context.work / "steps" / f"{step.name}-{key}"
    with output_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    logging.info("step %s in %s", step.name, path)
    reset_peak()
    started = time.monotonic()
    module = importlib.import_module(step.module)
    with output_errors(path):
        summary = module.run(context, path)
        seconds, peak = time.monotonic() - started, peak_mib()
        with staged_file(path / DONE) as staging:
            write_json(
                staging,
                {
                    "step": step.name,
                    "key": key,
                    "summary": summary,
                    "seconds": seconds,
                    "peak_mib": peak,
                    "as_of": context.window.observed_until(),
                    "inputs": {name: context.done[name].digest for name in step.needs},
                },
            )
    return Done(path, summary, seconds, peak, reused=False)


def earlier_seconds(name: str, work: Path) -> list[float]:
    """Returns how long a step took in earlier runs, the latest last."""
    files = _results(name, work)
    return [float(read_json(file, "result of a step")["seconds"]) for file in files]


def latest(name: str, work: Path) -> Path | None:
    """Returns the directory of a step's latest result, None if there is none."""
    files = _results(name, work)
    return files[-1].parent if files else None


def _results(name: str, work: Path) -> list[Path]:
    return sorted((work / "steps").glob(f"{name}-*/{DONE}"), key=lambda f: f.stat().st_mtime)


def names(steps: Sequence[Step]) -> list[str]:
    """Returns the steps' names in order."""
    return [step.name for step in steps]
