"""The report of an evaluation: one self-contained HTML page, and the same numbers as JSON.

The page loads nothing: style is inline and plots are SVG data URIs. All text is escaped.
"""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

import cmdcm
from cmdcm.core.files import staged_file
from cmdcm.jobs import plots
from cmdcm.jobs.causal_section import CALIBRATED, POPULATION_TEXTS, causal_sections
from cmdcm.jobs.tables import DIGITS, bounds, number, p_value, tables, text
from cmdcm.model.evaluation import DIFFERENCES, HIGHER_IS_BETTER, save_evaluation
from cmdcm.model.metrics import METRICS
from cmdcm.model.multiplicity import CORRECTIONS
from cmdcm.model.predictions import ALL_HEADS

TEMPLATES = Path(__file__).parent / "templates"
EVALUATION = "evaluation.json"
"""Name of the JSON file beside the page."""

METRIC_NAMES = {
    "auc": "AUC",
    "pr_auc": "PR-AUC",
    "gauc": "GAUC",
    "log_loss": "Log loss",
    "normalised_entropy": "Normalised entropy",
    "pcoc": "PCOC",
    "ece": "ECE",
}
HEAD_TEXTS = {
    "conversion": "bought, directly or on the promotion day",
    "delayed": "not bought directly, bought on the promotion day",
    "direct": "bought before the promotion starts",
    "cart": "added to cart before the promotion starts",
    "refunded": "bought and all taken back",
    "effective": "bought and not all taken back",
}
SUMMARY_HEADS = ("conversion", "delayed")
SLICE_NAMES = {
    "day": "Day of the click",
    "promotion": "Promotion",
    "user_history": "User's events before the click",
    "hours_to_promotion": "Hours from the click to the promotion",
}
SLICE_METRICS = ("auc", "log_loss", "pcoc")
CALIBRATION_METRICS = ("pcoc", "ece", "log_loss")
_MARKS = ("\u25cf", "\u25a0", "\u25b2", "\u25c6", "\u25bc", "\u271a", "\u2716")  # as plots.MARKERS
_CURVES = (
    ("loss", "Training loss"),
    ("val_log_loss_conversion", "Validation log loss, conversion"),
    ("val_auc_conversion", "Validation AUC, conversion"),
)


def write_report(
    path: Path,
    *,
    evaluation: dict[str, Any],
    training: Mapping[str, list[dict[str, Any]]],
    data: dict[str, Any],
    config: dict[str, Any],
    title: str,
) -> None:
    """Writes the report as `path`, and `evaluation.json` beside it.

    Args:
        path: The HTML file.
        evaluation: What `cmdcm.model.evaluation.evaluate` returned.
        training: Model -> a record for each epoch: `epoch`, `loss`, `val_log_loss_conversion`, and
            whatever else was measured; may be empty.
        data: Summaries of the data by stage (events, examples): nested mappings; may be empty.
        config: The configuration of the run; may be empty.
        title: Title of the page.

    Raises:
        OutputError: A file cannot be written.
    """
    page = render(evaluation=evaluation, training=training, data=data, config=config, title=title)
    path = Path(path)
    save_evaluation(evaluation, path.with_name(EVALUATION))
    with staged_file(path) as staging:
        staging.write_text(page, encoding="utf-8")


def render(
    *,
    evaluation: dict[str, Any],
    training: Mapping[str, list[dict[str, Any]]],
    data: dict[str, Any],
    config: dict[str, Any],
    title: str,
) -> str:
    """Returns the page; the arguments are those of `write_report`."""
    names = evaluation["model_names"]
    heads = [_head(evaluation, head) for head in ALL_HEADS if _predicted(evaluation, head)]
    return template("report.html.j2").render(
        version=cmdcm.__version__,
        title=title,
        evaluation=evaluation,
        models=[
            {"name": name, "colour": plots.colour(i), "mark": _MARKS[i % len(_MARKS)]}
            for i, name in enumerate(names)
        ],
        heads=heads,
        summary=[head for head in heads if head["name"] in SUMMARY_HEADS],
        head_texts=HEAD_TEXTS,
        metrics=METRICS,
        metric_names=METRIC_NAMES,
        differences=DIFFERENCES,
        higher_is_better=HIGHER_IS_BETTER,
        slice_names=SLICE_NAMES,
        slice_metrics=SLICE_METRICS,
        calibration_metrics=CALIBRATION_METRICS,
        digits=DIGITS,
        correction=CORRECTIONS[evaluation["settings"]["correction"]],
        causal=causal_sections(evaluation),
        population_texts=POPULATION_TEXTS,
        calibrated=CALIBRATED,
        delays=plots.conversion_delays(evaluation["conversion_delay"]),
        curves=_curves(training, names),
        trained=list(training),
        epochs=_epochs(training),
        data=[table for stage, value in data.items() for table in tables(value, stage)],
        config=tables(config, "configuration"),
    )


def template(name: str) -> Template:
    """Returns the template of a page, with the filters of `cmdcm.jobs.tables` and `image`."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        bounds=bounds, number=number, p_value=p_value, text=text, image=_image
    )
    return environment.get_template(name)


def _predicted(evaluation: Mapping[str, Any], head: str) -> list[str]:
    """Returns the models that predict `head`, in the order of the report."""
    models = evaluation["models"]
    return [name for name in evaluation["model_names"] if head in models[name]["heads"]]


def _head(evaluation: Mapping[str, Any], head: str) -> dict[str, Any]:
    names = evaluation["model_names"]
    results = {
        name: evaluation["models"][name]["heads"][head] for name in _predicted(evaluation, head)
    }
    days = {name: result["slices"].get("day", []) for name, result in results.items()}
    figures: list[tuple[str | None, str]] = [
        (
            plots.calibration({n: r["calibration"] for n, r in results.items()}, names),
            f"Calibration of head {head}: observed rate against mean prediction in bins of equal "
            f"size; the dashed line is perfect calibration. Models: {', '.join(results)}.",
        )
    ]
    for metric in ("auc", "pcoc"):
        figure = plots.by_day(metric, METRIC_NAMES[metric], days, names)
        figures.append(
            (
                figure,
                f"{METRIC_NAMES[metric]} of head {head} by day of the click with intervals; "
                "the numbers are in the table by day.",
            )
        )
    first = next(iter(results.values()))
    compared = any(result["differences"] for result in results.values())
    best = evaluation["best"][head]
    return {
        "name": head,
        "rows": first["rows"],
        "positives": first["positives"],
        "explanation": first["explanation"],
        "results": results,
        "compared": compared,
        "columns": ["auc", "log_loss", *(["difference"] if compared else []), "pcoc"],
        "best": best,
        "won": [metric for metric, entry in best.items() if _significant(evaluation, entry)],
        # A single slice of all rows, such as the one promotion, says nothing new.
        "slices": [
            dimension
            for dimension in SLICE_NAMES
            if any(entry["rows"] < first["rows"] for entry in first["slices"].get(dimension, []))
        ],
        "figures": [(figure, alt) for figure, alt in figures if figure is not None],
    }


def _significant(evaluation: Mapping[str, Any], best: Mapping[str, Any]) -> bool:
    p = best["difference"]["adjusted_p_value"]
    return p is not None and p < 1 - evaluation["settings"]["confidence"]


def _curves(
    training: Mapping[str, Sequence[Mapping[str, Any]]], names: Sequence[str]
) -> list[tuple[str, str]]:
    curves = []
    for key, title in _CURVES:
        figure = plots.training_curve(key, title, training, names)
        if figure is not None:
            curves.append(
                (figure, f"{title} by epoch and model; the numbers are in the table of epochs.")
            )
    return curves


def _epochs(training: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    keys = dict.fromkeys(key for epochs in training.values() for e in epochs for key in e)
    columns = ["epoch", *sorted(key for key in keys if key != "epoch")]
    rows = [
        (name, [text(record.get(column)) for column in columns])
        for name, epochs in training.items()
        for record in epochs
    ]
    return {"columns": columns, "rows": rows}


def _image(svg: str, alt: str) -> Markup:
    """Returns an SVG as an image element that loads nothing."""
    encoded = base64.b64encode(svg.encode()).decode()
    return Markup('<img src="data:image/svg+xml;base64,{}" alt="{}">').format(encoded, escape(alt))
