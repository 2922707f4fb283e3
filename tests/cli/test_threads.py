"""``--threads`` of the commands: a number that no engine takes is a usage error, not the end of the process."""

from __future__ import annotations

import pytest

from refiner.arguments import most_threads
from refiner.cli import stream


@pytest.mark.parametrize("threads", ["0", "-1", "1.5", "True", "nan", "1000000", "9" * 400, "9" * 5000])
def test_odd_numbers_of_threads(threads, capsys):
    assert stream.main(["--image-size", "1000", "1000", f"--threads={threads}"]) == 2
    assert f"expected a whole number from 1 to {most_threads()}" in capsys.readouterr().err


def test_the_default_is_one_thread():
    assert stream.build_parser().parse_args([]).threads == 1
    assert stream.build_parser().parse_args(["--threads", "2"]).threads == 2
