import pytest
from rich.console import Console

from ptycho.cli import console
from ptycho.cli.console import duration, show_table
from ptycho.cli.live import Follower, PlainDisplay, TerminalDisplay, following, numbers_of
from ptycho.jobs.events import Reporter
from ptycho.jobs.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path, "run", {})


def tell_a_short_story(reporter):
    reporter.stage("refine")
    reporter.epoch("refine", 1, 2, loss=0.25)
    reporter.message("The probe was power-matched.")
    reporter.epoch("refine", 2, 2, loss=0.125)
    reporter.cancelling("signal SIGTERM")


def test_outside_a_terminal_there_is_one_plain_line_per_event(folder, capsys):
    follower = Follower(folder)
    tell_a_short_story(Reporter(folder))
    follower.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "stage refine"
    assert lines[1].startswith("refine 1/2  loss 0.25  ")
    assert lines[1].endswith(" left")
    assert lines[2:] == [
        "The probe was power-matched.", "refine 2/2  loss 0.125", "stopping (signal SIGTERM), saving the state",
    ]  # fmt: skip
    assert "\x1b" not in "".join(lines)


def test_time_left_follows_from_the_epochs_of_this_attempt(capsys):
    display = PlainDisplay()
    display.show({"event": "stage", "stage": "refine", "time": "2026-01-01T00:00:00.000Z"})
    epoch = {"event": "epoch", "stage": "refine", "n_epochs": 10, "loss": 1.0}
    display.show({**epoch, "epoch": 7, "time": "2026-01-01T00:00:10.000Z"})
    assert capsys.readouterr().out.splitlines()[-1] == "refine 7/10  loss 1  30 s left"


def test_in_a_terminal_bars_show_the_same_numbers(folder, monkeypatch):
    shown = Console(force_terminal=True, width=100, record=True)
    monkeypatch.setattr("rich.progress.get_console", lambda: shown)
    display = TerminalDisplay()
    reporter, follower = Reporter(folder), Follower(folder)
    follower._display = display
    tell_a_short_story(reporter)
    reporter.progress("refine", 1, 5)
    follower.close()
    text = shown.export_text()
    assert "refine" in text
    assert "2/2" in text
    assert "loss 0.125" in text
    assert "power-matched" in text


def test_a_run_in_this_process_is_followed_from_a_thread(folder, capsys):
    with following(folder):
        Reporter(folder).epoch("refine", 1, 1, loss=1.0)
    assert capsys.readouterr().out == "refine 1/1  loss 1\n"


def test_numbers_leave_out_what_frames_them():
    event = {"time": "x", "event": "epoch", "stage": "s", "epoch": 1, "n_epochs": 2, "loss": 0.123456, "n": 3}
    assert numbers_of(event) == "loss 0.1235  n 3"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (5.25, "5.2 s"), (59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (59.7, "1 min 00 s")],
)
def test_durations_are_words(seconds, words):
    assert duration(seconds) == words


def test_tables_are_aligned_text_outside_a_terminal(capsys):
    show_table(("key", "value"), [("a", 1), ("long key", None), ("b", True)])
    assert capsys.readouterr().out.splitlines() == ["key       value", "a         1", "long key  -", "b         true"]


def test_tables_are_drawn_by_rich_in_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(console, "is_terminal", lambda: True)
    show_table(("key", "value"), [("[red]", 0.5)])
    assert "[red]" in capsys.readouterr().out
