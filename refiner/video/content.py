"""Whether a file is a video, from its first bytes. No other package is needed for that."""

from __future__ import annotations

import os
from pathlib import Path

# A file of one of these names whose content is no video is a broken video, and no file of a detector.
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv")
# Bytes at the beginning of a container.
_BEGINNINGS = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"\x00\x00\x01\xba",  # MPEG program stream
    b"\x00\x00\x01\xb3",  # MPEG video
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF: WMV
    b"FLV\x01",
    b"OggS",
    b"GIF87a",
    b"GIF89a",
)
# The first box of an MP4 or QuickTime file; its size lies before it.
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"skip", b"free")
# A transport stream has this byte at the beginning of every packet; M2TS has four bytes before each.
_SYNC, _PACKETS = 0x47, ((188, 0), (192, 4))
_READ = 4096


def is_meant_as_video(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a video by its content, or an unreadable one by its name."""
    file = Path(path)
    return is_video(file) or (file.is_file() and file.suffix.lower() in VIDEO_SUFFIXES)


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether the content of a file begins like a video that FFmpeg reads; False for folders and missing files."""
    file = Path(path)
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        head = opened.read(_READ)
    if head.startswith(_BEGINNINGS) or head[4:8] in _BOXES:
        return True
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return True
    return any(
        len(head) > 3 * length and all(head[offset + length * packet] == _SYNC for packet in range(3))
        for length, offset in _PACKETS
    )
