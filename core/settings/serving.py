"""Settings of the export and of the server."""

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from cmdcm.core.settings.base import Section


class ExportConfig(Section):
    """What an export carries (docs/export.md).

    Attributes:
        name: Name of the served model.
        warmup_candidates: Candidate counts that are warmed up; clients pad to them.
        max_warmup_rows: Rows of the `serving_default` warm-up request.
        check_rows: Rows on which the export is compared with the model before it is published.
        constant_bytes: Weights up to this size become constants of the graph; larger ones stay
            variables. The default keeps tables of more than 131,072 rows of 8 columns variables.
        table_dtype: How the embedding table is held.
        max_table_loss: Largest absolute difference of a probability to the model's that a
            `table_dtype` other than float32 may make on the checked rows; beyond it nothing is
            published.
        training_model: Keep the trained model itself beside the graph, so that
            `training.warm_start` can name the version. It about doubles the version on the disk,
            not in a server's memory.
    """

    name: str = Field("cmdcm", pattern=r"^[A-Za-z0-9_.-]+$")
    warmup_candidates: tuple[PositiveInt, ...] = (1, 10, 100, 500)
    max_warmup_rows: int = Field(100, ge=1)
    check_rows: int = Field(1000, ge=1)
    constant_bytes: int = Field(4 << 20, ge=0)
    table_dtype: Literal["float32", "bfloat16", "int8"] = "float32"
    max_table_loss: float = Field(0.001, gt=0)
    training_model: bool = True


class ServingConfig(Section):
    """How a model is served and called.

    The names that tensorflow_model_server has, too, mean what they mean there.

    Attributes:
        host: Address to bind and to call; any but loopback needs `ssl_config_file`.
        port: gRPC port; 0 lets the system choose.
        rest_port: REST port; 0 lets the system choose, -1 serves no REST.
        deadline_ms: Deadline of every scoring call.
        poll_seconds: How often the server looks for a new version; 0 for once, at the start.
        max_message_mb: Largest request and response.
        grpc_socket_path: Unix socket that takes gRPC calls, too; empty for none.
        grpc_max_threads: Threads that run gRPC calls; 0 for four a CPU.
        max_calls_a_thread: gRPC calls that run or wait, for each thread; more are refused.
        grpc_channel_arguments: More arguments of gRPC: `key=value,key=value`.
        ssl_config_file: Text proto of SSLConfig for the gRPC port; empty for no TLS.
        rest_api_timeout_in_ms: Longest that a REST request may take once it has arrived.
        rest_api_num_threads: Threads that run REST requests; 0 for four a CPU.
        model_config_file: Text proto of ModelServerConfig, in place of one model.
        model_config_file_poll_wait_seconds: How often that file is read again; 0 for never.
        monitoring_config_file: Text proto of MonitoringConfig; empty for no metrics page.
        enable_batching: Run concurrent requests of a signature as one.
        batching_parameters_file: Text proto of BatchingParameters; empty for the defaults.
        require_manifest: Refuse versions without the manifest that `cmdcm export` writes.
        enable_model_warmup: Run a version's warm-up requests before it serves.
        tensorflow_session_parallelism: Threads of one operation, and operations at once; 0 to go by
            the next two.
        tensorflow_intra_op_parallelism: Threads that share one operation; 0 for one a CPU.
        tensorflow_inter_op_parallelism: Operations that run at once; 0 for one a CPU.
        max_num_load_retries: How often a version that cannot be loaded is tried again.
        load_retry_interval_micros: How long after the attempt before.
        allow_version_labels_for_unavailable_models: Let new labels name versions that do not
            serve yet.
        allow_plaintext: Listen on other addresses than loopback without TLS.
        allow_remote_reload: Take HandleReloadConfigRequest on other addresses than loopback
            from clients without a certificate.
    """

    host: str = "127.0.0.1"
    port: int = Field(8500, ge=0, le=65535)
    rest_port: int = Field(8501, ge=-1, le=65535)
    deadline_ms: int = Field(1000, ge=1)
    poll_seconds: float = Field(2.0, ge=0)
    max_message_mb: int = Field(64, ge=1, le=2047)
    grpc_socket_path: str = ""
    grpc_max_threads: int = Field(0, ge=0)
    max_calls_a_thread: int = Field(32, ge=1)
    grpc_channel_arguments: str = ""
    ssl_config_file: str = ""
    rest_api_timeout_in_ms: int = Field(30_000, ge=1)
    rest_api_num_threads: int = Field(0, ge=0)
    model_config_file: str = ""
    model_config_file_poll_wait_seconds: float = Field(0.0, ge=0)
    monitoring_config_file: str = ""
    enable_batching: bool = False
    batching_parameters_file: str = ""
    require_manifest: bool = False
    enable_model_warmup: bool = True
    tensorflow_session_parallelism: int = Field(0, ge=0)
    tensorflow_intra_op_parallelism: int = Field(0, ge=0)
    tensorflow_inter_op_parallelism: int = Field(0, ge=0)
    max_num_load_retries: int = Field(5, ge=0)
    load_retry_interval_micros: int = Field(60_000_000, ge=0)
    allow_version_labels_for_unavailable_models: bool = False
    allow_plaintext: bool = False
    allow_remote_reload: bool = False

    @model_validator(mode="after")
    def _check(self) -> "ServingConfig":
        if self.batching_parameters_file and not self.enable_batching:
            raise ValueError("batching_parameters_file is set, but enable_batching is not")
        if self.rest_port > 0 and self.rest_port == self.port:
            raise ValueError(f"port and rest_port are both {self.port}")
        for argument in self.grpc_channel_arguments.split(","):
            if self.grpc_channel_arguments and not argument.partition("=")[2]:
                raise ValueError(f"grpc_channel_arguments: {argument!r} is not key=value")
        return self
