"""What a detector of 2D keypoints is, and the table of those that come with the package."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from refiner.errors import InputError, MissingComponentError, UsageError
from refiner.formats.detections import Person, person_of
from refiner.skeleton import JOINT_SETS, JointSet

# [height, width, 3]: red, green, blue.
Image = NDArray[np.uint8]


@runtime_checkable
class Detector(Protocol):
    """Finds the people in an image. A class of the caller's own fits, if it has these three members::

        class MyDetector:
            name = "my detector"
            joints = COCO17  # refiner.skeleton has the joint sets

            def detect(self, image):  # (height, width, 3) uint8: red, green, blue
                keypoints, scores = my_model(image)  # (people, 17, 2) pixels, (people, 17) from 0 to 1
                return [Person(*person) for person in zip(keypoints, scores)]  # refiner.formats.Person

    A detector that follows people itself gives their numbers in `Person.track`. It is called with the frames of one
    video in their order.

    Attributes:
        name: for messages and files.
        joints: the joint set of the keypoints.
    """

    name: str
    joints: JointSet

    def detect(self, image: Image) -> Sequence[Person]:
        """The people in an image, in any order; empty where there is nobody.

        Args:
            image: ``(height, width, 3)`` uint8: red, green, blue.

        Returns:
            Their keypoints in pixels, NaN or confidence 0 where a joint was not found.
        """
        ...


@dataclass(frozen=True)
class DetectorSpec:
    """A row of the table of detectors.

    Attributes:
        name: the name for `open_detector`; also the name of the extra that installs it.
        package: the package that it needs.
        target: module and class.
        says: what to know of it, for messages.
    """

    name: str
    package: str
    target: str
    says: str


# The first one that is installed is the default.
DETECTORS = (
    DetectorSpec(
        "mediapipe", "mediapipe", "refiner.video.mediapipe_detector:MediaPipeDetector", "one person, works offline"
    ),
    DetectorSpec(
        "rtmlib",
        "rtmlib",
        "refiner.video.rtmlib_detector:RTMLibDetector",
        "several people, downloads its weights at first use",
    ),
)


def open_detector(name: str | None = None) -> Detector:
    """Open a detector of 2D keypoints.

    Args:
        name: "mediapipe", "rtmlib", or ``MODULE:CLASS`` for one of the caller's own, which is called without arguments;
            the module is looked for in the current folder too. None takes the first of "mediapipe" and "rtmlib" that is
            installed.

    Raises:
        MissingComponentError: the detector is not installed, or none is.
        UsageError: the name is unknown, or the class is no `Detector`.
    """
    if name is not None and ":" in name:
        return _own_detector(name)
    specs = {spec.name: spec for spec in DETECTORS}
    if name is None:
        found = [spec for spec in DETECTORS if importlib.util.find_spec(spec.package) is not None]
        if not found:
            hints = "; ".join(f"pip install 'pose-refiner[{spec.name}]' ({spec.says})" for spec in DETECTORS)
            raise MissingComponentError(
                f"no detector of 2D keypoints is installed: {hints}; or name one of your own: --detector MODULE:CLASS"
            )
        name = found[0].name
    if name not in specs:
        raise UsageError(f"there is no detector {name!r}; choose {', '.join(specs)}, or MODULE:CLASS of your own")
    module, _, attribute = specs[name].target.partition(":")
    try:
        detector: Detector = getattr(importlib.import_module(module), attribute)()
    except ModuleNotFoundError as error:
        raise MissingComponentError(
            f"the detector {name} needs {error.name}: pip install 'pose-refiner[{name}]' ({specs[name].says})"
        ) from error
    return detector


def _own_detector(name: str) -> Detector:
    """The detector ``MODULE:CLASS`` of the caller."""
    module_name, _, attribute = name.partition(":")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        made = getattr(importlib.import_module(module_name), attribute)()
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"the detector {name} cannot be opened: {error}") from error
    if not isinstance(made, Detector):
        raise UsageError(f"{name} is no detector; it needs name, joints and detect(image): see refiner.video.Detector")
    if made.joints not in JOINT_SETS.values():
        raise UsageError(f"the joints of {name} are {made.joints!r}; expected one of {', '.join(JOINT_SETS)}")
    return made


def detected(detector: Detector, image: Image, where: str) -> tuple[Person, ...]:
    """The people that a detector finds in an image, checked.

    Args:
        detector: the detector.
        image: ``(height, width, 3)`` uint8.
        where: the place of the image, for messages.

    Raises:
        InputError: the detector gave something other than people in its joint set.
    """
    found = detector.detect(image)
    people = []
    for person in found:
        if not isinstance(person, Person):
            raise InputError(f"{detector.name}, {where}: gave {type(person).__name__}, expected refiner.formats.Person")
        keypoints, confidence = np.asarray(person.keypoints), np.asarray(person.confidence)
        checked = person_of(keypoints, confidence, detector.joints, f"{detector.name}, {where}", person.track)
        if (checked.confidence > 0).any():
            people.append(checked)
    return tuple(people)
