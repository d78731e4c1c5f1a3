"""What clients log, read by the check for skew."""

import pytest

from cmdcm.jobs.prediction_logs import read_requests
from cmdcm.serving.client import ScoringClient
from cmdcm.serving.request_log import RequestLog
from cmdcm.serving.server import EmbeddedServer
from cmdcm.tests.serving import models


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("logged")
    models.write_tiny_model(base / "1", 1)
    with EmbeddedServer(base, "tiny") as running:
        yield running


@pytest.mark.parametrize("signature", ["score_candidates", "serving_default"])
def test_logged_requests_are_read_as_they_were_scored(server, tmp_path, signature):
    with (
        RequestLog(tmp_path, rate=1.0) as log,
        ScoringClient(
            server.target, "tiny", models.SPEC, deadline_ms=20_000, sizes=(4,), request_log=log
        ) as client,
    ):
        for user_id, count in ((7, 3), (8, 10)):
            user, candidates = models.user_values(user_id), models.candidate_arrays(count)
            client.score_candidates(user, candidates, signature)
    files = sorted(tmp_path.iterdir())
    served = read_requests(files, models.SPEC, max_rows=1000, max_bytes=1 << 20)
    assert served.requests == 2
    assert served.rows == 13  # without what pads them to the warmed-up size
    for counter in (served.unknown, served.missing, served.wrong_type, served.wrong_shape):
        assert not counter
    assert not served.skipped
    assert served.columns.keys() == {f.name for f in models.SPEC.inputs}
    assert served.columns["price"].numbers == {0: 3, 1: 3, 2: 3, 3: 1, 4: 1, 5: 1, 6: 1}
    users = 13 if signature == "serving_default" else 2
    assert served.columns["clicked_age"].length_bins == {2: users}
