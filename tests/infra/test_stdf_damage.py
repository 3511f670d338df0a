"""The STDF reader on files that are cut, corrupt, packed or lying."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import zipfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from features.errors import StorageError, UnreadableFile
from features.source import RECORD_OFFSET
from infra.sources.base import file_sha256
from infra.sources.stdf import SOURCES, StdfReader
from support_stdf import BIG, LITTLE, Stdf, read, results_of, small_file

# --------------------------------------------------------------------- cut, corrupt, packed, lying


def test_cut_at_every_byte_lands_whole_records_or_says_why(tmp_path: Path) -> None:
    file = small_file()
    whole = read(file, tmp_path).tables["test_results"]
    for size in range(len(file.data)):
        last = max((end for end in file.ends if end <= size), default=0)
        if last < file.ends[1]:
            with pytest.raises(UnreadableFile):
                read(file.data[:size], tmp_path)
            continue
        delivery = read(file.data[:size], tmp_path)
        assert delivery.truncated_at == last
        assert delivery.note is not None
        assert str(last) in delivery.note
        expected = whole.filter(pl.col(RECORD_OFFSET) < last)["result"].to_list()
        assert delivery.tables["test_results"]["result"].to_list() == expected
        assert delivery.tables["parts"].height == sum(end <= last for end in (file.ends[6], file.ends[9]))


def test_a_cut_on_a_record_boundary_counts_as_cut(tmp_path: Path) -> None:
    file = small_file()
    delivery = read(file.data[: file.ends[8]], tmp_path)
    assert delivery.truncated_at == file.ends[8]
    assert delivery.note == f"no MRR: it may be cut after its last record, at byte {file.ends[8]}"
    assert delivery.tables["test_results"]["part_index"].to_list() == [0, None]


@pytest.mark.parametrize("cpu", [0, 1, 2, 77])
@pytest.mark.parametrize("order", [LITTLE, BIG])
def test_a_lying_cpu_type_changes_nothing(tmp_path: Path, order: str, cpu: int) -> None:
    lie = read(small_file(order, cpu), tmp_path)
    truth = read(small_file(order), tmp_path)
    for source in SOURCES:
        assert_frame_equal(lie.tables[source.name], truth.tables[source.name])
    assert (lie.note is None) == (cpu in {77, {LITTLE: 2, BIG: 1}[order]})


@pytest.mark.parametrize(("declared", "real"), [(LITTLE, BIG), (BIG, LITTLE)])
def test_a_far_in_the_wrong_byte_order_is_seen_through(tmp_path: Path, declared: str, real: str) -> None:
    data = small_file(declared).data[:6] + small_file(real).data[6:]
    lie = read(data, tmp_path)
    assert (lie.truncated_at, lie.note) == (None, "its FAR lies about the byte order")
    assert_frame_equal(lie.tables["test_results"], results_of(small_file(real), tmp_path))


def test_garbage_in_the_middle_is_corrupt_at_its_byte(tmp_path: Path) -> None:
    file = small_file()
    at = file.ends[6]
    with pytest.raises(UnreadableFile, match=f"corrupt: no STDF record starts at byte {at}") as caught:
        read(file.data[:at] + b"\x10\x00\xee\xee" + bytes(range(200, 250)) + file.data[at:], tmp_path)
    assert caught.value.offset == at


def test_a_testers_own_record_type_is_skipped(tmp_path: Path) -> None:
    file = Stdf().mir().pir().add(220, 7, b"vendor").ptr(1.5).prr().mrr()
    delivery = read(file, tmp_path)
    assert (delivery.truncated_at, delivery.note) == (None, "1 record(s) of unknown type were skipped")
    assert delivery.tables["test_results"]["result"].to_list() == [1.5]


def test_zero_padding_after_the_end_is_no_cut(tmp_path: Path) -> None:
    delivery = read(small_file().data + bytes(512), tmp_path)
    assert delivery.truncated_at is None
    assert delivery.tables["parts"].height == 2


@pytest.mark.parametrize(
    ("data", "reason", "offset"),
    [
        (b"", "empty", 0),
        (b"lot,wafer\n1,2\n", "not an STDF file", 0),
        (b"\x02\x00\x00", "cut within", 0),
        (b"\x02\x00\x00\x0a\x02", "cut within", 0),
        (b"\x02\x00\x00\x0a\x02\x03", "STDF version 3", 5),
        (b"\x02\x00\x00\x0a\x02\x04", "no time anywhere", None),
    ],
)
def test_what_is_no_stdf_says_so(tmp_path: Path, data: bytes, reason: str, offset: int | None) -> None:
    with pytest.raises(UnreadableFile, match=reason) as caught:
        read(data, tmp_path)
    assert caught.value.offset == offset


def test_a_malformed_record_that_nobody_reads_does_no_harm(tmp_path: Path) -> None:
    file = Stdf().mir().add(0, 30, b"\x05").pir().ptr().prr().mrr()
    assert results_of(file, tmp_path).height == 1


@given(changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_anywhere_never_escapes_the_error_tree(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(small_file().mpr([1.0], [2]).ftr().data)
    for at, value in changes:
        data[at % len(data)] = value
    try:
        delivery = read(bytes(data), tmp_path_factory.mktemp("damage"))
    except UnreadableFile:
        return
    assert list(delivery.tables) == [source.name for source in SOURCES]


def zipped(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


PLAIN = small_file().data
PACKED = {
    "a.stdf.gz": gzip.compress(PLAIN),
    "a.std.bz2": bz2.compress(PLAIN),
    "a.zip": zipped(("folder/", b""), ("folder/a.stdf", PLAIN)),
    "A.STDF.GZ": gzip.compress(PLAIN),
    "members.stdf.gz": gzip.compress(PLAIN[:100]) + gzip.compress(PLAIN[100:]),
    "members.stdf.bz2": bz2.compress(PLAIN[:100]) + bz2.compress(PLAIN[100:]),
    "misnamed.stdf": gzip.compress(PLAIN),
    "misnamed.stdf.gz": PLAIN,
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_files_read_like_plain_ones(tmp_path: Path, name: str) -> None:
    assert StdfReader().accepts(Path(name))
    packed, plain = read(PACKED[name], tmp_path, name), read(PLAIN, tmp_path)
    assert (packed.truncated_at, packed.note) == (None, None)
    for source in SOURCES:
        assert_frame_equal(packed.tables[source.name], plain.tables[source.name])


def test_a_zip_of_several_files_says_which_was_read(tmp_path: Path) -> None:
    delivery = read(zipped(("a.stdf", PLAIN), ("b.stdf", PLAIN)), tmp_path, "two.zip")
    assert delivery.note == "the zip holds 2 files, of which only the first, 'a.stdf', was read"


@pytest.mark.parametrize("packing", ["gz", "bz2"])
def test_a_cut_packed_file_lands_what_unpacks(tmp_path: Path, packing: str) -> None:
    file = Stdf().mir()
    noise = hashlib.shake_256(b"noise").digest(64 * 30_000)
    body = b"".join(b"\x40\x00\xb4\x00" + noise[i : i + 64] for i in range(0, len(noise), 64))
    data = file.pir().ptr(1.5).prr("1").data + body + Stdf().mrr().data[6:]
    packed = gzip.compress(data) if packing == "gz" else bz2.compress(data)
    delivery = read(packed[: len(packed) * 2 // 3], tmp_path, f"cut.stdf.{packing}")
    assert delivery.truncated_at is not None
    assert len(data) // 3 < delivery.truncated_at < len(data)
    assert delivery.tables["test_results"]["result"].to_list() == [1.5]


@pytest.mark.parametrize("kept", range(4, len(gzip.compress(PLAIN)), 7))
def test_a_gzip_cut_anywhere_lands_or_says_why(tmp_path: Path, kept: int) -> None:
    data = gzip.compress(PLAIN)[:kept]
    try:
        delivery = read(data, tmp_path, "cut.stdf.gz")
    except UnreadableFile as error:
        assert "cut" in error.reason or "no time" in error.reason  # noqa: PT017
        return
    assert delivery.truncated_at is not None
    assert delivery.note is not None
    assert "cut" in delivery.note


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.zip", zipped(("a.stdf", PLAIN))[:60], "the zip cannot be read"),
        ("a.zip", zipped(), "the zip holds no file"),
        ("a.stdf.gz", gzip.compress(PLAIN)[:-8] + bytes(8), "the gzip data is damaged"),
        ("a.stdf.gz", gzip.compress(b""), "the gzip file is empty"),
        ("a.stdf.gz", gzip.compress(PLAIN)[:12], "the gzip file is cut before any data"),
        ("a.stdf.bz2", bz2.compress(PLAIN)[:60], "the bzip2 file is cut before any data"),
    ],
)
def test_damaged_packing_says_so(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableFile, match=reason):
        read(data, tmp_path, name)


def test_a_missing_file_or_a_folder_says_so(tmp_path: Path) -> None:
    for path in (tmp_path / "none.stdf", tmp_path):
        with pytest.raises(UnreadableFile, match="cannot open"):
            StdfReader().read(path)
        with pytest.raises(UnreadableFile, match="cannot open"):
            file_sha256(path)


def test_nothing_is_left_in_scratch(tmp_path: Path) -> None:
    scratch = tmp_path / "made" / "when needed"
    path = tmp_path / "cut.stdf.gz"
    path.write_bytes(gzip.compress(PLAIN[:150]))
    StdfReader(scratch=scratch).read(path)
    assert list(scratch.iterdir()) == []


def test_a_scratch_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "a.stdf.gz"
    path.write_bytes(PACKED["a.stdf.gz"])
    with pytest.raises(StorageError, match="no temporary folder"):
        StdfReader(scratch=tmp_path / "file" / "scratch").read(path)


def test_file_sha256_is_of_the_bytes_as_delivered(tmp_path: Path) -> None:
    path = tmp_path / "a.stdf.gz"
    path.write_bytes(PACKED["a.stdf.gz"])
    assert file_sha256(path) == hashlib.sha256(PACKED["a.stdf.gz"]).hexdigest()
