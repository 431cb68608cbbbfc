"""Watching a run or a series: drawn in place in a terminal, a line for every change elsewhere."""

import pytest
from rich.console import Console

from ptycho.cli import shown_status
from ptycho.cli.shown_status import brief, lines_of, watch_status
from ptycho.jobs import lock
from ptycho.jobs.events import Reporter
from ptycho.jobs.new_series import new_series
from ptycho.jobs.run_folder import RunFolder
from ptycho.jobs.series_status import read_series_status
from ptycho.jobs.spec import load_spec
from ptycho.jobs.status import read_status
from tests.jobs.test_series import write_series


@pytest.fixture
def story(tmp_path, monkeypatch):
    """A run at work, which goes one step further whenever the one who watches it pauses."""
    folder = RunFolder.create(tmp_path, "run", {})
    reporter = Reporter(folder)
    state = {**folder.read_state(), "status": "running", "n_ranks": 1}
    lock.acquire(folder)

    def enter(stage):
        folder.write_state({**state, "stage": stage, "stages": {stage: {"status": "running"}}})
        reporter.stage(stage)

    steps = iter(
        [
            lambda: None,
            lambda: reporter.epoch("refine", 1, 3, loss=0.5),
            lambda: reporter.epoch("refine", 2, 3, loss=0.25),
            lambda: enter("evaluate"),
            lambda: reporter.progress("evaluate", 1, 4),
            lambda: folder.write_state({**state, "status": "finished", "stages": {}, "result": {"r_factor": 0.2}}),
        ]
    )
    monkeypatch.setattr(shown_status, "_pause", lambda found: next(steps)())
    enter("refine")
    return folder


def test_outside_a_terminal_every_change_is_a_line(story, capsys):
    found = watch_status(story)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[:3] for line in lines] == [
        ["running", "refine"],
        ["running", "refine", "1/3"],
        ["running", "refine", "2/3"],
        ["running", "evaluate"],
        ["running", "evaluate", "25%"],
    ]
    assert "loss 0.25" in lines[2]
    assert "left in this stage" in lines[2]
    assert (found.status, found.result) == ("finished", {"r_factor": 0.2})


def test_in_a_terminal_it_is_drawn_in_place(story, monkeypatch):
    shown = Console(force_terminal=True, width=200)
    monkeypatch.setattr("rich.live.get_console", lambda: shown)
    monkeypatch.setattr(shown_status, "is_terminal", lambda: True)
    with shown.capture() as captured:
        found = watch_status(story)
    text = captured.get()
    assert "Epoch 2 of 3  loss 0.25" in text
    assert "25% of this stage" in text
    assert "\x1b[2K" in text, "lines are erased before they are drawn again"
    assert found.status == "finished"


def test_a_series_shows_its_scans_at_work_and_what_went_wrong(tmp_path):
    spec = write_series(tmp_path, names=("a", "b", "c"))
    (tmp_path / "scan_c.h5").write_bytes(b"no scan")
    folder, _ = new_series(load_spec(spec))
    run = folder.run("scan_a")
    lock.acquire(run)
    run.write_state({**run.read_state(), "status": "running", "stage": "refine", "n_ranks": 1})
    Reporter(run).epoch("refine", 2, 6, loss=0.5)
    found = read_series_status(folder)
    assert brief(found) == "1 running, 1 failed, 1 not started"
    text = "\n".join(lines_of(found))
    assert "3 scans: 1 running, 1 failed, 1 not started" in text
    assert "scan_a  refine  2/6  loss 0.5" in text
    assert "scan_c: " in text
    assert "--watch" in found.next_step
    assert read_status(run).epoch == 2
