"""Airflow: the nightly job as a DAG of one task, for Airflow 3.

The job is resumable and locked by itself, so the DAG only maps its exit codes: what may go on is
retried, what needs a person fails at once, what waits for another night is skipped.
"""

import subprocess
from datetime import timedelta

import pendulum
from airflow.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from airflow.sdk import dag, task

COMMAND = [
    "/opt/cmdcm/bin/cmdcm",
    "retrain",
    "--promotion",
    "next",
    "--config",
    "/etc/cmdcm/production.toml",
]
WAITS = 8
"""Exit code of a run that is late, frozen, held after a roll-back, or locked out by another one."""

NEEDS_A_PERSON = {
    2: "the configuration is wrong",
    3: "the data are bad",
    4: "training cannot go on",
    5: "the gate or the export refused the model",
}
"""Exit codes that a second try would only repeat."""


def check(code: int) -> None:
    """Turns the job's exit code into what Airflow does with the task."""
    if code == 0:
        return
    if code == WAITS:
        raise AirflowSkipException("late, frozen, held, or another run has the lock; see its page")
    if code in NEEDS_A_PERSON:
        raise AirflowFailException(f"exit code {code}: {NEEDS_A_PERSON[code]}; see its page")
    raise AirflowException(f"exit code {code}: the same command goes on where it was")


@dag(
    schedule="30 2 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="Asia/Shanghai"),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=8),
    tags=["cmdcm"],
)
def cmdcm_retrain() -> None:
    """Retrains the ranking model before the next promotion."""

    @task(retries=3, retry_delay=timedelta(minutes=10))
    def retrain() -> None:
        check(subprocess.run(COMMAND, check=False).returncode)

    retrain()


cmdcm_retrain()
