"""The loader of `docs/deploy/bundle_layout.md` in pure Python, line by line as a port to Kotlin or C++ would be."""

import struct

MAGIC = b"R2KBNDL1"


def load(bundle: bytes) -> bytes:
    """Returns the float `.tflite` of a bundle."""
    magic, count, skeleton, size, expanded = struct.unpack_from("<8s4I", bundle)
    if magic != MAGIC:
        raise ValueError("not a bundle")
    out = bytearray(expanded)
    out[:size] = bundle[skeleton : skeleton + size]
    for row in range(count):
        decode(bundle, struct.unpack_from("<20I", bundle, 24 + 80 * row), out)
    return bytes(out)


def decode(bundle: bytes, record: tuple[int, ...], out: bytearray) -> None:
    """Writes the floats of one weight."""
    target, before, last, after, dim, bits, codes, table = record[:8]
    first, scale, add, multiply = record[8:11], record[11:14], record[14:17], record[17:20]
    vectors = -(-last // dim)
    for i in range(before * last * after):
        row, column = i // (last * after), i // after % last
        place = (row * vectors + column // dim) * after + i % after
        entry = code(bundle, codes, bits, place) + pick(bundle, "<i", first, i)
        value = number(bundle, "<f", table + 4 * (entry * dim + column % dim))
        if scale[2]:
            value = float32(value * pick(bundle, "<f", scale, i))
        if add[2]:
            value = float32(value + pick(bundle, "<f", add, i))
        if multiply[2]:
            value = float32(value * pick(bundle, "<f", multiply, i))
        struct.pack_into("<f", out, target + 4 * i, value)


def code(bundle: bytes, codes: int, bits: int, index: int) -> int:
    """Returns one signed code; the first of a byte is in its lowest bits."""
    per_byte = 8 // bits
    found = bundle[codes + index // per_byte] >> (index % per_byte * bits) & (2**bits - 1)
    return found - 2**bits if found >= 2 ** (bits - 1) else found


def pick(bundle: bytes, kind: str, pattern: tuple[int, ...], i: int):
    """Returns the number of a pattern for value `i`."""
    offset, inner, count = pattern
    return number(bundle, kind, offset + 4 * (i // inner % count))


def number(bundle: bytes, kind: str, offset: int):
    """Returns one number."""
    return struct.unpack_from(kind, bundle, offset)[0]


def float32(value: float) -> float:
    """Rounds as 32-bit arithmetic does: a product or a sum of two such floats, rounded twice, is rounded right."""
    return struct.unpack("<f", struct.pack("<f", value))[0]
