"""The name of the processor, as far as a system gives one."""

from __future__ import annotations

import platform

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
