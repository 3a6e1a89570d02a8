"""The table of the reconstruction benchmark, from rows made by hand."""

from __future__ import annotations

from benchmarks import reconstruction


def row(seed: int, better: int) -> dict:
    counts = {"float": 900, "adaround": 800, "reconstruct": better, "samples": 1000}
    return {"job": "resnet8 2", "seed": seed, "processor_seconds": [10.0, 15.0], **counts}


def test_the_table_has_means_and_spreads():
    lines = reconstruction.table([row(0, 850), row(1, 870)]).splitlines()
    cells = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    assert cells == ["ResNet-8, CIFAR-10, W2A8", "90.0", "80.0 ± 0.0", "86.0 ± 1.4", "4.0", "3", "1.5 ± 0.0", "2"]
    # Nets without rows are left out.
    assert len(lines) == 3


def test_every_net_is_one_of_the_models():
    nets = {net for net, *_ in reconstruction.JOBS.values()}
    assert nets - {reconstruction.front_models.SMOKE} <= set(reconstruction.front_models.MODELS)
