"""Videos whose frames hold their own number as blocks of black and white, and a detector that reads it.

The detector knows where the people of each frame are. A block that says so hides them.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from refiner.data.synthetic import synthetic_motion
from refiner.formats import Person
from refiner.skeleton import H36M17

SIZE, FOCAL = (320, 240), 400.0
BLOCK, BITS = 16, 8


def poses(frames, person=0):
    """Pixels ``(frames, 17, 2)`` of a walking person, at most 256 frames; the second one stands further right."""
    motion = np.asarray(synthetic_motion(3 + person, "Walking", 256), dtype=np.float64)[:frames]
    body = motion[..., [0, 2, 1]] * [1, -1, 1]
    body += [0, 0, 5] - body[:, :1]
    return FOCAL * body[..., :2] / body[..., 2:] + np.array(SIZE) / 2 + [160 * person - 80, 10]


WALK = [poses(256), poses(256, 1)]


def picture(number, people=1):
    image = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
    for bit in range(BITS):
        image[:BLOCK, BLOCK * bit : BLOCK * (bit + 1)] = 255 * (number >> bit & 1)
    # The number of people, in two more bits.
    for bit in range(2):
        image[:BLOCK, BLOCK * (BITS + bit) : BLOCK * (BITS + bit + 1)] = 255 * (people >> bit & 1)
    return image


def read_code(image):
    """(number of the frame, number of people)."""
    blocks = image[: BLOCK // 2, : BLOCK * (BITS + 2)].astype(float).mean(axis=(0, 2)).reshape(BITS + 2, BLOCK)
    bits = blocks[:, BLOCK // 4 : -BLOCK // 4].mean(axis=1) > 128
    number = sum(int(bit) << place for place, bit in enumerate(bits[:BITS]))
    return number, int(bits[BITS]) + 2 * int(bits[BITS + 1])


class CodedDetector:
    """Fits `refiner.video.Detector`."""

    name = "coded"
    joints = H36M17

    def detect(self, image):
        number, people = read_code(image)
        return [Person(WALK[person][number], np.full(17, 0.9)) for person in range(people)]


class ReversedDetector(CodedDetector):
    """The people come in another order from frame to frame, as detectors give them."""

    def detect(self, image):
        found = super().detect(image)
        return found[::-1] if read_code(image)[0] % 2 else found


def write(path, people, stamps=None, fps=25, codec="libx264", **options):
    """A video with one frame for each entry of ``people``, how many it shows; ``stamps`` in milliseconds.

    ``options``: ``matrix`` (9 numbers), ``pixel_shape`` (Fraction), ``images`` instead of the coded pictures.
    """
    import av

    images = options.get("images") or [picture(number, count) for number, count in enumerate(people)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height = images[0].shape[1], images[0].shape[0]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 10
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if "matrix" in options:
            stream.set_display_matrix(options["matrix"])
        if "pixel_shape" in options:
            stream.codec_context.sample_aspect_ratio = options["pixel_shape"]
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if stamps is not None:
                frame.time_base, frame.pts = Fraction(1, 1000), stamps[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
