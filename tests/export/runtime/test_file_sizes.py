"""The bytes of a file: rows add up, notes name wider containers, and nothing superfluous is stored."""

import gzip
import json

import numpy as np
import pytest

from r2keras.export import sizes, to_litert
from r2keras.export.tflite.interpreter import read
from r2keras.record import CompressionRecord
from r2keras.specs import QuantSpec
from tests.export.models import conv_net, dense_net
from tests.export.quantize import quantize


def test_rows_and_totals(exported):
    model, _, path, found = exported
    hidden, head = found.tensors
    assert (hidden.name, hidden.num_bits, hidden.container_bits, hidden.note) == ("hidden/kernel", 2, 2, "")
    assert (head.num_bits, head.container_bits, head.note) == (3, 4, "3-bit codes in a 4-bit container")
    assert (hidden.float_bytes, hidden.ideal_bytes) == (4 * 16 * 24, 16 * 24 / 4)
    # Codes of 16 weights, a scale and a half step for each of 24 units.
    assert hidden.packed_bytes == 24 * (16 // 4 + 4 + 4)
    assert head.packed_bytes == 4 * (24 // 2 + 4)
    assert found.packed_bytes == hidden.packed_bytes + head.packed_bytes
    assert found.float_bytes == 4 * model.count_params()
    assert found.file_bytes == path.stat().st_size
    assert found.gzip_bytes == len(gzip.compress(path.read_bytes(), 6, mtime=0))


def test_sizes_read_from_disk_are_those_of_the_export(exported):
    _, record, path, found = exported
    assert sizes(record, path) == found


def test_sizes_are_plain_json(exported):
    found = exported[3]
    again = json.loads(json.dumps(found.to_dict()))
    assert again["file_bytes"] == found.file_bytes
    assert again["tensors"][0]["shape"] == [16, 24]


def test_a_file_of_another_record_is_refused(exported):
    _, record, path, _ = exported
    t = record.tensors["head/kernel"]
    renamed = type(t)("other/kernel", t.codes, t.scale, t.zero_point, t.spec, t.before)
    with pytest.raises(ValueError, match="does not hold the weight 'other/kernel'"):
        sizes(CompressionRecord({"other/kernel": renamed}, {}, 1, "other"), path)


@pytest.mark.parametrize("num_bits", range(1, 9))
def test_the_file_is_little_more_than_its_codes_scales_and_biases(num_bits, tmp_path):
    model = dense_net()
    found = to_litert(model, tmp_path / "m.tflite", quantize(model, lambda name: QuantSpec(num_bits=num_bits)))
    biases = 4 * (24 + 4)
    assert found.file_bytes < found.packed_bytes + biases + 1600


def test_a_float_file_is_little_more_than_its_values(tmp_path):
    model = dense_net()
    found = to_litert(model, tmp_path / "m.tflite")
    assert found.float_bytes == 4 * model.count_params()
    assert 0 < found.file_bytes - found.float_bytes < 900
    assert found.packed_bytes == found.ideal_bytes == 4 * (16 * 24 + 24 * 4)


def test_only_ends_and_weights_have_names_and_nothing_is_stored_twice(tmp_path):
    model = conv_net()
    record = quantize(model, lambda name: QuantSpec(num_bits=4))
    to_litert(model, tmp_path / "m.tflite", record)
    file = read(tmp_path / "m.tflite")
    names = {tensor.name.decode() for tensor in file.subgraphs[0].tensors if tensor.name}
    assert names == {"in", "output_0", *record.tensors}
    assert not file.metadata
    contents = [b.data.tobytes() for b in file.buffers if b.data is not None]
    assert len(set(contents)) == len(contents)
    signature = file.signatureDefs[0]
    assert [(e.name, e.tensorIndex) for e in signature.inputs] == [(b"in", file.subgraphs[0].inputs[0])]
    assert [(e.name, e.tensorIndex) for e in signature.outputs] == [(b"output_0", file.subgraphs[0].outputs[0])]


def test_constants_are_aligned_as_the_schema_asks(exported):
    data = exported[2].read_bytes()
    file = read(exported[2])
    starts = [np.asarray(b.data).__array_interface__["data"][0] for b in file.buffers if b.data is not None]
    base = min(starts)
    assert data
    assert all((start - base) % 16 == 0 for start in starts)
