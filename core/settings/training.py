"""Settings of training: steps, tracking, calibration."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from cmdcm.core.errors import ConfigError
from cmdcm.core.redaction import has_credentials
from cmdcm.core.settings.base import Section


class TrainingConfig(Section):
    """How a model is trained.

    Attributes:
        batch_size: Examples of a step.
        epochs: The most epochs; early stopping may end the run before.
        learning_rate: Of the dense weights.
        dense_optimizer: Of the dense weights: `adam`, or `clippy_adagrad`, which never changes a
            weight by much more than a tenth of it (docs/training.md).
        table_learning_rate: Of the embedding tables.
        table_optimizer: Of the embedding tables: `adagrad`, `ftrl` or `clippy_adagrad`; each
            touches the looked-up rows alone.
        precision: Of the dense layers' arithmetic: `float32`, or `bfloat16` with float32 weights,
            tables, logits and losses. The trained model is a float32 one.
        patience: Epochs without a better validation log loss before the run stops.
        shuffle_buffer: Examples in the shuffle buffer.
        negative_rate: Probability with which a training example without a positive label is kept;
            those that are weigh 1 / rate.
        weight_column: Name of a column that weights the training examples; empty for none.
        recency_half_life_days: Days after which a promotion counts half (docs/warm_start.md); 0
            for no weights by time.
        similarity_scale: Distance from `similar_to` at which a promotion counts 1 / e; 0 for no
            weights by likeness.
        similar_to: Name of the promotion that others are compared with; empty for the last one
            that validates.
        on_corrupt: At a corrupted shard `fail`, or `skip` the rest of it and count it.
        checkpoint_steps: Steps between two checkpoints.
        keep_checkpoints: Checkpoints that are kept.
        strategy: Where the run's replicas are, which share every batch (docs/training.md).
        devices: Devices of `mirrored`, such as `GPU:0`; all GPUs if empty.
        tpu: The TPU of `tpu`; `local` is that of this TPU VM.
        warm_start: A trained model (`RUN/model`), an exported version (`BASE/7`) or a run's
            checkpoint (`RUN/checkpoints/best`) whose weights the run starts with
            (docs/warm_start.md); empty for none.
        max_forgetting: After a warm start: largest relative rise of the log loss of conversion on
            the last promotion that the other model was trained on.
        on_forgetting: Beyond that `fail`, or `warn` and publish the model.
    """

    batch_size: int = Field(1024, ge=1)
    epochs: int = Field(3, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    dense_optimizer: Literal["adam", "clippy_adagrad"] = "adam"
    table_learning_rate: float = Field(0.05, gt=0)
    table_optimizer: Literal["adagrad", "ftrl", "clippy_adagrad"] = "adagrad"
    precision: Literal["float32", "bfloat16"] = "float32"
    patience: int = Field(1, ge=1)
    shuffle_buffer: int = Field(50_000, ge=1)
    negative_rate: float = Field(1.0, gt=0, le=1)
    weight_column: str = ""
    recency_half_life_days: float = Field(0.0, ge=0)
    similarity_scale: float = Field(0.0, ge=0)
    similar_to: str = ""
    on_corrupt: Literal["fail", "skip"] = "fail"
    checkpoint_steps: int = Field(500, ge=1)
    keep_checkpoints: int = Field(3, ge=1)
    strategy: Literal["single", "mirrored", "multiworker", "parameter_server", "tpu"] = "single"
    devices: tuple[str, ...] = ()
    tpu: str = "local"
    warm_start: str = ""
    max_forgetting: float = Field(0.1, ge=0)
    on_forgetting: Literal["fail", "warn"] = "fail"

    @model_validator(mode="after")
    def _check(self) -> "TrainingConfig":
        if self.similar_to and not self.similarity_scale:
            raise ValueError("similar_to needs a similarity_scale above 0")
        if self.strategy == "parameter_server" and "clippy_adagrad" in (
            self.dense_optimizer,
            self.table_optimizer,
        ):
            raise ValueError(
                "clippy_adagrad looks at all of a table at once, and parameter_server shares it out"
            )
        if self.strategy == "tpu" and self.table_optimizer != "adagrad":
            # Gradients are dense there, and of these three Adagrad's step alone is zero at zero.
            raise ValueError(
                f"strategy = 'tpu' has no table_optimizer = {self.table_optimizer!r}; take adagrad"
            )
        if self.strategy == "tpu" and self.warm_start:
            raise ValueError("warm_start does not fill a TPU's tables yet; train without it")
        return self


class TrackingConfig(Section):
    """What is recorded of a training (docs/training.md); none of it changes the model.

    Attributes:
        profile_step: Step after which the parts of a step are measured, once; 0 for never.
        trace_steps: Steps after that one that TensorBoard's profiler traces; 0 for none.
        mlflow: Whether `cmdcm train` records its run in MLflow, where that is installed.
        uri: MLflow's store of runs and registered models: `sqlite:///FILE`, or a server's URL.
            Credentials of a server belong into MLFLOW_TRACKING_USERNAME and _PASSWORD, or
            MLFLOW_TRACKING_TOKEN.
        experiment: The experiment that runs are put under.
        max_artifact_mb: Files of a model that are larger are not uploaded.
        flush_seconds: How long the end of a training waits for MLflow.
    """

    profile_step: int = Field(1000, ge=0)
    trace_steps: int = Field(0, ge=0, le=1000)
    mlflow: bool = True
    uri: str = Field("sqlite:///out/mlflow.db", min_length=1)
    experiment: str = Field("cmdcm", min_length=1)
    max_artifact_mb: int = Field(64, ge=0)
    flush_seconds: float = Field(60.0, ge=0)

    @field_validator("uri")
    @classmethod
    def _check_uri(cls, uri: str) -> str:
        if has_credentials(uri):
            # No ValueError: the message of one shows what was received.
            raise ConfigError(
                "tracking.uri carries credentials or a query, and the configuration is written "
                "beside every model: pass them in MLflow's environment variables "
                "(MLFLOW_TRACKING_USERNAME and _PASSWORD, or MLFLOW_TRACKING_TOKEN)"
            )
        return uri


class CalibrationConfig(Section):
    """How a trained model's probabilities are calibrated on later days (docs/calibration.md).

    Attributes:
        method: Map of each logit: `none`, `platt` (a z + b) or `isotonic` (monotone, piecewise
            linear).
        slices: Columns by whose values the maps are shifted: `hours_to_promotion` (in five ranges),
            or scalar inputs with a vocabulary or an index, such as `promotion_kind`.
        share: Share of the validation part's days, the last ones, that calibrate.
        min_positives: A logit with fewer positive or negative labels there is left as it is.
        slice_prior: Strength of the pull of a slice's shift towards zero, about in positives.
        levels: Whether each kind of promotion has a level of its own, fitted on the training days
            as well (model/levels.py); not where `method` is `none` and there are no slices, nor
            if `promotion_kind` is one of the slices.
    """

    method: Literal["none", "platt", "isotonic"] = "platt"
    slices: tuple[str, ...] = ()
    share: float = Field(1.0, gt=0, le=1)
    min_positives: int = Field(50, ge=1)
    slice_prior: float = Field(50.0, gt=0)
    levels: bool = True

    before: ClassVar[Mapping[str, Any]] = {"levels": False}
