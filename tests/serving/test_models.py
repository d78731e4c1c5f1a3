"""The set of served models: configs that replace one another, labels, retries; stand-in models."""

import threading
from typing import Any

import grpc
import hypothesis.strategies as st
import pytest
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from tensorflow_serving.apis import model_pb2
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from cmdcm.serving.config_poller import ConfigPoller
from cmdcm.serving.models import Models
from cmdcm.serving.status import StatusError
from cmdcm.serving.version_status import State
from cmdcm.serving.versions import ModelVersions
from cmdcm.tests.serving.stubs import WAIT, wait_for

Code = grpc.StatusCode


class FakeServable:
    """Stands for a loaded version; its folder's content decides whether it loads."""

    def __init__(self, path, name, version):
        if (path / "saved_model.pb").read_text() == "broken":
            raise StatusError(Code.DATA_LOSS, f"version {version} is broken")
        self.name, self.version, self.closed = name, version, False

    def close(self):
        self.closed = True


LOAD: Any = FakeServable


class Folder:
    """Base paths of models below one folder, and configs of them."""

    def __init__(self, root):
        self.root = root

    def add(self, name, *versions, content="good"):
        for version in versions:
            path = self.root / name / str(version)
            path.mkdir(parents=True, exist_ok=True)
            (path / "saved_model.pb").write_text(content)

    def text(self, **models: str) -> str:
        """The config of the named models, each with the rest of its entry."""
        entries = [
            f'config {{ name: "{name}" base_path: "{self.root / name}" '
            f'model_platform: "tensorflow" {rest} }}\n'
            for name, rest in models.items()
        ]
        return "model_config_list {\n" + "".join(entries) + "}\n"

    def config(self, **models: str) -> ModelServerConfig:
        return text_format.Parse(self.text(**models), ModelServerConfig())


@pytest.fixture
def folder(tmp_path):
    made = Folder(tmp_path / "models")
    made.add("a", 1, 2, 3)
    made.add("b", 7)
    return made


@pytest.fixture
def models():
    made = Models(poll_seconds=0.02, load=LOAD)
    yield made
    made.stop()


def spec(name, version=None, label=None) -> model_pb2.ModelSpec:
    made = model_pb2.ModelSpec(name=name)
    if version is not None:
        made.version.value = version
    if label is not None:
        made.version_label = label
    return made


def served(models, *args, **kwargs) -> int:
    with models.use(spec(*args, **kwargs)) as servable:
        return servable.version


def refused(call, *args) -> StatusError:
    with pytest.raises(StatusError) as caught:
        call(*args)
    return caught.value


def use(models, *args, **kwargs):
    return refused(lambda: models.use(spec(*args, **kwargs)).__enter__())


ALL = "model_version_policy { all {} }"


def specific(*versions) -> str:
    return f"model_version_policy {{ specific {{ versions: {list(versions)} }} }}"


def label(name, version) -> str:
    return f'version_labels {{ key: "{name}" value: {version} }}'


def test_several_models_and_their_policies(models, folder):
    folder.add("c", 1, 2, 3)
    latest = "model_version_policy { latest { num_versions: 2 } }"
    models.reload(folder.config(a=ALL, b="", c=latest))
    assert models.names() == ["a", "b", "c"]
    assert [models.available(name) for name in "abc"] == [[1, 2, 3], [7], [2, 3]]
    assert served(models, "a") == 3
    assert served(models, "a", version=1) == 1
    assert served(models, "b") == 7
    assert use(models, "b", version=1).code == Code.NOT_FOUND
    assert use(models, "d").code == Code.NOT_FOUND
    assert use(models, "").code == Code.INVALID_ARGUMENT


def test_a_reload_adds_removes_and_changes_models(models, folder):
    models.reload(folder.config(a="", b=""))
    with models.use(spec("a")) as old_a, models.use(spec("b")) as old_b:
        folder.add("c", 5)
        models.reload(folder.config(a=specific(1, 2), c=""))
        assert models.names() == ["a", "c"]
        assert served(models, "c") == 5  # a new model serves when the reload answers
        assert use(models, "b").code == Code.NOT_FOUND
        wait_for(lambda: models.available("a") == [1, 2])
        assert not old_a.closed  # calls under way keep what they use
        assert not old_b.closed
        (status,) = models.statuses(spec("b"))
        assert (status.version, status.state) == (7, State.UNLOADING)
    wait_for(lambda: old_a.closed)
    assert old_b.closed
    (status,) = models.statuses(spec("b"))
    assert (status.version, status.state) == (7, State.END)
    models.reload(folder.config(b=""))
    assert served(models, "b") == 7


def test_an_empty_list_unloads_all_and_no_list_is_refused(models, folder):
    models.reload(ModelServerConfig())  # nothing to load yet
    models.reload(folder.config(a=""))
    assert refused(models.reload, ModelServerConfig()).code == Code.FAILED_PRECONDITION
    assert served(models, "a") == 3
    models.reload(folder.config())
    assert models.names() == []
    assert use(models, "a").code == Code.NOT_FOUND


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"b": "", "gone": ""}, Code.UNKNOWN, "1 model.s. did not become available: .*gone is not"),
        ({"b": "", "broken": ""}, Code.UNKNOWN, "did not .* DATA_LOSS: version 1 is broken"),
        ({"x" * 300: ""}, Code.UNKNOWN, "x is not a directory that can be read"),
        ({"nul\\000": ""}, Code.UNKNOWN, "is not a directory that can be read"),
        ({"a": label("stable", 1)}, Code.FAILED_PRECONDITION, "label to version 1 of model a"),
        ({"a": "", "b": label("x", 7)}, Code.FAILED_PRECONDITION, "version 7 of model b"),
        ({"a": "model_type: TENSORFLOW"}, Code.INVALID_ARGUMENT, r"config\[0\].model_platform"),
    ],
)
def test_a_config_that_cannot_be_changes_nothing(models, folder, changes, code, message):
    folder.add("broken", 1, content="broken")
    models.reload(folder.config(a=""))
    models.reload(folder.config(a=label("known", 3)))
    with pytest.raises(StatusError, match=message) as caught:
        models.reload(folder.config(**changes))
    assert caught.value.code == code
    assert models.names() == ["a"]
    assert served(models, "a", label="known") == 3
    assert use(models, "b").code == Code.NOT_FOUND


def test_labels_attach_to_available_versions_and_move(models, folder):
    models.reload(folder.config(a=ALL))
    models.reload(folder.config(a=ALL + label("stable", 2) + label("canary", 3)))
    assert served(models, "a", label="stable") == 2
    assert served(models, "a", label="canary") == 3
    (status,) = models.statuses(spec("a", label="stable"))
    assert (status.version, status.state) == (2, State.AVAILABLE)
    models.reload(folder.config(a=ALL + label("stable", 3)))
    assert served(models, "a", label="stable") == 3
    error = use(models, "a", label="canary")
    assert error.code == Code.INVALID_ARGUMENT
    assert str(error) == "Unrecognized servable version label: canary"
    assert refused(models.statuses, spec("a", label="canary")).code == Code.INVALID_ARGUMENT


def test_a_label_whose_version_goes_is_not_found(models, folder):
    models.reload(folder.config(a=ALL))
    models.reload(folder.config(a=specific(3) + label("stable", 1)))
    wait_for(lambda: models.available("a") == [3])
    assert use(models, "a", label="stable").code == Code.NOT_FOUND


def test_a_label_that_moves_while_it_is_looked_up(models, folder, monkeypatch):
    models.reload(folder.config(a=ALL))
    models.reload(folder.config(a=ALL + label("stable", 2)))
    use_version = ModelVersions.use
    asked = []

    def use_late(versions, version=None):
        asked.append(version)
        if len(asked) == 1:  # between the label and its version one reload moves and drops
            models.reload(folder.config(a=specific(3) + label("stable", 3)))
            wait_for(lambda: models.available("a") == [3])
        return use_version(versions, version)

    monkeypatch.setattr(ModelVersions, "use", use_late)
    assert served(models, "a", label="stable") == 3
    assert asked == [2, 3]


def test_labels_may_come_before_their_version_where_that_is_allowed(folder):
    models = Models(poll_seconds=0.02, allow_version_labels_for_unavailable_models=True, load=LOAD)
    models.reload(folder.config(a=label("stable", 3) + label("next", 4)))  # at the start, too
    assert served(models, "a", label="stable") == 3
    assert use(models, "a", label="next").code == Code.NOT_FOUND
    # A label that is in use does not move to a version that does not serve.
    moved = folder.config(a=label("stable", 4))
    assert refused(models.reload, moved).code == Code.FAILED_PRECONDITION
    assert served(models, "a", label="stable") == 3
    folder.add("a", 4)
    wait_for(lambda: models.available("a") == [4])
    assert served(models, "a", label="next") == 4
    models.reload(moved)
    assert served(models, "a", label="stable") == 4
    models.stop()


def test_a_rollback_by_policy_loads_the_old_version_before_the_new_one_goes(folder):
    seen = []

    def load(path, name, version) -> Any:
        seen.append((version, rolled.available("a")))
        return FakeServable(path, name, version)

    rolled = Models(poll_seconds=0.02, load=load)
    rolled.reload(folder.config(a=""))
    rolled.reload(folder.config(a=specific(1)))
    wait_for(lambda: rolled.available("a") == [1])
    assert seen == [(3, []), (1, [3])]
    rolled.stop()


def test_a_base_path_that_moves(models, folder, tmp_path):
    models.reload(folder.config(a=""))
    other = Folder(tmp_path / "other")
    other.add("a", 9)
    models.reload(other.config(a=""))
    wait_for(lambda: models.available("a") == [9])


def test_a_reload_does_not_wait_for_a_removed_model_that_is_loading(folder):
    loading, go_on = threading.Event(), threading.Event()
    late = []

    def load(path, name, version) -> Any:
        servable = FakeServable(path, name, version)
        if version == 4:
            late.append(servable)
            loading.set()
            assert go_on.wait(WAIT)
        return servable

    models = Models(poll_seconds=0.02, load=load)
    models.reload(folder.config(a="", b=""))
    folder.add("a", 4)
    assert loading.wait(WAIT)
    models.reload(folder.config(b=""))
    assert models.names() == ["b"]
    go_on.set()
    models.stop()
    assert late[0].closed
    assert models.statuses(spec("a", version=4))[0].state == State.END


def test_a_version_that_cannot_be_loaded_is_tried_again(folder):
    attempts = []

    def load(path, name, version) -> Any:
        attempts.append(version)
        if attempts.count(4) in (1, 2, 3):
            raise StatusError(Code.RESOURCE_EXHAUSTED, "no memory just now")
        return FakeServable(path, name, version)

    models = Models(poll_seconds=0.01, max_num_load_retries=3, load_retry_seconds=0, load=load)
    models.reload(folder.config(a=""))
    folder.add("a", 4)
    wait_for(lambda: models.available("a") == [4])
    models.stop()


def test_without_polling_new_versions_come_with_a_reload(folder):
    models = Models(poll_seconds=0, load=LOAD)
    models.reload(folder.config(a=""))
    folder.add("a", 4)
    models.reload(folder.config(a=""))
    wait_for(lambda: models.available("a") == [4])
    models.stop()


def test_no_request_fails_while_configs_change(models, folder):
    models.reload(folder.config(a=ALL))
    stop = threading.Event()
    failures = []

    def ask() -> None:
        while not stop.is_set():
            try:
                assert served(models, "a", label="stable") in (2, 3)
            except Exception as error:
                failures.append(error)
                return

    models.reload(folder.config(a=ALL + label("stable", 2)))
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(100):
        others = {"b": ""} if turn % 2 else {}
        models.reload(folder.config(a=ALL + label("stable", 2 + turn % 2), **others))
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_config_file_is_followed(models, folder, tmp_path):
    path = tmp_path / "models.config"
    path.write_text(folder.text(a=ALL))
    poller = ConfigPoller(models, path, poll_seconds=0.01)
    poller.start()
    wait_for(lambda: models.names() == ["a"])
    path.write_text(folder.text(a=ALL, b=""))
    wait_for(lambda: models.names() == ["a", "b"])
    poller.stop()


def test_a_config_file_that_cannot_be_put_in_place_changes_nothing(models, folder, tmp_path):
    path = tmp_path / "models.config"
    path.write_text(folder.text(a=ALL, b=""))
    poller = ConfigPoller(models, path, poll_seconds=3600)
    poller.poll()
    path.write_text("model_config_list {")  # half written
    poller.poll()
    path.write_text("")
    poller.poll()
    path.unlink()
    poller.poll()
    assert models.names() == ["a", "b"]
    path.write_text(folder.text(a=ALL + label("canary", 4)))
    poller.poll()
    assert models.names() == ["a", "b"]
    folder.add("a", 4)
    wait_for(lambda: 4 in models.available("a"))
    poller.poll()  # the same file; its label has a version now
    assert models.names() == ["a"]
    assert served(models, "a", label="canary") == 4


@settings(max_examples=150)
@given(
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 3),
)
def test_any_config_is_put_in_place_or_changes_nothing(tmp_path_factory, changes, cut):
    folder = Folder(tmp_path_factory.getbasetemp() / "any")
    folder.add("a", 1, 2)
    folder.add("b", 7)
    models = Models(poll_seconds=3600, load=LOAD)
    models.reload(folder.config(a=ALL))
    models.reload(folder.config(a=ALL + label("stable", 1)))
    wanted = folder.config(a=specific(2) + label("stable", 2), b="")
    content = bytearray(wanted.SerializeToString(deterministic=True))
    for position, byte in changes:
        content[position % len(content)] = byte
    try:
        config = ModelServerConfig.FromString(bytes(content[: len(content) - cut]))
    except DecodeError:
        models.stop()
        return  # gRPC answers these
    try:
        models.reload(config)
    except StatusError as error:
        assert error.code in {Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.UNKNOWN}
        assert models.names() == ["a"]
        assert served(models, "a", label="stable") == 1
    else:
        assert models.names() == sorted(c.name for c in config.model_config_list.config)
    models.stop()
