"""Scoring files: reading, grouping and writing."""

import json

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cmdcm.core.errors import ConfigError, DataError, ServingError
from cmdcm.serving import score_file as module
from cmdcm.serving.client import ScoringClient
from cmdcm.serving.score_file import score_file
from cmdcm.serving.scoring import SIGNATURES
from cmdcm.serving.status import StatusError
from cmdcm.tests.serving import models
from cmdcm.tests.serving.rows import rows_table

SPEC = models.SPEC
USERS = [7, 7, 7, 8, 9, 9, 9, 9, 9, 7]


@pytest.fixture(scope="module")
def client(server):
    with ScoringClient(server.target, "tiny", SPEC, deadline_ms=20_000, sizes=(1, 4)) as made:
        yield made


def write(path, table):
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return path


def read(path) -> dict[str, list]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pydict()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {name: [row[name] for row in rows] for name in rows[0]}


def reference(users) -> dict[str, np.ndarray]:
    item = models.candidate_arrays(len(users))
    rows = [
        models.expected(
            models.user_arrays(user), {k: v[n : n + 1] for k, v in item.items()}, version=2
        )
        for n, user in enumerate(users)
    ]
    return {name: np.concatenate([row[name] for row in rows]) for name in models.OUTPUTS}


@pytest.mark.parametrize("suffixes", [(".parquet", ".jsonl"), (".jsonl", ".parquet")])
@pytest.mark.parametrize(
    ("signature", "requests"), [("serving_default", 3), ("score_candidates", 4)]
)
def test_scores_equal_the_reference(client, tmp_path, suffixes, signature, requests):
    source = write(tmp_path / f"rows{suffixes[0]}", rows_table(USERS))
    target = tmp_path / f"scores{suffixes[1]}"
    summary = score_file(client, SPEC, source, target, signature=signature, keep=["key", "item_id"])
    assert (summary.rows, summary.versions) == (10, {2})
    assert len(summary.latencies_ms) == requests
    scores = read(target)
    assert list(scores) == ["key", "item_id", *sorted(models.OUTPUTS), "model_version"]
    assert scores["key"] == [f"row {n}" for n in range(10)]
    assert scores["model_version"] == [2] * 10
    for name, values in reference(USERS).items():
        np.testing.assert_allclose(scores[name], values, atol=1e-6)


@pytest.mark.parametrize("signature", SIGNATURES)
@pytest.mark.parametrize("suffix", module.SUFFIXES)
def test_defaults_are_the_same_in_both_signatures(client, tmp_path, signature, suffix):
    table = rows_table([7, 7]).drop_columns(["key", "city", "clicked_item", "clicked_age", "hour"])
    table = table.set_column(
        table.column_names.index("price"), "price", pa.array([None, 3.0], pa.float32())
    )
    source = write(tmp_path / f"rows{suffix}", table)
    score_file(client, SPEC, source, tmp_path / "out.parquet", signature=signature)
    user = {
        **models.user_arrays(),
        "city": np.array([b"nowhere"], object),
        "clicked_item": np.zeros((1, 4)),
        "clicked_age": -np.ones((1, 4)),
        "hour": np.zeros(1),
    }
    item = {**models.candidate_arrays(2), "price": np.array([1.5, 3.0])}
    got = read(tmp_path / "out.parquet")["p_cart"]
    np.testing.assert_allclose(got, models.expected(user, item, 2)["p_cart"], atol=1e-6)


def test_groups_go_on_over_the_batches_of_a_file(client, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BATCH_ROWS", 4)
    users = [1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4]
    source = write(tmp_path / "rows.parquet", rows_table(users))
    target = tmp_path / "scores.parquet"
    summary = score_file(client, SPEC, source, target, signature="score_candidates", keep=["key"])
    scores = read(target)
    assert scores["key"] == [f"row {n}" for n in range(16)]
    np.testing.assert_allclose(scores["p_cart"], reference(users)["p_cart"], atol=1e-6)
    # User 2 crosses a batch and is one request; user 3 has more rows than a batch and is cut.
    assert len(summary.latencies_ms) == 5


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.parquet", None, "gone.parquet not found"),
        ("bad.parquet", b"PAR1 nothing", "cannot read .*bad.parquet"),
        ("empty.jsonl", b"", "cannot read .*empty.jsonl"),
        ("half.jsonl", b'{"user_id": 1}\n{"user_id"', "cannot read .*half.jsonl"),
        ("list.jsonl", b"[1]\n", "a line should be a JSON object"),
        ("latin.jsonl", b'{"city": "\xe9"}\n', "cannot read .*latin.jsonl"),
        ("type.jsonl", b'{"user_id": 1}\n{"user_id": "x"}\n', "cannot read .*type.jsonl"),
    ],
)
def test_files_that_cannot_be_read(client, tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        score_file(client, SPEC, tmp_path / name, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_a_file_without_rows(client, tmp_path):
    source = write(tmp_path / "rows.parquet", rows_table([]))
    with pytest.raises(DataError, match="has no rows"):
        score_file(client, SPEC, source, tmp_path / "out.parquet", keep=["key"])


def test_unknown_features_and_name_clashes(client, tmp_path):
    source = write(tmp_path / "rows.parquet", rows_table([7]))
    target = tmp_path / "out.parquet"
    with pytest.raises(ServingError, match="unknown feature 'key'"):
        score_file(client, SPEC, source, target)
    clash = rows_table([7]).rename_columns({"key": "p_cart"})
    with pytest.raises(ConfigError, match="'p_cart' has the name of a score"):
        score_file(client, SPEC, write(source, clash), target, keep=["p_cart"])
    with pytest.raises(ConfigError, match=r"expected a file with suffix \.parquet or \.jsonl"):
        score_file(client, SPEC, source, tmp_path / "out.csv", keep=["key"])


def test_nothing_is_left_when_a_call_fails_halfway(client, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BATCH_ROWS", 1)  # what was scored is written at once
    source = write(tmp_path / "rows.parquet", rows_table([7, 7, 8]))
    target = tmp_path / "out.parquet"
    score = client.score_candidates
    staged: list[int] = []

    def fail_for_user_8(user, candidates):
        staged.extend(path.stat().st_size for path in tmp_path.glob(".out.parquet.*"))
        if user["user_id"] == [8]:
            raise StatusError(grpc.StatusCode.UNAVAILABLE, "the server went away")
        return score(user, candidates)

    monkeypatch.setattr(client, "score_candidates", fail_for_user_8)
    with pytest.raises(StatusError, match="went away"):
        score_file(client, SPEC, source, target, signature="score_candidates", keep=["key"])
    assert staged  # the output was under way
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


def test_json_columns_that_first_appear_late_are_named(client, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_JSON_BLOCK_BYTES", 2000)
    rows = rows_table([7] * 30).drop_columns(["key"]).to_pylist()
    for row in rows[:-1]:
        del row["city"]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"\['city'\] first appear far down"):
        score_file(client, SPEC, source, tmp_path / "out.jsonl")
