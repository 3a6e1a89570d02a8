"""The benchmark of palette files: its nets have the documented sizes, and its table shows the rows."""

from benchmarks import palette_files


def test_nets_have_the_sizes_that_the_text_names():
    sizes = [make().count_params() for make in (palette_files.conv_net, palette_files.dense_net)]
    assert [f"{size:,}" in palette_files.__doc__ for size in sizes] == [True, True]


def test_table():
    rows = [
        {"net": "conv", "form": form, "xnnpack": xnnpack, "bytes": 40288, "gzip": 37613, "ms": 0.5 + xnnpack}
        | {"peak_kib": 4932 if xnnpack else None, "difference": 2e-7}
        for form in palette_files.ORDER
        for xnnpack in (True, False)
    ]
    lines = palette_files.table(rows, "conv").splitlines()
    assert lines[-1] == "| expanded | 40,288 | 37,613 | 1.500 | 0.500 | 4,932 | - | 2e-07 |"
    assert len(lines) == 2 + len(palette_files.ORDER)
