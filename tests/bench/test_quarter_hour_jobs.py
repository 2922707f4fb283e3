"""Jobs with time boxes: each reports, and none stops the others."""

from __future__ import annotations

import sys

import pytest
from refiner_bench.gpu.jobs import Job, run_jobs


def python(code):
    return [sys.executable, "-c", code]


def test_every_job_reports_and_none_stops_the_others(tmp_path):
    jobs = [
        Job("hangs", python("import time; time.sleep(600)"), 0.5),
        Job("fails", python("raise SystemExit('the kernel is wrong')"), 60),
        Job("lacks", python("import sys; print('error: no nvcc'); sys.exit(3)"), 60),
        Job("works", python("print(1)"), 60),
    ]
    hangs, fails, lacks, works = run_jobs(jobs, tmp_path)
    assert (hangs.status, hangs.why) == ("failed", "stopped by its time box of 0.5 s") and hangs.exit_code != 0
    assert (fails.status, fails.exit_code, fails.why) == ("failed", 1, "the kernel is wrong")
    assert (lacks.status, lacks.why) == ("skipped", "error: no nvcc")
    assert works.status == "ok" and (tmp_path / "works.log").read_text() == "1\n"


def test_a_crash_tells_what_was_done_last(tmp_path):
    code = "import faulthandler; print('opening the package'); faulthandler._sigsegv()"
    (crash,) = run_jobs([Job("crash", python(code), 60)], tmp_path)
    assert (crash.status, crash.exit_code) == ("failed", -11)
    assert crash.why == "ended by SIGSEGV after: opening the package"
    assert "most recent call first" in (tmp_path / "crash.log").read_text()


def test_a_job_that_does_not_begin_is_stopped(tmp_path):
    mark = tmp_path / "mark"
    begins = python(f"import time; open({str(mark)!r}, 'w'); time.sleep(2)")
    jobs = [
        Job("hangs", python("import time; time.sleep(600)"), 60, tmp_path / "never", 1.0),
        Job("begins", begins, 60, mark, 1.0),
    ]
    hangs, begins = run_jobs(jobs, tmp_path / "logs")
    assert (hangs.status, hangs.why) == ("failed", "stopped: it had not begun after 1 s")
    assert begins.status == "ok"


def test_what_a_job_started_ends_with_it(tmp_path):
    mark = tmp_path / "mark"
    child = f"import time; time.sleep(2); open({str(mark)!r}, 'w')"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    (result,) = run_jobs([Job("parent", python(code), 0.5)], tmp_path)
    assert result.status == "failed"
    run_jobs([Job("later", python("import time; time.sleep(2.5)"), 60)], tmp_path)
    assert not mark.exists()


def test_the_jobs_of_a_device(tmp_path):
    pytest.importorskip("torch")
    from refiner_bench.gpu.packages import PACKAGES
    from refiner_bench.gpu.parts import BOXES, ROOT, RunSetup, fused_checks, fused_file, jobs_of

    place = RunSetup(tmp_path, "cuda", False)
    jobs = {job.name: job for job in jobs_of("build", place, 1000.0)}
    assert jobs.keys() == {"build", *(f"package, {name}" for name in PACKAGES)}
    assert "-DREFINER_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=90" in jobs["build"].command[-1]
    assert {job.seconds for job in jobs.values()} == {BOXES["build"]}
    assert place.native == "-"
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "_native.so").write_bytes(b"")
    checks = {job.name: job for job in jobs_of("check", place, 10.0)}
    assert checks.keys() == {"check", "sanitizer", "tests"} and {job.seconds for job in checks.values()} == {10.0}
    assert all(str(tmp_path / "build" / "_native.so") in job.command for job in checks.values())
    assert [job.name for job in jobs_of("build", RunSetup(tmp_path, "cuda", False, packages=False), 9.0)] == ["build"]
    (fused,) = jobs_of("fused", place, 1000.0)
    assert fused.seconds == BOXES["fused"] and fused.command[-1] == str(fused_file(place))
    tests, sanitizer = fused_checks(place, 7.0)
    assert (ROOT / "tests" / "gpu" / tests.command[-1]).is_file()
    assert sanitizer.command[-1] == "--small" and {tests.seconds, sanitizer.seconds} == {7.0}
    (rehearsal,) = jobs_of("build", RunSetup(tmp_path, "cpu", True), 1000.0)
    assert "-DREFINER_CUDA=OFF" in rehearsal.command[-1] and "Debug" in rehearsal.command[-1]
