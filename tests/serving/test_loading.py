"""Only a version that is whole, unchanged and harmless is loaded."""

import json
import shutil

import grpc
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from cmdcm.core.config import ServingConfig
from cmdcm.core.errors import ServingError
from cmdcm.core.files import MANIFEST, write_manifest
from cmdcm.serving.loading import load_servable
from cmdcm.serving.server import EmbeddedServer
from cmdcm.serving.status import StatusError
from cmdcm.serving.warmup import WARMUP_FILE
from cmdcm.tests.serving.models import write_banned_model


def load_error(path) -> StatusError:
    with pytest.raises(StatusError) as caught:
        load_servable(path, "m", 5)
    assert "version 5 of 'm'" in str(caught.value)
    return caught.value


def test_a_version_without_a_manifest_is_refused_where_one_is_required(base):
    (base / "1" / MANIFEST).unlink()
    load_servable(base / "1", "tiny", 1).close()
    config = ServingConfig(port=0, rest_port=-1, require_manifest=True)
    with pytest.raises(ServingError, match=r"manifest: .*manifest\.json"):
        EmbeddedServer(base, "tiny", config).start()


def test_a_tampered_file_is_refused(base):
    path = base / "1"
    data = next(path.glob("variables/variables.data*"))
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    error = load_error(path)
    assert error.code == grpc.StatusCode.DATA_LOSS
    assert f"{data.relative_to(path)}: SHA-256 differs" in str(error)


def test_an_added_file_is_refused(base):
    (base / "1" / "extra.so").write_bytes(b"")
    assert "extra.so: not in the manifest" in str(load_error(base / "1"))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3}', '{"files": {"x": 1}}'])
def test_a_manifest_that_is_none_is_refused(base, content):
    (base / "1" / MANIFEST).write_text(content)
    assert "manifest" in str(load_error(base / "1"))


def test_every_file_of_ours_is_in_the_manifest(base):
    listed = json.loads((base / "1" / MANIFEST).read_text())["files"]
    assert WARMUP_FILE.as_posix() in listed


@pytest.mark.parametrize("content", [b"", b"\xff\xff\xff\xff", b"not a model"])
def test_a_broken_saved_model_is_refused(base, content):
    path = base / "1"
    (path / "saved_model.pb").write_bytes(content)
    (path / MANIFEST).unlink()
    write_manifest(path, {"kind": "export"})
    load_error(path)


def test_truncated_variables_are_refused(base):
    path = base / "1"
    (path / MANIFEST).unlink()
    data = next(path.glob("variables/variables.data*"))
    data.write_bytes(data.read_bytes()[:-2])
    load_error(path)


def test_a_model_that_reads_files_is_refused(tmp_path):
    write_banned_model(tmp_path / "1")
    error = load_error(tmp_path / "1")
    assert error.code == grpc.StatusCode.FAILED_PRECONDITION
    assert "op ReadFile" in str(error)


def test_a_manifest_does_not_make_a_banned_model_trusted(tmp_path):
    write_banned_model(tmp_path / "1")
    write_manifest(tmp_path / "1", {"kind": "export"})
    assert "op ReadFile" in str(load_error(tmp_path / "1"))


def test_a_link_out_of_the_version_is_refused(base):
    (base / "1" / MANIFEST).unlink()
    (base / "1" / "assets.extra" / "passwords").symlink_to("/etc/hostname")
    assert "symbolic link" in str(load_error(base / "1"))


def test_an_asset_of_tensorflow_1_outside_the_version_is_refused(exports, tmp_path):
    shutil.copytree(exports / "v1" / "1", tmp_path / "1")
    file = tmp_path / "1" / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    (packed,) = model.meta_graphs[0].collection_def["saved_model_assets"].any_list.value
    asset = meta_graph_pb2.AssetFileDef()
    assert packed.Unpack(asset)
    asset.filename = "../../secret.txt"
    packed.Pack(asset)
    file.write_bytes(model.SerializeToString())
    error = load_error(tmp_path / "1")
    assert error.code == grpc.StatusCode.FAILED_PRECONDITION
    assert "leads out of the assets folder" in str(error)


def test_threads_are_those_asked_for(exports, monkeypatch):
    configs = []
    session = tf.compat.v1.Session

    def recorded(*args, config, **kwargs):
        configs.append(config)
        return session(*args, config=config, **kwargs)

    monkeypatch.setattr(tf.compat.v1, "Session", recorded)
    settings = {"tensorflow_intra_op_parallelism": 1, "tensorflow_inter_op_parallelism": 3}
    for given in (settings, {**settings, "tensorflow_session_parallelism": 2}):
        config = ServingConfig(port=0, rest_port=-1, **given)
        with EmbeddedServer(exports / "tiny", "tiny", config):
            pass
    threads = [(c.intra_op_parallelism_threads, c.inter_op_parallelism_threads) for c in configs]
    assert threads == [(1, 3), (2, 2)]
