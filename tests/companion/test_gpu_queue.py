"""The queue of a GPU: in order, within the time, and on from what is finished."""

import json
import os
import signal
import sys
import time

import psutil
import pytest
from companion import gpu_queue, plainly, with_gpus
from companion.gpu_queue import Step, run

FINE, BAD, LONG = "print('fine')", "raise SystemExit(3)", "import time; time.sleep(600)"


def steps(**programs):
    return [Step(name, ("-c", program)) for name, program in programs.items()]


def test_a_failed_step_does_not_stop_the_others_and_finished_ones_are_not_taken_again(tmp_path, capsys):
    asked = steps(first=FINE, second=BAD, third=FINE)
    assert run(asked, tmp_path, 60, [sys.executable]) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["done", "failed", "done", "left:"] and "second;" in said[-1]
    assert (tmp_path / "third.log").read_text() == "fine\n"
    asked[1] = steps(second=FINE)[0]
    assert run(asked, tmp_path, 60, [sys.executable]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and said[0].endswith("second") and said[1] == "nothing is left"


def test_what_takes_too_long_is_stopped_and_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_queue, "STEP_SECONDS", 3)
    assert run(steps(long=LONG, short=FINE), tmp_path, 60, [sys.executable]) == 0
    assert "left: long; the same command continues" in capsys.readouterr().out
    assert json.loads((tmp_path / "queue.json").read_text())["ended"] == {"long": "stopped", "short": "done"}


def is_running(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(happened):
    until = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("command", ["gpu-queue", "with-gpus"])
def test_a_command_and_what_it_started_end_with_the_process_that_runs_it(tmp_path, command, number):
    told = tmp_path / "told"
    program = f"""
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # slow to end
os.fork()
open({str(told)!r}, "a").write(f"{{os.getpid()}}\\n")
time.sleep(600)
"""
    started = os.fork()
    if not started:
        take = {
            "gpu-queue": lambda: run(steps(long=program), tmp_path, 60, [sys.executable]),
            "with-gpus": lambda: with_gpus.main(["1", sys.executable, "-c", program]),
        }
        try:
            plainly.run(take[command])
        finally:
            os._exit(1)
    wait_for(lambda: told.is_file() and len(told.read_text().splitlines()) == 2)
    its = [psutil.Process(int(line)) for line in told.read_text().splitlines()]
    os.kill(started, number)
    os.waitpid(started, 0)
    wait_for(lambda: not any(map(is_running, its)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes", "0"], "MINUTES is 0.0; it must be a number above 0"),
        (["--only", "smok hierarchy"], "ONLY is 'smok hierarchy'; a step begins with one of tests, smoke hierarchy"),
        (["--profile", "papr"], "PROFILE is 'papr'; it must be one of quick, paper"),
    ],
)
def test_what_cannot_be_asked(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        gpu_queue.main([*arguments, "--folder", str(tmp_path)])
