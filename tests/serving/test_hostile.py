"""Some hundred hostile requests to a server in a process of its own; `make bench-hostile` has more.

No bound of memory is tested here: so few requests do not fill the caches.
"""

import pytest

from cmdcm.benchmarks.server_process import server_process
from cmdcm.tests.serving.hostile_requests import HostileRequests, RestRequest, model_config
from cmdcm.tests.serving.hostile_run import GOOD_EVERY, Attacker, Outcome

REQUESTS = 400


@pytest.fixture(scope="module")
def outcome(exports, tmp_path_factory) -> Outcome:
    folder = tmp_path_factory.mktemp("hostile")
    reload = model_config(exports)
    (folder / "models.config").write_text(str(reload.config), encoding="utf-8")
    flags = [f"--model_config_file={folder / 'models.config'}", "--rest_api_port=0"]
    with server_process(folder / "log", *flags) as server:
        attacker = Attacker(server, HostileRequests(exports, 1), reload.SerializeToString())
        attacker.run(REQUESTS, warmup=0)
        outcome = attacker.abuse()
        attacker.close()
        assert server.process.poll() is None
    return outcome


@pytest.mark.slow
def test_hostile_requests_are_answered_with_codes_of_the_protocol(outcome):
    assert outcome.faults == []
    assert outcome.codes["INVALID_ARGUMENT"] > REQUESTS / 10
    assert outcome.codes["REST 400"] > REQUESTS / 20


@pytest.mark.slow
def test_good_requests_in_between_are_answered_right(outcome):
    assert outcome.good == REQUESTS / GOOD_EVERY + 4


def test_requests_depend_on_the_seed_and_the_number_alone(exports):
    one, same = HostileRequests(exports, 3), HostileRequests(exports, 3)
    made = [one.make(number) for number in range(100)]
    assert made == [same.make(number) for number in reversed(range(100))][::-1]
    assert made != [HostileRequests(exports, 4).make(number) for number in range(100)]
    assert any(isinstance(request, RestRequest) for request in made)
