"""The name of the processor, as far as a system gives one."""

from __future__ import annotations

import platform

import pytest

from refiner import machine


def test_the_processors_model(tmp_path, monkeypatch):
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: A CPU: 3 GHz\nmodel name\t: another\n")
    monkeypatch.setattr(machine, "CPU_INFO", info)
    assert machine.processor_name() == "A CPU: 3 GHz"


def test_a_system_that_does_not_say(tmp_path, monkeypatch):
    info = tmp_path / "cpuinfo"
    info.write_text("Hardware\t: some board\n")
    monkeypatch.setattr(machine, "CPU_INFO", info)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert machine.processor_name() == "riscv64"
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "none")
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert machine.processor_name() == "arm"


CORES = """processor : 0
physical id : 0
core id : 0

processor : 1
physical id : 0
core id : 0

processor : 2
physical id : 1
core id : 0
"""


@pytest.mark.parametrize(
    ("text", "allowed", "expected"),
    [(CORES, 3, 2), (CORES, 1, 1), ("processor : 0\nprocessor : 1\n", 2, 2), (None, 4, 4)],
)
def test_physical_processors(tmp_path, monkeypatch, text, allowed, expected):
    info = tmp_path / "cpuinfo"
    if text is not None:
        info.write_text(text)
    monkeypatch.setattr(machine, "CPU_INFO", info)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(allowed)), raising=False)
    assert machine.physical_processors() == expected
