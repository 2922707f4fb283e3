from __future__ import annotations

import pytest
from refiner_bench.cli import main
from refiner_bench.flops_torch import measure_lifter
from refiner_bench.lifter_counts import (
    PUBLISHED_FIGURES,
    PUBLISHED_SIZES,
    LifterSize,
    lifter_macs,
    lifter_parameters,
)
from refiner_bench.lifters import format_lifters, lifters_report
from refiner_bench.measures import measures

from refiner.errors import UsageError

SIZES = [
    LifterSize("stcformer", dim=48, layers=3, mlp_ratio=2, frames=9, heads=3),
    LifterSize("mixste", dim=40, layers=2, mlp_ratio=3, frames=5, heads=4),
    LifterSize("d3dp", dim=32, layers=1, mlp_ratio=2, frames=7, heads=2),
    *PUBLISHED_SIZES.values(),
]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size.architecture}-{size.dim}")
def test_formulas_equal_the_modules(size: LifterSize) -> None:
    assert measure_lifter(size) == {"parameters": lifter_parameters(size), "macs": lifter_macs(size)}


@pytest.mark.parametrize("name", PUBLISHED_FIGURES)
def test_published_figures_are_met(name: str) -> None:
    million, giga = PUBLISHED_FIGURES[name]
    size = PUBLISHED_SIZES[name]
    assert f"{lifter_parameters(size) / 1e6:.2f}" == f"{million:.2f}"
    convolutions = 9 * size.dim * size.layers * size.tokens if size.architecture == "stcformer" else 0
    linear = lifter_macs(size, attention=False) - convolutions
    assert linear / 1e9 == pytest.approx(giga, rel=3e-3)


def test_the_published_parameters_to_the_last() -> None:
    counted = {name: lifter_parameters(size) for name, size in PUBLISHED_SIZES.items()}
    # D3DP: three input channels more and the time MLP.
    denoiser = 33_783_811 + 3 * 512 + (512 * 1024 + 1024) + (1024 * 512 + 512)
    assert counted == {"STCFormer": 4_748_000, "MixSTE": 33_783_811, "D3DP": denoiser}


def test_attention_grows_with_the_window() -> None:
    size = PUBLISHED_SIZES["MixSTE"]
    products = lifter_macs(size) - lifter_macs(size, attention=False)
    assert products == 8 * 2 * (17 + 243) * 512 * 243 * 17


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match="multiple of 16 for 8 heads"):
        LifterSize("stcformer", dim=72, layers=1, mlp_ratio=4, frames=9)
    with pytest.raises(UsageError, match="positive"):
        LifterSize("mixste", dim=64, layers=0, mlp_ratio=2, frames=9)


def test_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    report = lifters_report(with_torch=False)
    assert "not run" in format_lifters(report)
    assert [measure.value for measure in measures(report)][:2] == [4_748_000, lifter_macs(PUBLISHED_SIZES["STCFormer"])]
    assert main(["lifters"]) == 0
    assert "33.78" in capsys.readouterr().out
