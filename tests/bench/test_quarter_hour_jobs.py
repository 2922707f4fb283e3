"""Jobs with time boxes: each reports, and none stops the others."""

from __future__ import annotations

import sys

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


def test_what_a_job_started_ends_with_it(tmp_path):
    mark = tmp_path / "mark"
    child = f"import time; time.sleep(2); open({str(mark)!r}, 'w')"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    (result,) = run_jobs([Job("parent", python(code), 0.5)], tmp_path)
    assert result.status == "failed"
    run_jobs([Job("later", python("import time; time.sleep(2.5)"), 60)], tmp_path)
    assert not mark.exists()
