"""A live view of a running stream in the browser. Drawing never delays the stream."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.errors import MissingComponentError
from refiner.runtime.streaming.frames import RefinedFrame
from refiner.skeleton import H36M17
from refiner.viewer.bones import AFTER, BEFORE, bone_ends, rgb, upright

DRAWN_PER_S = 25.0
HISTORY = 200
# The positions of the two skeletons in metres: the input on the left, the refined pose on the right.
APART = 0.6
HEIGHT = 0.95


class LiveView:
    """Shows the input and the refined skeleton side by side, with curves of the latency and the correction.

    Open ``url`` in a browser. `show` stores the newest frame and returns at once. A thread of its own draws, at most 25
    times a second; frames that come in between are not drawn.

    Args:
        host: the address of the server; by default only this machine can reach it.
        port: the port of the server.

    Attributes:
        url: the address for the browser.
        shown: how many frames came.
        drawn: how many frames were drawn.
        skipped: how many frames were not drawn.

    Raises:
        MissingComponentError: viser is not installed.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 8080) -> None:
        try:
            import viser
            from viser import uplot
        except ModuleNotFoundError as error:
            raise MissingComponentError("the view needs viser: pip install 'pose-refiner[viewer]'") from error
        self._uplot = uplot
        self._server = viser.ViserServer(host=host, port=port, label="refiner", verbose=False)
        self.url = f"http://{host}:{self._server.get_port()}"
        self._latest: tuple[RefinedFrame, float] | None = None
        self._changed = threading.Condition()
        self._closing = False
        self.shown = self.drawn = self.skipped = 0
        self._latency: deque[float] = deque([0.0] * HISTORY, HISTORY)
        self._correction: deque[float] = deque([0.0] * HISTORY, HISTORY)
        self._scene()
        self._thread = threading.Thread(target=self._draw_forever, name="refiner-view", daemon=True)
        self._thread.start()

    def show(self, frame: RefinedFrame, latency_ms: float) -> None:
        """Show a refined frame; ``latency_ms`` is the time that its refinement took."""
        with self._changed:
            self.skipped += self._latest is not None
            self._latest = (frame, latency_ms)
            self.shown += 1
            # The curves hold every frame, drawn or not.
            self._latency.append(latency_ms)
            moved = np.linalg.norm(frame.pose_3d - frame.given_3d, axis=-1)
            self._correction.append(1000.0 * float(moved.mean()))
            self._changed.notify()

    def close(self) -> None:
        """Draw the last frame and stop the server."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._server.stop()

    def _scene(self) -> None:
        scene, gui = self._server.scene, self._server.gui
        scene.set_up_direction("+z")
        scene.add_grid("/floor", width=4.0, height=4.0, plane="xy", cell_size=0.25)
        self._server.initial_camera.position = (0.2, -2.7, 1.25)
        self._server.initial_camera.look_at = (0.2, 0.0, HEIGHT)
        self._skeletons: dict[str, tuple[Any, Any]] = {}
        nothing = np.zeros((17, 3), np.float32)
        for name, colour, x in (("input", BEFORE, -APART), ("refined", AFTER, APART)):
            lines = scene.add_line_segments(
                f"/{name}/bones", bone_ends(nothing), rgb(colour), thickness=0.02, position=(x, 0.0, HEIGHT)
            )
            joints = scene.add_point_cloud(
                f"/{name}/joints",
                nothing,
                np.tile(np.array([rgb(colour)], np.uint8), (17, 1)),
                point_size=0.035,
                point_shape="circle",
                precision="float32",
                position=(x, 0.0, HEIGHT),
            )
            scene.add_label(f"/{name}/name", name, position=(x, 0.0, HEIGHT + 0.95))
            self._skeletons[name] = (lines, joints)
        self._status = gui.add_markdown("waiting for a frame")
        frames = np.arange(-HISTORY, 0, dtype=np.float64)
        self._latency_plot = self._plot("latency, ms", frames, AFTER)
        self._correction_plot = self._plot("mean correction, mm", frames, BEFORE)
        joint_numbers = np.arange(17, dtype=np.float64)
        self._joint_plot = self._plot("correction by joint, mm", joint_numbers, AFTER, bars=True)
        gui.add_markdown("joints: " + ", ".join(f"{index} {name}" for index, name in enumerate(H36M17.joint_names)))

    def _plot(self, title: str, x: NDArray[np.float64], colour: str, bars: bool = False) -> Any:
        uplot = self._uplot
        series = uplot.Series(label=title, stroke=colour, width=0 if bars else 2, points=uplot.Series_Points(show=bars))
        return self._server.gui.add_uplot(
            data=(x, np.zeros_like(x)),
            series=(uplot.Series(label="frame" if not bars else "joint"), series),
            title=title,
            scales={"x": uplot.Scale(time=False)},
            aspect=2.2,
        )

    def _draw_forever(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._latest is not None or self._closing)
                if self._latest is None:
                    return
                (frame, latency_ms), self._latest = self._latest, None
                latency, correction = np.array(self._latency), np.array(self._correction)
            self._draw(frame, latency_ms, latency, correction)
            self.drawn += 1
            time.sleep(1.0 / DRAWN_PER_S)

    def _draw(
        self,
        frame: RefinedFrame,
        latency_ms: float,
        latency: NDArray[np.float64],
        correction: NDArray[np.float64],
    ) -> None:
        with self._server.atomic():
            for name, pose in (("input", frame.given_3d), ("refined", frame.pose_3d)):
                lines, joints = self._skeletons[name]
                standing = upright(pose)
                lines.points, joints.points = bone_ends(standing), standing
            self._status.content = (
                f"person {frame.person_id}, {frame.timestamp:.2f} s: **{frame.status}**, {latency_ms:.1f} ms, "
                f"{int(frame.infilled.sum())} joints guessed, spread {1000 * float(frame.std[1:].mean()):.0f} mm"
            )
            frames = np.arange(-HISTORY, 0, dtype=np.float64)
            self._latency_plot.data = (frames, latency)
            self._correction_plot.data = (frames, correction)
            moved = 1000.0 * np.linalg.norm(frame.pose_3d - frame.given_3d, axis=-1).astype(np.float64)
            self._joint_plot.data = (np.arange(17, dtype=np.float64), moved)
