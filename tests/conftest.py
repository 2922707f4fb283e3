"""What the tests share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def motion_folder() -> Path:
    """The motion archive that REFINER_DATA names; skips by name without one."""
    folder = os.environ.get("REFINER_DATA")
    if not folder:
        pytest.skip("REFINER_DATA is not set: it names a folder with data_3d_*.npz and clips.json")
    return Path(folder)


@pytest.fixture(scope="session")
def export_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder (XDG_CACHE_HOME) for tests that export the same bundled model: the first one builds it."""
    return tmp_path_factory.mktemp("export-cache")


@pytest.fixture
def webcam(monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Stand-ins for cv2 and rtmlib: camera 0 shows a walking person for 12 frames. Returns its image size."""
    import importlib.machinery
    import types

    import numpy as np

    from refiner.camera import human36m_cameras
    from refiner.data.synthetic import synthetic_motion

    view = human36m_cameras()[0]
    seen = view.project(view.to_camera(synthetic_motion(7, "Walking", 12)))
    # Halpe's 26 joints of Human3.6M's 17; what these lack (face, feet) lies on the nearest joint.
    halpe = [9, 9, 9, 9, 9, 11, 14, 12, 15, 13, 16, 4, 1, 5, 2, 6, 3, 10, 8, 0, 6, 3, 6, 3, 6, 3]
    width, height = view.image_size

    class VideoCapture:
        def __init__(self, number: int) -> None:
            self.frame, self.number = -1, number

        def isOpened(self) -> bool:
            return self.number == 0

        def get(self, what: int) -> float:
            return float((width, height)[what])

        def grab(self) -> bool:
            self.frame += 1
            return self.frame < len(seen)

        def retrieve(self) -> tuple[bool, np.ndarray]:
            return True, np.full((height, width, 3), self.frame, np.uint8)

        def read(self) -> tuple[bool, np.ndarray | None]:
            return self.retrieve() if self.grab() else (False, None)

        def release(self) -> None:
            self.frame = len(seen)

    class BodyWithFeet:
        def __init__(self, mode: str = "balanced", backend: str = "onnxruntime", device: str = "cpu") -> None:
            pass

        def det_model(self, image: np.ndarray) -> np.ndarray:
            return np.array([[0, 0, width, height]])

        def pose_model(self, image: np.ndarray, bboxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return seen[int(image[0, 0, 0])][None, halpe], np.full((1, 26), 0.9)

        def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return self.pose_model(image, self.det_model(image))

    cv2, rtmlib = types.ModuleType("cv2"), types.ModuleType("rtmlib")
    logging = types.SimpleNamespace(LOG_LEVEL_SILENT=0, setLogLevel=lambda level: 0)
    vars(cv2).update(
        VideoCapture=VideoCapture,
        CAP_PROP_FRAME_WIDTH=0,
        CAP_PROP_FRAME_HEIGHT=1,
        utils=types.SimpleNamespace(logging=logging),
    )
    vars(rtmlib).update(BodyWithFeet=BodyWithFeet)
    rtmlib.__spec__ = importlib.machinery.ModuleSpec("rtmlib", None)
    monkeypatch.setitem(sys.modules, "cv2", cv2)
    monkeypatch.setitem(sys.modules, "rtmlib", rtmlib)
    return width, height
