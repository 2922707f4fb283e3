"""The live view: served on loopback, drawn by a thread of its own, never waited for."""

from __future__ import annotations

import time
import urllib.request

import numpy as np
import pytest

pytest.importorskip("viser", reason="viser is not installed")

from refiner.runtime.streaming import RefinedFrame
from refiner.skeleton import H36M17
from refiner.viewer.bones import LEFT, MIDDLE, READABLE, RIGHT, side_colours
from refiner.viewer.live import LiveView, largest_corrections


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
    skeleton, last = view._skeletons["refined"], refined(99).pose_3d
    # y points down in camera axes: the largest one is on the floor.
    np.testing.assert_allclose(skeleton.joints.points[:, 2], last[:, 1].max() - last[:, 1], atol=1e-3)
    assert skeleton.joints.visible and skeleton.lines.points.shape == (16, 2, 3)
    assert len(view._latency_plot.data[1]) == 100 and set(view._latency_plot.data[1]) == {1.5}
    assert view._correction_plot.data[1][-1] == pytest.approx(1000 * 0.01 * np.sqrt(3), rel=1e-3)


def test_nothing_is_shown_before_a_frame_comes():
    view = LiveView(port=0)
    try:
        for skeleton in view._skeletons.values():
            assert not skeleton.lines.visible and not skeleton.joints.visible
        assert len(view._latency_plot.data[1]) == 0
        view._skeletons["refined"].name_joints(True)
        assert not any(label.visible for label in view._skeletons["refined"]._labels)
    finally:
        view.close()
    assert view.drawn == 0


def test_left_and_right_have_two_colours():
    colours = side_colours(range(17))
    assert {colours[joint] for joint in H36M17.left} == {LEFT}
    assert {colours[joint] for joint in H36M17.right} == {RIGHT}
    assert colours.count(MIDDLE) == 5 and len({LEFT, RIGHT, MIDDLE}) == 3


def test_corrections_are_named_by_their_joints():
    frame = refined(3)
    frame.given_3d[13, 1] += np.float32(0.2)
    rows = largest_corrections(frame).splitlines()[2:]
    moved = np.linalg.norm(frame.pose_3d[13] - frame.given_3d[13]) * 1000
    assert H36M17.joint_names[13] == "LWrist" and READABLE[7:9] == ("spine", "thorax")
    assert rows[0] == f"| left wrist | {moved:.0f} |"
