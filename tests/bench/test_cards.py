"""Model cards: costs are those of the formulas, scores those of the report's rows."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("torch")

import refiner_bench.cards as cards
from refiner_bench.cards import cards_report, format_cards, window_flops
from refiner_bench.counts import DenoiserSize
from refiner_bench.counts import window_flops as denoiser_flops
from refiner_bench.lifter_counts import LifterSize, lifter_macs, lifter_parameters
from refiner_bench.measures import measures
from refiner_bench.untrained import untrained

from refiner.training.config import CONFIG_FOLDER


def size_of(name, architecture):
    config = untrained(name).config
    model = config["model"]
    return LifterSize(architecture, model["dim"], model["blocks"], model["mlp_ratio"], config["frames"], model["heads"])


@pytest.mark.parametrize(
    ("name", "architecture"), [("lifter-small", "stcformer"), ("mixste-small", "mixste"), ("lifter-paper", "stcformer")]
)
def test_a_lifter_costs_what_the_formula_says(name, architecture):
    assert window_flops(untrained(name)) == (2 * lifter_macs(size_of(name, architecture)), 1)


def test_a_diffusion_lifter_costs_its_steps_hypotheses_and_both_passes():
    checkpoint = untrained("d3dp-small")
    sampling = checkpoint.config["sampling"]
    flops, passes = window_flops(checkpoint)
    assert passes == 2 * sampling["steps"] * sampling["hypotheses"] and sampling["flip"]
    size = size_of("d3dp-small", "d3dp")
    time_path = 4 * size.dim**2  # of given steps a constant
    assert flops == passes * 2 * (lifter_macs(size) - time_path)
    once = dataclasses.replace(checkpoint, config=checkpoint.config | {"sampling": sampling | {"flip": False}})
    assert window_flops(once) == (flops // 2, passes // 2)


def test_a_refiner_costs_its_steps():
    flops, passes = window_flops(untrained("refiner-small"))
    size = DenoiserSize(depth=4, dim=64, heads=8, mlp_ratio=8, frames=27)
    assert passes == 2 and flops == 2 * denoiser_flops(size)


def test_what_the_text_side_adds_is_counted():
    assert window_flops(untrained("finepose-small"))[0] > window_flops(untrained("d3dp-small"))[0]


def row(name, config="", checkpoint="", kind="lifter"):
    metrics = {metric: {"frame_mean": value} for metric, value in (("mpjpe", 51.25), ("p_mpjpe", 40.5))}
    gain = {"mpjpe": {"percent": 2.0, "low": 1.5, "high": 2.5}}
    return {
        "name": name,
        "title": name.upper(),
        "group": "T = 27",
        "kind": kind,
        "config": config,
        "checkpoint": checkpoint,
        "test": {"metrics": metrics, "gains": {} if kind == "lifter" else {"lifter": gain}},
    }


def test_a_card_shows_what_reports_say_of_it(monkeypatch, tmp_path):
    for name in ("mixste-small", "refiner-small"):
        (tmp_path / f"{name}.toml").write_text((CONFIG_FOLDER / f"{name}.toml").read_text())
    monkeypatch.setattr(cards, "CONFIG_FOLDER", tmp_path)
    rows = [
        row("stcformer", "lifter-small", checkpoint="lifter"),
        row("mixste", "mixste-small"),
        row("mixste-refined", "refiner-small", kind="refiner"),
        row("elsewhere", "refiner-small", kind="score"),
    ]
    report = cards_report([("lifters.json", {"rows": rows})], threads=1, rounds=1, most_flops=1e8)
    by_name = {entry["name"]: entry for entry in report["rows"]}
    assert [score["row"] for score in by_name["lifter"]["scores"]] == ["stcformer"]
    assert [score["row"] for score in by_name["mixste-small"]["scores"]] == ["mixste"]
    assert [score["row"] for score in by_name["refiner-small"]["scores"]] == ["mixste-refined"]
    assert by_name["mixste-small"]["parameters"] == lifter_parameters(size_of("mixste-small", "mixste"))
    assert by_name["refiner-small"]["median_ms"] is None  # 0.4 GFLOP: more than is to be timed
    assert {"S6", "S94"} <= set(by_name["refiner"]["training"]["people"])
    text = format_cards(report)
    assert "2.0 (1.5 to 2.5)" in text and "51.2" in text and "mocap.cs.cmu.edu" in text
    assert {"cards: mixste-small, parameters", "cards: refiner, bundled, a window"} <= {
        entry.name for entry in measures(report)
    }


@pytest.mark.parametrize("name", sorted(file.stem for file in CONFIG_FOLDER.glob("*.toml")))
def test_every_configuration_has_a_network_that_has_a_name(name):
    config = untrained(name).config
    assert cards.NETWORKS[config["kind"]][config["model"]["architecture"]]
