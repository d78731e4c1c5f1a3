"""Finding, swapping and unloading versions; the loader is a stand-in."""

import shutil
import threading
from typing import Any

import grpc
import pytest

from cmdcm.core.errors import ServingError
from cmdcm.serving.status import StatusError
from cmdcm.serving.version_policy import latest
from cmdcm.serving.version_status import State
from cmdcm.serving.versions import ModelVersions
from cmdcm.tests.serving.stubs import WAIT, wait_for


class FakeServable:
    """Stands for a loaded version; its folder's content decides whether it loads."""

    def __init__(self, path, name, version):
        if (path / "saved_model.pb").read_text() == "broken":
            raise StatusError(grpc.StatusCode.DATA_LOSS, f"version {version} is broken")
        self.name, self.version = name, version
        self.closed = False
        self.log = []

    def close(self):
        self.closed = True


LOAD: Any = FakeServable


def add(base, folder, content="good"):
    (base / folder).mkdir(exist_ok=True)
    (base / folder / "saved_model.pb").write_text(content)


@pytest.fixture
def versions(tmp_path):
    made = ModelVersions("m", tmp_path, poll_seconds=3600, load=LOAD)
    yield made
    made.close()
    made.join()


def states(versions) -> dict[int, State]:
    return {status.version: status.state for status in versions.statuses()}


def newest(versions) -> int:
    with versions.use() as servable:
        return servable.version


def test_the_highest_number_serves_not_the_last_name(versions, tmp_path):
    for folder in ("9", "00000123", "20"):
        add(tmp_path, folder)
    versions.start()
    assert newest(versions) == 123
    assert states(versions) == {123: State.AVAILABLE}


def test_other_names_are_ignored(versions, tmp_path):
    add(tmp_path, "1")
    for folder in ("v2", "3.tmp", ".4.staging-12", "-5", "٦", "9" * 30):
        add(tmp_path, folder)
    (tmp_path / "8").write_text("a file")
    versions.start()
    assert newest(versions) == 1


def test_a_new_version_is_loaded_before_the_old_one_goes(versions, tmp_path):
    add(tmp_path, "1")
    versions.start()
    seen = []

    def load(path, name, version):
        seen.append((newest(versions), states(versions)))
        return FakeServable(path, name, version)

    versions._load = load
    add(tmp_path, "2")
    versions.poll()
    assert seen == [(1, {1: State.AVAILABLE, 2: State.LOADING})]
    assert newest(versions) == 2
    assert states(versions) == {1: State.END, 2: State.AVAILABLE}


def test_a_version_in_use_is_unloaded_when_its_last_user_leaves(versions, tmp_path):
    add(tmp_path, "1")
    versions.start()
    with versions.use() as outer:
        with versions.use(1):
            add(tmp_path, "2")
            versions.poll()
        assert not outer.closed
        assert states(versions)[1] == State.UNLOADING
        with pytest.raises(StatusError), versions.use(1):
            pass
    wait_for(lambda: states(versions)[1] == State.END)
    assert outer.closed


def test_a_version_that_comes_back_while_its_first_load_is_in_use(versions, tmp_path):
    add(tmp_path, "1")
    versions.start()
    with versions.use(1) as first:
        add(tmp_path, "2")
        versions.poll()
        assert states(versions) == {1: State.UNLOADING, 2: State.AVAILABLE}
        shutil.rmtree(tmp_path / "2")
        versions.poll()
        assert states(versions) == {1: State.AVAILABLE, 2: State.END}
    polled = threading.Event()

    def policy(found) -> set[int]:
        polled.set()
        return latest(found)

    versions.configure(tmp_path, policy)  # the thread unloads what is idle, and then polls
    assert polled.wait(WAIT)
    assert first.closed
    assert states(versions)[1] == State.AVAILABLE
    with versions.use(1) as second:
        assert not second.closed


def test_a_version_that_cannot_be_loaded_leaves_the_old_one(versions, tmp_path):
    add(tmp_path, "1")
    versions.start()
    add(tmp_path, "2", "broken")
    versions.poll()
    assert newest(versions) == 1
    (failed, served) = versions.statuses()
    assert (failed.version, failed.state) == (2, State.END)
    assert failed.code == grpc.StatusCode.DATA_LOSS
    assert failed.message == "version 2 is broken"
    assert (served.version, served.state) == (1, State.AVAILABLE)


def test_a_failed_version_is_tried_again_when_its_files_change(versions, tmp_path):
    add(tmp_path, "1")
    versions.start()
    attempts = []

    def load(*args):
        attempts.append(args)
        return FakeServable(*args)

    versions._load = load
    add(tmp_path, "2", "broken")
    versions.poll()
    versions.poll()
    assert len(attempts) == 1
    add(tmp_path, "2", "repaired")
    versions.poll()
    assert newest(versions) == 2


def test_a_failed_version_is_tried_again_as_often_as_it_is_told(tmp_path):
    add(tmp_path, "1")
    attempts = []

    def load(path, name, version) -> Any:
        attempts.append(version)
        return FakeServable(path, name, version)

    versions = ModelVersions(
        "m", tmp_path, poll_seconds=0, max_num_load_retries=2, load_retry_seconds=0, load=load
    )
    versions.start()
    add(tmp_path, "2", "broken")
    for _ in range(6):
        versions.poll()
        assert newest(versions) == 1
        assert versions.statuses(2)[0].code == grpc.StatusCode.DATA_LOSS
    assert attempts == [1, 2, 2, 2]
    add(tmp_path, "2", "repaired")  # other files start over
    versions.poll()
    assert newest(versions) == 2


def test_a_policy_that_wants_nothing_of_what_is_there_changes_nothing(versions, tmp_path):
    add(tmp_path, "1")
    add(tmp_path, "2")
    versions.start()
    versions.configure(tmp_path, lambda found: {44} & set(found))
    versions.poll()
    assert states(versions) == {2: State.AVAILABLE}
    versions.configure(tmp_path, lambda found: {1} & set(found))
    versions.poll()
    assert newest(versions) == 1
    add(tmp_path, "3")
    versions.poll()
    assert newest(versions) == 1


def test_a_half_written_folder_waits_for_its_model_file(versions, tmp_path):
    add(tmp_path, "1")
    versions.start()
    (tmp_path / "2" / "variables").mkdir(parents=True)
    versions.poll()
    assert states(versions) == {1: State.AVAILABLE}
    add(tmp_path, "2")
    versions.poll()
    assert newest(versions) == 2


def test_removing_the_newest_version_goes_back_to_the_one_before(versions, tmp_path):
    add(tmp_path, "1")
    add(tmp_path, "2")
    versions.start()
    (tmp_path / "2" / "saved_model.pb").unlink()
    versions.poll()
    assert newest(versions) == 1


def test_a_base_path_that_vanishes_changes_nothing(versions, tmp_path):
    add(tmp_path, "1")
    versions.start()
    (tmp_path / "1" / "saved_model.pb").unlink()
    versions.poll()
    assert newest(versions) == 1
    versions.configure(tmp_path / "gone", latest)
    versions.poll()
    assert newest(versions) == 1


def test_unknown_versions(versions, tmp_path):
    add(tmp_path, "1")
    versions.start()
    with pytest.raises(StatusError, match="Specific 7 of m") as caught, versions.use(7):
        pass
    assert caught.value.code == grpc.StatusCode.NOT_FOUND
    with pytest.raises(StatusError, match="Could not find version 7 of model m"):
        versions.statuses(7)


def test_starting_without_a_version_says_why(tmp_path):
    with pytest.raises(ServingError, match="gone is not a directory"):
        ModelVersions("m", tmp_path / "gone", load=LOAD).start()
    with pytest.raises(ServingError, match="no complete version folder"):
        ModelVersions("m", tmp_path, load=LOAD).start()
    add(tmp_path, "1", "broken")
    with pytest.raises(ServingError, match="DATA_LOSS: version 1 is broken"):
        ModelVersions("m", tmp_path, load=LOAD).start()


def test_polls_in_a_thread_and_survives_surprises(tmp_path):
    add(tmp_path, "1")
    loaded = threading.Event()
    attempts = []

    def load(path, name, version) -> Any:
        attempts.append(version)
        if version == 3:
            loaded.set()
        if version == 2:
            raise ZeroDivisionError("a surprise")
        return FakeServable(path, name, version)

    versions = ModelVersions("m", tmp_path, poll_seconds=0.01, load=load)
    versions.start()
    try:
        add(tmp_path, "2")
        add(tmp_path, "3")
        assert loaded.wait(10)
    finally:
        versions.close()
        versions.join()
    assert states(versions)[3] == State.END
    assert versions.available() == []


def test_ended_versions_are_forgotten_after_a_hundred(versions, tmp_path):
    for version in range(1, 151):
        add(tmp_path, str(version))
        if version == 1:
            versions.start()
        else:
            versions.poll()
    known = states(versions)
    assert len(known) == 101
    assert known[150] == State.AVAILABLE
    assert min(known) == 50
