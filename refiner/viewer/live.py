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
from refiner.viewer.bones import AFTER, BEFORE, BONES, READABLE, bone_ends, rgb, side_colours, standing

DRAWN_PER_S = 25.0
HISTORY = 200
# The positions of the two skeletons in metres: the input on the left, the refined pose on the right.
APART = 0.6
# The height at which the view looks, about that of the hips.
HEIGHT = 0.95
LARGEST_CORRECTIONS = 6


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
        # Empty until frames come: a curve never shows a value that was not measured.
        self._latency: deque[float] = deque(maxlen=HISTORY)
        self._correction: deque[float] = deque(maxlen=HISTORY)
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
        self._skeletons: dict[str, _Skeleton] = {}
        for name, x in (("input", -APART), ("refined", APART)):
            self._skeletons[name] = _Skeleton(scene, name, x)
        gui.add_markdown("blue: the person's left; orange: right")
        names = gui.add_checkbox("joint names", initial_value=False)
        names.on_update(lambda _: self._skeletons["refined"].name_joints(names.value))
        self._status = gui.add_markdown("waiting for a frame")
        self._latency_plot = self._plot("latency, ms", AFTER)
        self._correction_plot = self._plot("mean correction, mm", BEFORE)
        self._largest = gui.add_markdown("")

    def _plot(self, title: str, colour: str) -> Any:
        uplot = self._uplot
        return self._server.gui.add_uplot(
            data=(np.zeros(0), np.zeros(0)),
            series=(uplot.Series(label="frame"), uplot.Series(label=title, stroke=colour, width=2)),
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
                self._skeletons[name].move(standing(pose))
            reasons = f" ({', '.join(frame.reasons)})" if frame.reasons else ""
            self._status.content = (
                f"person {frame.person_id}, {frame.timestamp:.2f} s: **{frame.status}**{reasons}, {latency_ms:.1f} ms, "
                f"{int(frame.infilled.sum())} joints guessed, spread {1000 * float(frame.std[1:].mean()):.0f} mm"
            )
            frames = np.arange(-len(latency), 0, dtype=np.float64)
            self._latency_plot.data = (frames, latency)
            self._correction_plot.data = (frames, correction)
            self._largest.content = largest_corrections(frame)


class _Skeleton:
    """Bones, joints and the joints' names of one skeleton. They appear with the first pose."""

    def __init__(self, scene: Any, name: str, x: float) -> None:
        nothing = np.zeros((17, 3), np.float32)
        place = (x, 0.0, 0.0)
        # A bone has the colour of the joint at its end.
        bones = np.array([rgb(colour) for colour in side_colours(BONES[:, 1])], np.uint8)
        self.lines = scene.add_line_segments(
            f"/{name}/bones",
            bone_ends(nothing),
            np.repeat(bones[:, None], 2, axis=1),
            thickness=0.02,
            position=place,
            visible=False,
        )
        self.joints = scene.add_point_cloud(
            f"/{name}/joints",
            nothing,
            np.array([rgb(colour) for colour in side_colours(range(17))], np.uint8),
            point_size=0.035,
            point_shape="circle",
            precision="float32",
            position=place,
            visible=False,
        )
        scene.add_label(f"/{name}/name", name, position=(x, 0.0, 2 * HEIGHT))
        self._labels = [
            scene.add_label(f"/{name}/joint{index}", joint, position=place, visible=False)
            for index, joint in enumerate(READABLE)
        ]
        self._x, self._moved, self._named = x, False, False

    def move(self, pose: NDArray[np.float32]) -> None:
        """Show ``(17, 3)``: metres, z up, the floor at 0."""
        self.lines.points, self.joints.points = bone_ends(pose), pose
        self.lines.visible = self.joints.visible = True
        for label, place in zip(self._labels, pose, strict=True):
            label.position = (self._x + float(place[0]), float(place[1]), float(place[2]))
        self._moved = True
        self.name_joints(self._named)

    def name_joints(self, named: bool) -> None:
        """Show the names of the joints or hide them."""
        self._named = named
        for label in self._labels:
            label.visible = named and self._moved


def largest_corrections(frame: RefinedFrame) -> str:
    """The joints that the refinement moved most, as a Markdown table of names and millimetres."""
    moved = 1000.0 * np.linalg.norm(frame.pose_3d - frame.given_3d, axis=-1).astype(np.float64)
    largest = np.argsort(-moved)[:LARGEST_CORRECTIONS]
    rows = [f"| {READABLE[joint]} | {moved[joint]:.0f} |" for joint in largest]
    return "\n".join(["| largest corrections | mm |", "| :-- | --: |", *rows])
