"""The benchmark of Huffman codes: one row on a small net, and the table."""

from benchmarks import tflm_huffman


def test_both_forms_are_measured(microcontrollers):
    row = tflm_huffman.measure("digits", "4 bits, min-max", None)
    assert 0 < row["size_flash"] <= row["memory_flash"]
    assert row["pruned"] > 0
    assert row["size_ms"] > 0
    assert row["integers_memory_arena"] < row["memory_arena"]
    assert 0 < row["integers_size_flash"] <= row["integers_memory_flash"]


def test_table():
    row = {"net": "resnet8", "grid": "2 bits", "memory_flash": 2000, "size_flash": 1500}
    row |= {"memory_arena": 100, "size_arena": 120, "memory_ms": 1.0, "size_ms": 2.0}
    row |= {"integers_memory_flash": 1600, "integers_memory_arena": 50, "integers_memory_ms": 2.0}
    row |= {"integers_size_flash": 1200, "integers_size_arena": 60, "integers_size_ms": 2.5}
    line = "| ResNet-8, CIFAR-10 | 2 bits | 2,000 | 1,500 | 100 | 120 | 2.00 | 1,600 | 1,200 | 50 | 60 | 1.25 |"
    assert tflm_huffman.table([row]).splitlines()[-1] == line
