"""Writes the plots of docs/causal.md from an evaluation, as the report draws them.

python -m cmdcm.tools.docs.causal_figures --evaluation out/confounded/evaluation
"""

import argparse
from pathlib import Path

from cmdcm.core.files import read_json
from cmdcm.jobs import causal_plots, plots

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


def main() -> None:
    """Writes overlap, balance, sensitivity and the calibration of e."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluation", type=Path, required=True, help="output of cmdcm evaluate")
    parser.add_argument("--model", default="cmdcm", help="model of the evaluation to show")
    parser.add_argument("--output", type=Path, default=IMAGES, help="directory of the images")
    args = parser.parse_args()
    evaluation = read_json(args.evaluation / "evaluation.json", "evaluation")
    summary = evaluation["models"][args.model]["causal"]
    truth = summary["populations"]["all"]["effect"].get("truth")
    bins = {args.model: summary["calibration"]["propensity"]["calibration"]}
    images = {
        "overlap": causal_plots.overlap(summary["overlap"]),
        "balance": causal_plots.love(summary["balance"]),
        "sensitivity": causal_plots.sensitivity(summary["sensitivity"], truth),
        "calibration": plots.calibration(bins, evaluation["model_names"], "Calibration of e"),
    }
    args.output.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        if image is not None:
            (args.output / f"causal_{name}.svg").write_text(image, encoding="utf-8")


if __name__ == "__main__":
    main()
