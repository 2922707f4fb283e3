"""Detectors: the table, the two adapters on modules of the real ones' interface, and detectors of the caller's own."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest
from coded_video import SIZE, CodedDetector, picture

from refiner.errors import InputError, MissingComponentError, UsageError, VideoError
from refiner.formats import Person
from refiner.skeleton import COCO17, HALPE26, MEDIAPIPE33
from refiner.video import Detector, VideoFrame, detect_people, open_detector
from refiner.video.detector import detected

IMAGE = picture(3)


@pytest.fixture
def modules(monkeypatch):
    """Puts a module in the place of a package, and takes the adapters out so that they are imported anew."""

    def put(name, **content):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)

    for name in ("mediapipe", "rtmlib"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, f"refiner.video.{name}_detector", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: getattr(sys.modules.get(name), "__spec__", None))
    return put


def rtmlib(boxes, fail=None):
    """The interface of rtmlib 0.0.16: `BodyWithFeet` holds a YOLOX and an RTMPose, and prints what it loads."""

    class BodyWithFeet:
        def __init__(self, det=None, det_input_size=(640, 640), pose=None, pose_input_size=(192, 256), mode="balanced",
                     to_openpose=False, backend="onnxruntime", device="cpu"):  # fmt: skip
            if fail is not None:
                raise fail
            print("load ~/.cache/rtmlib/model.onnx with onnxruntime backend")  # noqa: T201
            self.det_model, self.pose_model = self._boxes, self._poses

        @staticmethod
        def _boxes(image):
            assert image.shape == (*SIZE[::-1], 3) and image.flags.c_contiguous
            # Blue, green, red.
            assert tuple(image[0, 0]) == tuple(IMAGE[0, 0][::-1])
            return np.array(boxes).reshape(-1, 4)

        @staticmethod
        def _poses(image, bboxes=()):
            # Without a box it takes the whole image.
            bboxes = np.array([[0, 0, *image.shape[1::-1]]]) if len(bboxes) == 0 else bboxes
            middle = (bboxes[:, :2] + bboxes[:, 2:])[:, None] / 2
            return np.tile(middle, (1, 26, 1)), np.full((len(bboxes), 26), 1.2)

    return {"BodyWithFeet": BodyWithFeet}


def test_rtmlib_gives_everybody_in_a_box(modules, capsys):
    modules("rtmlib", **rtmlib([[0, 0, 100, 200], [100, 0, 200, 200]]))
    detector = open_detector("rtmlib")
    assert isinstance(detector, Detector) and detector.joints is HALPE26
    people = detected(detector, IMAGE, "frame 0")
    np.testing.assert_allclose([one.keypoints[0] for one in people], [[50, 100], [150, 100]])
    # Scores of RTMPose are heights of a response, and may lie above 1.
    assert all((one.confidence == 1).all() for one in people)
    told = capsys.readouterr()
    assert told.out == "" and "load" in told.err


def test_rtmlib_invents_nobody_in_an_empty_image(modules):
    modules("rtmlib", **rtmlib([]))
    assert detected(open_detector("rtmlib"), IMAGE, "frame 0") == ()


def test_rtmlib_without_a_network(modules):
    modules("rtmlib", **rtmlib([], fail=OSError("Name or service not known")))
    with pytest.raises(MissingComponentError, match="downloads its weights at first use, which failed: Name or"):
        open_detector("rtmlib")


def mediapipe(found=True):
    """The interface of MediaPipe 0.10.14 that is used."""
    marks = [SimpleNamespace(x=0.5, y=0.25, z=-0.1, visibility=0.9)] * 33 if found else None

    class Pose:
        def __init__(self, static_image_mode=False, model_complexity=1):
            assert not static_image_mode and model_complexity == 1

        def process(self, image):
            np.testing.assert_array_equal(image, IMAGE)
            landmarks = None if marks is None else SimpleNamespace(landmark=marks)
            return SimpleNamespace(pose_landmarks=landmarks, pose_world_landmarks=landmarks)

    return {"solutions": SimpleNamespace(pose=SimpleNamespace(Pose=Pose))}


def test_mediapipe_gives_one_person_in_pixels(modules):
    modules("mediapipe", **mediapipe())
    detector = open_detector("mediapipe")
    assert isinstance(detector, Detector) and detector.joints is MEDIAPIPE33
    (only,) = detected(detector, IMAGE, "frame 0")
    np.testing.assert_allclose(only.keypoints, np.tile([0.5 * SIZE[0], 0.25 * SIZE[1]], (33, 1)))
    np.testing.assert_allclose(only.confidence, 0.9)
    np.testing.assert_allclose(detector.landmarks(IMAGE).own_3d, np.tile([0.5, 0.25, -0.1], (33, 1)))


def test_mediapipe_sees_nobody(modules):
    modules("mediapipe", **mediapipe(found=False))
    assert detected(open_detector("mediapipe"), IMAGE, "frame 0") == ()


def test_a_mediapipe_without_weights_is_named(modules):
    modules("mediapipe")
    with pytest.raises(MissingComponentError, match=r"pip install mediapipe==0\.10\.14"):
        open_detector("mediapipe")


def test_the_default_is_the_one_that_is_installed(modules):
    with pytest.raises(
        MissingComponentError, match=r"'pose-refiner\[mediapipe\]'.*'pose-refiner\[rtmlib\]'.*MODULE:CLASS"
    ):
        open_detector()
    for name in ("mediapipe", "rtmlib"):
        with pytest.raises(MissingComponentError, match=rf"{name} needs {name}: pip install 'pose-refiner\[{name}\]'"):
            open_detector(name)
    modules("rtmlib", **rtmlib([]))
    assert open_detector().name == "RTMPose"
    modules("mediapipe", **mediapipe())
    assert open_detector().name == "MediaPipe"


def test_a_detector_of_the_caller_s_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_detector.py").write_text(
        "from refiner.formats import Person\n"
        "from refiner.skeleton import COCO17\n"
        "import numpy as np\n\n\n"
        "class MyDetector:\n"
        "    name = 'my detector'\n"
        "    joints = COCO17\n\n"
        "    def detect(self, image):\n"
        "        return [Person(np.full((17, 2), 5.0), np.full(17, 0.5))]\n\n\n"
        "class NoDetector:\n"
        "    name = 'half of one'\n\n\n"
        "class NoJoints(MyDetector):\n"
        "    joints = 'coco17'\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    detector = open_detector("my_own_detector:MyDetector")
    assert detector.joints is COCO17 and len(detected(detector, IMAGE, "frame 0")) == 1
    for name, message in (
        ("my_own_detector:Missing", "cannot be opened"),
        ("no_such_module:MyDetector", "cannot be opened"),
        ("my_own_detector:", "cannot be opened"),
        ("my_own_detector:NoDetector", "needs name, joints and detect"),
        ("my_own_detector:NoJoints", "the joints of .* are 'coco17'"),
        ("openpose", "choose mediapipe, rtmlib, or MODULE:CLASS"),
    ):
        with pytest.raises(UsageError, match=message):
            open_detector(name)


class Gives:
    """A detector that gives what it is told."""

    name, joints = "test", COCO17

    def __init__(self, *people):
        self.people = people

    def detect(self, image):
        return self.people


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((17, 3)), "gave ndarray, expected refiner.formats.Person"),
        (Person(np.ones((16, 2)), np.ones(17)), r"frame 4: numbers of shape \(16, 2\), expected \(17, 2\)"),
        (Person(np.ones((17, 3)), np.ones(17)), r"expected \(17, 2\)"),
        (Person(np.ones((17, 2)), np.ones(16)), r"expected \(17,\)"),
        (Person(np.full((17, 2), "a"), np.ones(17)), "expected numbers"),
    ],
)
def test_what_is_no_person_is_named(given, message):
    with pytest.raises(InputError, match=message):
        detected(Gives(given), IMAGE, "frame 4")


def test_missing_joints_and_missing_people():
    points = np.full((17, 2), 50.0)
    points[0], points[1], points[2] = np.nan, 0.0, 1e9
    sure = np.full(17, 0.5)
    sure[3], sure[4] = 0.0, np.nan
    nobody = Person(np.zeros((17, 2)), np.zeros(17))
    (only,) = detected(Gives(nobody, Person(points, sure, 7)), IMAGE, "frame 0")
    assert np.isnan(only.keypoints[:5]).all() and (only.confidence[:5] == 0).all()
    assert np.isfinite(only.keypoints[5:]).all() and only.track == 7


def test_a_whole_video():
    counts = [1, 1, 0, 2, 1, 1]
    frames = [VideoFrame(picture(n, c), n / 25, damaged=n == 4) for n, c in enumerate(counts)]
    told = []
    found = detect_people(frames, CodedDetector(), progress=told.append)
    assert [len(people) for people in found.detections.frames] == [1, 1, 0, 2, 0, 1]
    assert found.detections.fps == pytest.approx(25) and found.detections.image_size == SIZE
    assert found.empty == 2 and not found.variable and told == [1, 2, 3, 4, 5, 6]
    assert detect_people(frames[:1], CodedDetector(), fps=60.0).detections.fps == 60


def test_a_video_of_nothing():
    with pytest.raises(VideoError, match="no frame"):
        detect_people([], CodedDetector())
    with pytest.raises(VideoError, match="do not increase"):
        detect_people([VideoFrame(IMAGE, 0.0), VideoFrame(IMAGE, 0.0)], CodedDetector())
