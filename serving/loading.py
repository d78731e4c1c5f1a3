"""Loading a version: its files are verified and its graph checked before anything of it runs."""

from collections.abc import Callable
from pathlib import Path

import grpc
import tensorflow as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from cmdcm.core.errors import CmdcmError
from cmdcm.core.files import MANIFEST, verify_manifest
from cmdcm.export.trust import check_saved_model
from cmdcm.serving.servable import Runner, Servable
from cmdcm.serving.session_loader import has_free_columns, load_into_session
from cmdcm.serving.status import StatusError, from_exception
from cmdcm.serving.warmup import warm_up


def load_servable(
    path: Path,
    name: str,
    version: int,
    make_runner: Callable[[Servable], Runner] | None = None,
    *,
    warm: bool = True,
    require_manifest: bool = False,
    intra_op_threads: int = 0,
    inter_op_threads: int = 0,
) -> Servable:
    """Verifies, loads and warms up the version directory `path`.

    Args:
        path: The directory of the SavedModel.
        name: Name of the model.
        version: Number of the version.
        make_runner: How `Servable.predict` runs signatures; None for one run of the graph a call.
        warm: Run its warm-up requests. They go by themselves past `make_runner`: a batcher would
            refuse those that have the user once, and the graph that they warm is the same.
        require_manifest: Refuse a version that has no manifest.
        intra_op_threads: Threads that share one operation; 0 for one a CPU. TensorFlow has one pool
            of them in a process, and the first session decides.
        inter_op_threads: Operations that run at once, decided likewise; 0 for one a CPU.

    Raises:
        StatusError: DATA_LOSS, the files differ from the manifest; FAILED_PRECONDITION, the graph
            holds what a model may not; else why the SavedModel cannot be loaded, or the code of
            the warm-up request that failed.
    """
    path = Path(path)
    try:
        _verify(path, require_manifest)
        config = _session_config(intra_op_threads, inter_op_threads)
        if has_free_columns(path):
            # On a matmul with bias and activation that TensorFlow has fused, and whose kernel has
            # no columns, oneDNN ends the process: a request for such a model could.
            config.graph_options.rewrite_options.remapping = RewriterConfig.OFF
        session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        try:
            meta_graph = load_into_session(session, path)
            servable = Servable(name, version, session, meta_graph.signature_def)
            if warm:
                warm_up(servable, path)
            if make_runner is not None:
                servable.run_by(make_runner(servable))
        except BaseException:
            session.close()
            raise
    except Exception as error:  # any fault of a model's files fails this version, not us
        status = from_exception(error)
        raise StatusError(status.code, f"version {version} of {name!r}: {status}") from error
    return servable


def _session_config(intra_op_threads: int, inter_op_threads: int) -> tf.compat.v1.ConfigProto:
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=intra_op_threads,
        inter_op_parallelism_threads=inter_op_threads,
    )
    # TensorFlow's idle threads search for work before they sleep. While a single request is
    # answered that takes a fifth of the processor time, from the threads that should answer it.
    config.experimental.disable_thread_spinning = True
    return config


def _verify(path: Path, require_manifest: bool) -> None:
    if require_manifest or (path / MANIFEST).exists():
        try:
            verify_manifest(path)
        except (CmdcmError, KeyError, TypeError, AttributeError) as error:
            raise StatusError(grpc.StatusCode.DATA_LOSS, f"manifest: {error}") from error
    try:
        check_saved_model(path)
    except CmdcmError as error:
        raise StatusError(grpc.StatusCode.FAILED_PRECONDITION, str(error)) from error
