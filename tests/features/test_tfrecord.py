"""CRC32C against published values, and both of its implementations against each other."""

import numpy as np
import pyarrow as pa
import pytest

from cmdcm.core.errors import DataError
from cmdcm.features import tfrecord
from cmdcm.features.encode import write_tfrecords
from cmdcm.features.lowlevel import HAS_CRC32C

KNOWN = {  # RFC 3720, appendix B.4, and the check value of the catalogue of CRCs
    bytes(32): 0x8A9136AA,
    b"\xff" * 32: 0x62A8AB43,
    bytes(range(32)): 0x46DD794E,
    bytes(range(31, -1, -1)): 0x113FDB5C,
    b"123456789": 0xE3069283,
    b"": 0,
}


@pytest.mark.parametrize("data", KNOWN)
def test_known_values(data):
    array = np.frombuffer(data + b"more", np.uint8)
    crc = KNOWN[data]
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
    assert tfrecord.masked_crc32c(array.ctypes.data, len(data)) == masked


@pytest.mark.skipif(not HAS_CRC32C, reason="the processor has no CRC32C instruction")
def test_table_equals_instruction():
    random = np.random.default_rng(0)
    for crc, word in random.integers(0, 2**64, (200, 2), np.uint64):
        low = crc & np.uint64(0xFFFFFFFF)
        by_table = tfrecord._crc32c_step_by_table(low, word)
        assert by_table == tfrecord._crc32c_step_by_instruction(low, word)


def test_empty_file_and_empty_records(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert tfrecord.verify(tmp_path / "empty") == 0
    write_tfrecords(tmp_path / "nulls", [pa.table({"x": pa.nulls(3)})])
    assert list(tfrecord.read_records(tmp_path / "nulls")) == [b"\n\0"] * 3


@pytest.mark.parametrize("slack", [0, 9])
def test_records_across_the_blocks_in_which_a_file_is_read(tmp_path, slack):
    rows = [["x" * n] for n in (0, 5, 300, 1, 2_000, 64, 64)]
    write_tfrecords(tmp_path / "part", [pa.table({"s": rows})])
    expected = list(tfrecord.read_records(tmp_path / "part"))
    assert len(expected) == 7
    for size in (1, 16, 17, 100, 1_000, 10_000):
        read = []
        for data, bounds in tfrecord.read_blocks(tmp_path / "part", size, slack):
            memory = data.base
            assert memory is not None
            assert memory.nbytes >= len(data) + slack
            read += [data[start:stop].tobytes() for start, stop in bounds]
        assert read == expected


@pytest.mark.parametrize("compress", [False, True])
def test_every_cut_of_a_file_is_noticed(tmp_path, compress):
    path = tmp_path / "part"
    write_tfrecords(path, [pa.table({"x": [1, 2]})], gzip=compress)
    data = path.read_bytes()
    whole = len(data) // 2  # of a plain file: the end of the first record is a sound end
    for size in range(1, len(data)):
        path.write_bytes(data[:size])
        if not compress and size == whole:
            assert tfrecord.verify(path) == 1
            continue
        with pytest.raises(DataError, match=r"part: record [01], at byte"):
            tfrecord.verify(path)


def test_every_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "part"
    write_tfrecords(path, [pa.table({"x": [1, 2]})])
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 64]) + data[place + 1 :])
        offset = 0 if place < len(data) // 2 else len(data) // 2
        with pytest.raises(DataError, match=f"record {offset and 1}, at byte {offset}, "):
            tfrecord.verify(path)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"cannot read TFRecord file .*absent: No such file"):
        list(tfrecord.read_records(tmp_path / "absent"))
