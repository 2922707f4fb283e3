from __future__ import annotations

import itertools

import pytest
from refiner_bench.counts import (
    PAPER_TABLE_IV,
    DenoiserSize,
    paper_token_flops,
    parameters,
    time_path_flops,
    window_flops,
)
from refiner_bench.flops_torch import build_denoiser, counted_operations, measure_denoiser

from refiner.errors import UsageError
from refiner.models.fused import attention_backend, set_attention_backend

SIZES = [
    DenoiserSize(depth=2, dim=32, heads=2, mlp_ratio=3, frames=5),
    DenoiserSize(depth=4, dim=48, heads=8, mlp_ratio=8, frames=9),
    DenoiserSize(depth=6, dim=64, heads=4, mlp_ratio=4, frames=27),
]


@pytest.mark.parametrize("depth", PAPER_TABLE_IV)
def test_paper_reading_gives_table_iv(depth: int) -> None:
    million = paper_token_flops(DenoiserSize(depth=depth)) / 1e6
    assert f"{million:.1f}" == f"{PAPER_TABLE_IV[depth][0]:.1f}"


@pytest.mark.parametrize(("depth", "expected"), [(4, 7.19), (6, 10.52), (8, 13.85), (10, 17.18)])
def test_paper_reading_to_two_digits(depth: int, expected: float) -> None:
    assert round(paper_token_flops(DenoiserSize(depth=depth)) / 1e6, 2) == expected


@pytest.mark.parametrize(("frames", "giga_macs"), [(27, 2.94), (81, 8.97), (243, 28.3)])
def test_window_cost_at_depth_8(frames: int, giga_macs: float) -> None:
    macs = window_flops(DenoiserSize(frames=frames)) / 2e9
    assert macs == pytest.approx(giga_macs, rel=2e-3)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_formulas_equal_the_module(size: DenoiserSize) -> None:
    measured = measure_denoiser(size)
    assert measured == {
        "parameters": parameters(size),
        "window_with_time_path": window_flops(size) + time_path_flops(size),
        "window_without_time_path": window_flops(size),
    }


def test_default_size_equals_the_module() -> None:
    size = DenoiserSize()
    assert sum(parameter.numel() for parameter in build_denoiser(size).parameters()) == parameters(size)
    assert measure_denoiser(size)["window_without_time_path"] == window_flops(size)


def test_measuring_leaves_the_attention_backend_alone() -> None:
    before = attention_backend()
    set_attention_backend("auto")
    try:
        measure_denoiser(SIZES[0])
        assert attention_backend() == "auto"
    finally:
        set_attention_backend(before)


def test_counter_sees_every_kind_of_operation() -> None:
    names = {operation.split(".")[-1] for operation in counted_operations()}
    assert names == {"addmm", "bmm", "convolution", "mm"}


def test_cost_grows_with_every_size() -> None:
    base = DenoiserSize(depth=4, dim=64, mlp_ratio=4, frames=9)
    larger = [
        DenoiserSize(depth=6, dim=64, mlp_ratio=4, frames=9),
        DenoiserSize(depth=4, dim=80, mlp_ratio=4, frames=9),
        DenoiserSize(depth=4, dim=64, mlp_ratio=5, frames=9),
        DenoiserSize(depth=4, dim=64, mlp_ratio=4, frames=10),
    ]
    for size, count in itertools.product(larger, (window_flops, paper_token_flops)):
        assert count(size) > count(base)


@pytest.mark.parametrize("sizes", [{"depth": 7}, {"depth": 0}, {"dim": 100}, {"frames": 0}, {"mlp_ratio": -1}])
def test_impossible_sizes_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=str(next(iter(sizes.values())))):
        DenoiserSize(**sizes)
