"""The queue of a GPU: in order, within the time, and on from what is finished."""

import json
import sys

import pytest
from companion import gpu_queue
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
