"""The live view: served on loopback, drawn by a thread of its own, never waited for."""

from __future__ import annotations

import time
import urllib.request

import numpy as np
import pytest

pytest.importorskip("viser", reason="viser is not installed")

from refiner.runtime.streaming import RefinedFrame
from refiner.viewer.live import LiveView


def refined(seed):
    rng = np.random.default_rng(seed)
    pose = rng.normal(0, 0.4, (17, 3)).astype(np.float32)
    spread = np.full(17, 0.02, np.float32)
    return RefinedFrame(seed / 50, 0, pose, spread, np.zeros(17, bool), "ok", pose + np.float32(0.01))


def test_the_newest_frame_is_drawn_and_no_other_is_waited_for():
    view = LiveView(port=0)
    try:
        assert view.url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(view.url, timeout=30) as page:
            assert b"<html" in page.read().lower()
        for seed in range(100):
            view.show(refined(seed), 1.5)
        deadline = time.monotonic() + 30
        while view._latest is not None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        view.close()
    assert view.shown == 100 and 1 <= view.drawn <= 100 and view.drawn + view.skipped == 100
    lines, joints = view._skeletons["refined"]
    np.testing.assert_allclose(
        joints.points[10, 2], -(refined(99).pose_3d[10, 1] - refined(99).pose_3d[0, 1]), atol=1e-3
    )
    assert lines.points.shape == (16, 2, 3) and view._latency_plot.data[1][-1] == 1.5
    assert view._correction_plot.data[1][-1] == pytest.approx(1000 * 0.01 * np.sqrt(3), rel=1e-3)
