"""`make check-airflow`: parses the handbook's DAG with a real Airflow, in its own environment."""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / "build" / "airflow"
REQUIREMENT = "apache-airflow>=3.0,<4"
CHECK = """
from airflow.dag_processing.dagbag import DagBag

bag = DagBag({folder!r})
assert not bag.import_errors, bag.import_errors
dag = bag.dags["cmdcm_retrain"]
assert dag.task_ids == ["retrain"], dag.task_ids
assert (dag.max_active_runs, dag.catchup) == (1, False)
print("parsed:", dag.dag_id, dag.task_ids)
"""


def main() -> int:
    """Installs Airflow where it is missing and returns the exit code of the check."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        venv.create(ENVIRONMENT, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", REQUIREMENT], check=True)
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(ENVIRONMENT / "home"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    environment.pop("PYTHONPATH", None)
    code = CHECK.format(folder=str(ROOT / "docs" / "schedulers"))
    return subprocess.run([python, "-c", code], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
