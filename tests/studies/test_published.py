"""The comparison with the authors' modules: their import, what counts as agreement, and the committed report."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from refiner_bench.published import findings, format_published, kind_of, summary_table  # noqa: E402

from refiner.errors import ArchiveError, MissingComponentError  # noqa: E402
from refiner.reports import PUBLISHED, read_report  # noqa: E402
from studies.published.__main__ import main  # noqa: E402
from studies.published.checkouts import checkout, without_cuda  # noqa: E402
from studies.published.comparison import Comparison, compare, random_weights  # noqa: E402
from studies.published.measures import compare_joints, compare_metrics, compare_mixste_loss  # noqa: E402
from studies.published.report import build_report, unexpected  # noqa: E402

REPORT = Path(__file__).parents[2] / "bench" / "reports" / "published.json"
# A repository with the metrics that the comparison asks for, written from their definitions.
LOSS = """
from matplotlib.pyplot import bone
from timm.models.layers import DropPath
import numpy as np
import torch

SCALE = {scale}


def mpjpe(predicted, target):
    return SCALE * torch.linalg.vector_norm(predicted - target, dim=-1).mean()


def weighted_mpjpe(predicted, target, w):
    return (w * torch.linalg.vector_norm(predicted - target, dim=-1)).mean()


def n_mpjpe(predicted, target):
    factor = (predicted * target).sum((-1, -2), keepdim=True) / predicted.square().sum((-1, -2), keepdim=True)
    return mpjpe(factor * predicted, target) / SCALE


def mean_velocity_error(predicted, target):
    return np.linalg.norm(np.diff(predicted - target, axis=0), axis=-1).mean()


def mean_velocity_error_train(predicted, target, axis=0):
    return torch.linalg.vector_norm((predicted - target).diff(dim=axis), dim=-1).mean()


def p_mpjpe(predicted, target):
    errors = []
    for pose, truth in zip(predicted, target):
        pose, truth = pose - pose.mean(0), truth - truth.mean(0)
        u, s, vt = np.linalg.svd(truth.T @ pose / np.linalg.norm(pose))
        sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
        turn, scale = u @ sign @ vt, (s * np.diag(sign)).sum() / np.linalg.norm(pose)
        errors.append(np.linalg.norm(scale * pose @ turn.T - truth, axis=-1).mean())
    return np.mean(errors)
"""


@pytest.fixture
def repository(tmp_path):
    """``repository(scale)``: the folder of a made-up checkout, whose MPJPE is off by a factor."""

    def write(scale=1.0):
        (tmp_path / "common").mkdir(exist_ok=True)
        (tmp_path / "common" / "__init__.py").touch()
        (tmp_path / "common" / "loss.py").write_text(LOSS.format(scale=scale))
        return str(tmp_path)

    return write


def test_metrics_that_agree_and_metrics_that_do_not(repository):
    found = list(compare_metrics("Somebody", repository(), "common.loss"))
    assert all(comparison.expected for comparison in found)
    assert [c.name for c in found if c.finding] == ["P-MPJPE of coincident joints"]
    assert len(found) == 11
    assert all(comparison.expected for comparison in compare_mixste_loss(repository()))
    assert all(comparison.expected for comparison in compare_joints())
    wrong = [c.name for c in compare_metrics("Somebody", repository(1.001), "common.loss") if not c.expected]
    assert wrong == ["MPJPE, errors of 0.03 m", "MPJPE, errors of 0.5 m"]


def test_the_command_ends_with_an_error_where_ours_is_another(repository, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("studies.published.networks.MIXSTES", ())
    report, page = tmp_path / "r.json", tmp_path / "r.md"
    command = ["--mixste", repository(), "--json", str(report), "--markdown", str(page)]
    assert main(command) == 0
    rows = read_report(report, (PUBLISHED,))["rows"]
    assert len(rows) == 14 and not unexpected(read_report(report))
    assert page.read_text() == format_published(read_report(report)) == capsys.readouterr().out
    (tmp_path / "common" / "loss.py").write_text(LOSS.format(scale=2.0))
    assert main(command) != 0
    assert "MixSTE, MPJPE, errors of 0.03 m" in capsys.readouterr().err
    assert main(["--mixste", str(tmp_path / "nothing")]) == 5
    assert "there is no checkout" in capsys.readouterr().err


def test_a_checkout_leaves_nothing_behind(repository):
    import types

    before, path = types.ModuleType("common"), list(sys.path)
    sys.modules["common"] = before
    try:
        with checkout(repository()) as load:
            module = load("common.loss")
            assert sys.modules["common.loss"] is module and "timm.models.layers" in sys.modules
            with pytest.raises(MissingComponentError, match=r"needs common\.nothing"):
                load("common.nothing")
        assert sys.modules["common"] is before and "common.loss" not in sys.modules
    finally:
        del sys.modules["common"]
    assert "timm.models.layers" not in sys.modules and sys.path == path
    with pytest.raises(ArchiveError, match="no checkout"), checkout(repository() + "/none"):
        pass


def test_code_for_cuda_draws_the_given_noise():
    noises = [torch.full((2, 3), 0.5), torch.full((2, 3), 0.25)]
    before = torch.randn, torch.randn_like, torch.full, torch.Tensor.cuda
    with without_cuda(noises):
        assert torch.equal(torch.randn((2, 3), device="cuda"), noises[0])
        assert torch.equal(torch.randn_like(noises[0]), noises[1])
        assert torch.full((2,), 7, device="cuda").cuda().tolist() == [7, 7]
    assert (torch.randn, torch.randn_like, torch.full, torch.Tensor.cuda) == before


def test_what_agrees():
    value = np.array([1.0, -2.0])
    assert compare("a", "b", value, value + 1e-6).agrees and not compare("a", "b", value, value + 3e-6).agrees
    assert not compare("a", "b", value, np.array([1.0, np.nan])).agrees
    assert not compare("a", "b", np.array([np.nan]), np.array([np.nan])).agrees
    assert compare("a", "b", np.zeros(3), np.zeros(3)).agrees
    assert Comparison("a", "b", 1.0, 0.5, False, "why").expected and not Comparison("a", "b", 1.0, 0.5, False).expected
    with pytest.raises(ValueError, match="has shape"):
        compare("a", "b", value, value[:1])
    layer = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    state = random_weights(layer, 3)
    assert all(torch.equal(state[name], random_weights(layer, 3)[name]) for name in state)
    assert 0.5 < float(state["1.weight"].mean()) < 1.5 and abs(float(state["0.bias"].mean())) < 0.5


def test_the_report_is_told_by_repository_and_kind():
    rows = [
        Comparison("A", "width 2: poses", 2.0, 1e-15, True),
        Comparison("A", "width 4: poses", 2.0, 4e-9, True),
        Comparison("B", "P-MPJPE of coincident joints", float("nan"), float("nan"), False, "why"),
        Comparison("A", "h36m17: sampling, 2 steps, 3 hypotheses, mirrored", 1.0, 0.0, True),
    ]
    report = build_report(rows, {"x/y": "abc"}, 3)
    assert unexpected(report) == [] and findings(report) == {"why": "B"}
    table = summary_table(report)
    assert "2 of 2" in table and "2.0e-09" in table and "sampling, mirrored" in table and "0 of 1" in table
    page = format_published(report)
    assert "4 comparisons" in page and "3 agree" in page and "- why: B." in page and "commit abc" in page
    assert kind_of("window of 27 frames at a stride of 3, frame 150: 2D") == "windows with a stride"


@pytest.mark.skipif(not REPORT.exists(), reason="the report is not written yet")
def test_the_committed_report_holds_what_it_should():
    report = read_report(REPORT, (PUBLISHED,))
    assert unexpected(report) == []
    assert {row["group"] for row in report["rows"]} == {"STCFormer", "MixSTE", "D3DP", "FinePOSE"}
    assert sum(row["agrees"] for row in report["rows"]) > 100
    assert REPORT.with_suffix(".md").read_text() == format_published(report)
    assert set(report["commits"]) == {
        "zhenhuat/STCFormer",
        "JinluZhang1126/MixSTE",
        "paTRICK-swk/D3DP",
        "PKU-ICST-MIPL/FinePOSE_CVPR2024",
    }
