"""Damaged records: a clear ValueError or a record, never another exception, and little memory."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2keras import CompressionRecord
from tests.damage import MANY, ODD_VALUES, QUICK, check_refusal, damaged_bytes, edited, examples, peak_megabytes

RECORDS = Path(__file__).parents[1] / "fixtures" / "records"
NAMES = ["convolutions.record.npz", "palettes.record.npz", "version1.record.npz"]


def parts_of(name):
    """Returns the parsed JSON and the arrays of a record."""
    with np.load(RECORDS / name) as file:
        arrays = dict(file)
    return json.loads(arrays.pop("record.json").tobytes()), arrays


def write(path, config, arrays, *, method=zipfile.ZIP_DEFLATED, zeros=()):
    """Writes a record from its parts; `zeros` are names, shapes, types and numbers of zero bytes."""
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, array in {"record.json": np.frombuffer(text, np.uint8), **arrays}.items():
            member = io.BytesIO()
            np.save(member, array)
            archive.writestr(f"{name}.npy", member.getvalue())
        for name, shape, kind, size in zeros:
            head = io.BytesIO()
            np.lib.format.write_array_header_1_0(head, {"descr": kind, "fortran_order": False, "shape": shape})
            with archive.open(f"{name}.npy", "w") as member:
                member.write(head.getvalue())
                for start in range(0, size, 10**6):
                    member.write(bytes(min(10**6, size - start)))


def load(path):
    try:
        record = CompressionRecord.load(path)
    except ValueError as error:
        check_refusal(error, path.name)
    else:
        for tensor in record.tensors.values():
            assert np.isfinite(tensor.values()).all()


SHAPES = [(), (0,), (1,), (7,), (3, 3), (1, 1, 1, 1), (2, 0, 2)]
KINDS = ["<i1", "<i8", "<u1", "<f2", "<f4", "<f8", "|b1", "<U3", "|V4", ">f4", "<c8"]


@st.composite
def edited_records(draw, config, arrays):
    """Draws JSON and arrays of a record, of which some are exchanged."""
    config = draw(edited(config)) if draw(st.booleans()) else config
    arrays = dict(arrays)
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(arrays)))
        kind = draw(st.sampled_from(["drop", "rename", "shape", "kind", "value", "other"]))
        if kind == "drop":
            del arrays[name]
            break
        if kind == "rename":
            arrays[draw(st.sampled_from(["x", "|", "a|b", "", f"{name}|codes"]))] = arrays.pop(name)
        elif kind == "shape":
            arrays[name] = np.zeros(draw(st.sampled_from(SHAPES)), arrays[name].dtype)
        elif kind == "kind":
            arrays[name] = np.zeros(arrays[name].shape, draw(st.sampled_from(KINDS)))
        elif kind == "value" and arrays[name].size:
            odd = np.array([0, 1, -1, 127, -128, np.inf, np.nan, 1e30, -1e-30])
            with np.errstate(all="ignore"):
                arrays[name] = np.broadcast_to(
                    draw(st.sampled_from(odd)).astype(arrays[name].dtype), arrays[name].shape
                )
        else:
            arrays[name] = arrays[draw(st.sampled_from(sorted(arrays)))]
    return config, arrays


def check(number, path):
    before = peak_megabytes()
    parts = [parts_of(name) for name in NAMES]
    files = [(RECORDS / name).read_bytes() for name in NAMES]

    @examples(number)
    @given(st.data())
    def run(data):
        if data.draw(st.booleans()):
            path.write_bytes(data.draw(damaged_bytes(data.draw(st.sampled_from(files)))))
        else:
            method = data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
            write(path, *data.draw(edited_records(*data.draw(st.sampled_from(parts)))), method=method)
        load(path)

    run()
    assert peak_megabytes() - before < 150


def test_damaged_files(tmp_path):
    check(QUICK, tmp_path / "m.record.npz")


@pytest.mark.slow
def test_many_damaged_files(tmp_path):
    check(MANY, tmp_path / "m.record.npz")


CONFIG, ARRAYS = parts_of(NAMES[0])
KERNEL = next(iter(CONFIG["tensors"]))
OTHERS = {part: {k: v for k, v in ARRAYS.items() if k != f"{KERNEL}|{part}"} for part in ("codes", "scale")}
SIZE = 100_000_000
HUGE = {**CONFIG, "num_values": 2**60}
BOMBS = {
    "an unknown array": (CONFIG, ARRAYS, [("unused", (SIZE,), "|u1", SIZE)], "belongs to no tensor"),
    "codes": (CONFIG, OTHERS["codes"], [(f"{KERNEL}|codes", (SIZE,), "|i1", SIZE)], "larger than the whole model"),
    "consistent codes": (HUGE, OTHERS["codes"], [(f"{KERNEL}|codes", (SIZE, 1, 1, 1), "|i1", SIZE)], "too many"),
    "scales": (HUGE, OTHERS["scale"], [(f"{KERNEL}|scale", (SIZE // 4,), "<f4", SIZE)], "at most 72 are possible"),
    "a shape": (CONFIG, OTHERS["scale"], [(f"{KERNEL}|scale", (2**40,), "<f4", 100)], "do not fit its shape"),
    "a negative shape": (CONFIG, OTHERS["scale"], [(f"{KERNEL}|scale", (-(2**40),), "<f4", 100)], "do not fit"),
    "a type": (CONFIG, OTHERS["scale"], [(f"{KERNEL}|scale", (1,), "<U200000000", 100)], "do not fit its shape"),
    "spaces": (json.dumps(CONFIG).encode() + b" " * SIZE, ARRAYS, [], "at most 16,777,216 bytes"),
    "values": (b"[" + b"[]," * 5_000_000 + b"1]", ARRAYS, [], "more than 1,000,000 values"),
    "brackets": (b'{"a":' * 100_000, ARRAYS, [], "nested too deeply"),
    "a name": ({**CONFIG, "tensors": {"n" * 10**6: {"kind": "k" * 10**6}}}, ARRAYS, [], "unknown kind"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_hostile_sizes_are_refused_before_anything_is_allocated(name, tmp_path):
    config, arrays, zeros, match = BOMBS[name]
    path = tmp_path / "m.record.npz"
    write(path, config, arrays, zeros=zeros)
    assert path.stat().st_size < 200_000
    before = peak_megabytes()
    with pytest.raises(ValueError, match=match) as caught:
        CompressionRecord.load(path)
    check_refusal(caught.value, path.name)
    assert peak_megabytes() - before < 60


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_compression_is_refused(method, tmp_path):
    write(tmp_path / "m.npz", CONFIG, ARRAYS, method=method)
    with pytest.raises(ValueError, match="as NumPy does not compress"):
        CompressionRecord.load(tmp_path / "m.npz")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_given_twice_is_refused(tmp_path):
    write(tmp_path / "m.npz", CONFIG, ARRAYS, zeros=[(f"{KERNEL}|codes", (1,), "|i1", 1)])
    with pytest.raises(ValueError, match="is in it twice"):
        CompressionRecord.load(tmp_path / "m.npz")


@pytest.mark.parametrize("key", ["shape", "dim", "axes", "group_size"])
def test_any_value_in_place_of_a_layout(key, tmp_path):
    config, arrays = parts_of("palettes.record.npz")
    name = next(name for name, tensor in config["tensors"].items() if "layout" in tensor)
    for value in [*ODD_VALUES, [0], [-1], [5], [1, 1], [0, 1]]:
        config["tensors"][name]["layout"][key] = value
        write(tmp_path / "m.record.npz", config, arrays)
        load(tmp_path / "m.record.npz")


def test_other_archives_are_named(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros(3), y=np.zeros(3))
    with pytest.raises(ValueError, match=r"x\.npz is not a readable record \(it has no `record.json`, but 'x', 'y'\)"):
        CompressionRecord.load(tmp_path / "x.npz")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"argument `path`. .*x\.npz', which does not exist. Check the path"):
        CompressionRecord.load(tmp_path / "x.npz")
    with pytest.raises(IsADirectoryError, match="which is a folder"):
        CompressionRecord.load(tmp_path)
