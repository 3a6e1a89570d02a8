"""The loaders in docs/deploy/sources, compiled and run: bit for bit what `expand` and the loader in Python give."""

from __future__ import annotations

import platform
import shutil
import struct
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from r2keras.export import bundle, expand, to_litert
from r2keras.export.tflite.interpreter import open_interpreter, parse
from r2keras.export.tflite.schema import FLOAT32
from r2keras.specs import QuantSpec
from tests.export import bundle_loader
from tests.export.install.compact_file import SIZE, compact_file
from tests.export.models import norm, random_inputs
from tests.export.palettize import compress, fitting, spec

pytestmark = pytest.mark.usefixtures("converted_once")

SOURCES = Path(__file__).resolve().parents[3] / "docs" / "deploy" / "sources"
JAVA = """
import com.r2keras.BundleLoader;
import java.nio.ByteBuffer;
import java.nio.file.*;
public class Main {
  public static void main(String[] paths) throws Exception {
    for (String path : paths) {
      try {
        ByteBuffer out = BundleLoader.load(ByteBuffer.wrap(Files.readAllBytes(Path.of(path))));
        byte[] bytes = new byte[out.remaining()];
        out.get(bytes);
        Files.write(Path.of(path + ".out"), bytes);
      } catch (IllegalArgumentException error) {
        System.out.println(error.getMessage());
      }
    }
  }
}
"""
CPP = """
#include <fstream>
#include <iostream>
#include <iterator>
#include "bundle_loader.h"
int main(int count, char** paths) {
  for (int i = 1; i < count; ++i) {
    std::ifstream in(paths[i], std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(in), {}};
    try {
      const r2keras::Model out = r2keras::LoadBundle(bytes.data(), bytes.size());
      if (reinterpret_cast<uintptr_t>(out.data()) % 16) return 3;
      std::ofstream(std::string(paths[i]) + ".out", std::ios::binary).write(out.data(), out.size());
    } catch (const std::invalid_argument& error) {
      std::cout << error.what() << std::endl;
    }
  }
}
"""


@pytest.fixture(scope="module", params=[pytest.param("java", marks=pytest.mark.slow), "c++"])
def loader(request, tmp_path_factory):
    """Returns a function that runs a compiled loader on bundles; it returns the outputs, or the refusals."""
    folder = tmp_path_factory.mktemp("loader")
    build = java_command if request.param == "java" else cpp_command
    command = build(folder)

    def run(bundles):
        paths = [folder / f"{number}.bundle" for number in range(len(bundles))]
        for path, content in zip(paths, bundles, strict=True):
            path.write_bytes(content)
            path.with_name(f"{path.name}.out").unlink(missing_ok=True)
        ran = subprocess.run([*command, *paths], capture_output=True, text=True, check=True)
        refusals = iter(ran.stdout.splitlines())
        found = [path.with_name(f"{path.name}.out") for path in paths]
        return [path.read_bytes() if path.exists() else next(refusals) for path in found]

    return run


def java_command(folder):
    if shutil.which("javac") is None:
        pytest.skip("javac is not installed")
    (folder / "Main.java").write_text(JAVA)
    sources = [SOURCES / "BundleLoader.java", folder / "Main.java"]
    # Java 8 is what Android's tools take everywhere; the small program beside it needs a later one.
    subprocess.run(["javac", "-Xlint:all,-options", "-Werror", "--release", "8", "-d", folder, sources[0]], check=True)
    subprocess.run(["javac", "-cp", folder, "-d", folder, sources[1]], check=True)
    return ["java", "-Xshare:auto", "-cp", folder, "Main"]


def cpp_command(folder):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    (folder / "main.cc").write_text(CPP)
    # With FMA, a compiler that may fuse operations does.
    fused = ["-mfma"] if platform.machine() == "x86_64" and " fma " in Path("/proc/cpuinfo").read_text() else []
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", *fused, f"-I{SOURCES}"]
    subprocess.run(["g++", *flags, "-o", folder / "main", folder / "main.cc"], check=True)
    return [folder / "main"]


SPECS = {
    "uniform": QuantSpec(num_bits=4, granularity="per_tensor"),
    "per-channel": QuantSpec(num_bits=2),
    "palette": spec(4, table_dtype="int8"),
    "vectors": spec(3, dim=5, table_dtype="int8", channel_scale=True),
    "groups": spec(2, dim=2, group=4, table_dtype="int8"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Returns compact files by name, and inputs of the nets."""
    folder = tmp_path_factory.mktemp("files")
    found = {"by hand": compact_file()}
    for name, chosen in SPECS.items():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6, 6, 4), name="in")
        x = layers.Flatten()(norm()(layers.Conv2D(12, 3, name="conv", use_bias=False)(inputs)))
        model = keras.Model(inputs, layers.Dense(10, name="head")(x))
        choose = fitting(chosen) if not isinstance(chosen, QuantSpec) else lambda *_, chosen=chosen: chosen
        to_litert(model, folder / "m.tflite", compress(model, choose))
        found[name] = (folder / "m.tflite").read_bytes()
    return found, random_inputs(model)


def floats(content):
    """Returns the float constants of a file, inside of its buffers or after them, as sorted bytes."""
    file = parse(content)
    buffers = [file.buffers[tensor.buffer] for tensor in file.subgraphs[0].tensors if tensor.type == FLOAT32]
    data = [bytes(b.data) if b.data is not None else content[b.offset : b.offset + b.size] for b in buffers if b]
    return sorted(part for part in data if part)


def outputs(content, inputs):
    runner = open_interpreter(content, "the file")
    for detail, array in zip(runner.get_input_details(), inputs, strict=True):
        runner.resize_tensor_input(detail["index"], array.shape)
    runner.allocate_tensors()
    for detail, array in zip(runner.get_input_details(), inputs, strict=True):
        runner.set_tensor(detail["index"], array)
    runner.invoke()
    return [runner.get_tensor(detail["index"]) for detail in runner.get_output_details()]


def test_every_weight_is_that_of_expand(loader, files):
    contents, inputs = files
    bundles = {name: bundle(content) for name, content in contents.items()}
    assert all(struct.unpack_from("<I", content, 8)[0] > 1 for content in bundles.values())
    for (name, content), loaded in zip(bundles.items(), loader(list(bundles.values())), strict=True):
        assert loaded == bundle_loader.load(content), name
        expanded = expand(contents[name])
        assert len(floats(loaded)) > 1 and floats(loaded) == floats(expanded), name
        given = [np.linspace(-1, 1, SIZE, dtype=np.float32)[None]] if name == "by hand" else inputs
        np.testing.assert_equal(outputs(loaded, given), outputs(expanded, given))


def synthetic():
    """Returns a bundle of one weight with vectors, every pattern, and sizes on both sides of the last axis."""
    rng = np.random.default_rng(0)
    before, last, after, dim, bits, entries = 3, 7, 5, 2, 4, 16
    codes = rng.integers(0, 256, before * -(-last // dim) * after // 2 + 1).astype(np.uint8)
    # Scales near 1 / 3, so that a fused multiplication and addition would round otherwise.
    arrays = [codes, *(rng.random(n).astype("<f4") + 1 / 3 for n in (2 * entries * dim, 5, 7, 3))]
    arrays.insert(2, np.array([8, 8 + entries, 9], "<i4"))
    blocks, offsets, start = [], [], 112
    for array in [np.zeros(16, np.uint8), *arrays]:
        offsets.append(start + sum(map(len, blocks)))
        blocks.append(array.tobytes() + bytes(-array.nbytes % 16))
    skeleton, code, table, first, scale, add, multiply = offsets
    record = [16, before, last, after, dim, bits, code, table, first, 35, 3, scale, 1, 5, add, 5, 7, multiply, 35, 3]
    head = struct.pack("<8s4I", b"R2KBNDL1", 1, skeleton, 16, 16 + 4 * before * last * after + 12)
    return (head + struct.pack("<20I", *record)).ljust(start, b"\0") + b"".join(blocks)


def test_every_pattern_is_applied(loader):
    """LiteRT files do not have all of them at once. Without -ffp-contract=off, a compiler may fuse two of them."""
    content = synthetic()
    values = np.frombuffer(bundle_loader.load(content)[16:-12], "<f4")
    assert len(np.unique(values)) > 90
    assert loader([content]) == [bundle_loader.load(content)]


def test_damage_is_refused(loader, files):
    good = bundle(files[0]["palette"])
    numbers = {20: 8, 8: 2**31 - 1, 12: 2**31 - 16, 24: 2**31 - 16, 28: 2**30, 40: 0, 44: 3, 48: 2**30, 52: 2**31 - 4}
    damaged = [bytearray(good) for _ in numbers]
    for content, (offset, value) in zip(damaged, numbers.items(), strict=True):
        struct.pack_into("<I", content, offset, value)
    wrong = [b"", b"R2KBNDL1", b"TFL3" + good[4:], good[: len(good) // 3], *map(bytes, damaged)]
    for content, refusal in zip(wrong, loader(wrong), strict=True):
        assert isinstance(refusal, str) and refusal.startswith(("The bundle is damaged: ", "Not a bundle")), content[
            :60
        ]
