import json
import pickle
import types

import pytest

from ptycho.errors import CancelledError, PackageError, RequestError, WorkError
from ptycho.jobs import runner as runner_module
from ptycho.jobs.events import read_lines
from ptycho.jobs.launcher import Launch, start_here
from ptycho.jobs.lock import owner
from ptycho.jobs.process import Process
from ptycho.jobs.ranks_record import CANCELLED, FAILED, FINISHED, RankRecord, read_records
from ptycho.jobs.runner import JobRunner, StageContext, sentence_of, stage_function
from ptycho.parallel import SerialRanks
from tests.jobs.small_runs import make_run, write_small_scan


@pytest.fixture
def stages(monkeypatch):
    """Stages that note that they were called; a test replaces the one it is about."""
    called = []
    module = types.SimpleNamespace(called=called)
    for name in ("train", "reconstruct", "refine", "evaluate"):
        setattr(module, name, lambda context, name=name: called.append(name))
    monkeypatch.setattr(runner_module, "import_module", lambda name: module)
    return module


def test_stages_run_in_order_with_what_they_need(tmp_path, stages):
    folder, job = make_run(tmp_path)
    contexts = []
    stages.refine = contexts.append
    start_here(folder)
    (context,) = contexts
    assert isinstance(context, StageContext)
    assert (context.job, context.folder, context.ranks.size) == (job, folder, 1)
    assert context.scan.n_positions == 12
    assert not context.should_stop()
    assert stages.called == ["evaluate"]
    state = folder.read_state()
    assert state["status"] == "finished"
    assert {name: entry["status"] for name, entry in state["stages"].items()} == {"refine": "done", "evaluate": "done"}
    assert [event["event"] for event in read_lines(folder.events_path)] == ["started", "stage", "stage", "finished"]
    assert read_records(folder)[0].status == FINISHED
    assert owner(folder) is None


def test_what_a_stage_reports_is_the_result(tmp_path, stages):
    folder, _ = make_run(tmp_path)
    stages.evaluate = lambda context: context.report.result(r_factor=0.2)
    start_here(folder)
    assert folder.read_state()["result"] == {"r_factor": 0.2}


def test_a_failure_is_recorded_and_the_next_attempt_skips_what_is_done(tmp_path, stages):
    folder, _ = make_run(tmp_path)

    def fail(context):
        raise WorkError("The disk is full.")

    works, stages.evaluate = stages.evaluate, fail
    with pytest.raises(WorkError, match="The disk is full"):
        start_here(folder)
    state = folder.read_state()
    assert (state["status"], state["error"]["message"], state["error"]["stage"]) == (
        "failed",
        "The disk is full.",
        "evaluate",
    )
    assert state["error"]["rank"] == 0
    assert state["error"]["host"]
    assert read_records(folder)[0].status == FAILED
    assert "Traceback" in folder.log_path(0).read_text()
    stages.evaluate = works
    start_here(folder)
    assert stages.called == ["refine", "evaluate"]
    assert folder.read_state()["status"] == "finished"
    assert folder.read_state()["attempts"] == 2
    assert folder.read_state()["error"] is None


def test_a_stage_during_which_the_run_was_asked_to_stop_is_taken_up_again(tmp_path, stages):
    folder, _ = make_run(tmp_path)
    works, stages.refine = stages.refine, lambda context: folder.cancel_path.touch() or wait_for(context)
    with pytest.raises(CancelledError, match="ptycho resume"):
        start_here(folder)
    assert folder.read_state()["status"] == "cancelled"
    assert read_records(folder)[0].status == CANCELLED
    assert [event["event"] for event in read_lines(folder.events_path)] == ["started", "stage", "cancelling"]
    stages.refine = works
    start_here(folder)
    assert stages.called == ["refine", "evaluate"]


def wait_for(context):
    """Goes on until the run is asked to stop, as a long loop does."""
    while not context.should_stop():
        pass


def test_the_log_of_a_run_holds_its_epochs_and_its_warnings(tmp_path, stages):
    folder, _ = make_run(tmp_path)
    stages.refine = lambda context: context.report.epoch("refine", 1, 1, loss=0.25)
    start_here(folder)
    assert "refine 1/1: loss 0.25" in folder.log_path(0).read_text()


def test_the_runner_is_a_small_pickle_that_holds_one_path(tmp_path):
    runner = JobRunner(tmp_path)
    assert pickle.loads(pickle.dumps(runner)) == runner
    assert len(pickle.dumps(runner)) < 500
    again = runner.checkpoint()
    assert again.function == runner


def test_a_stage_whose_packages_are_missing_says_so(monkeypatch):
    monkeypatch.setattr(runner_module, "STAGES_MODULE", "ptycho_torch.no_such_module")
    with pytest.raises(PackageError, match="Stage refine cannot be loaded"):
        stage_function("refine")


def test_errors_become_sentences():
    assert sentence_of(WorkError("It broke.")) == "It broke."
    assert sentence_of(MemoryError("x")).startswith("Out of memory")
    assert sentence_of(KeyError("probe")) == "KeyError: 'probe'"


def test_state_is_plain_json_throughout(tmp_path, stages):
    folder, _ = make_run(tmp_path)
    start_here(folder)
    for path in (folder.state_path, folder.resolved_path, folder.launch_path):
        json.loads(path.read_text(), parse_constant=pytest.fail)


def test_a_connection_that_closes_because_another_rank_has_stopped_is_a_stop(tmp_path, monkeypatch):
    folder, _ = make_run(tmp_path)
    Launch(executor="local", attempt=1, process=Process.current(), time="").write(folder)
    here = Process.current()

    class TwoRanks(SerialRanks):
        size = 2

    def other_stops_first(context):
        RankRecord(rank=1, attempt=1, process=here, status=CANCELLED).write(folder)
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr("ptycho.jobs.runner.stage_function", lambda name: other_stops_first)
    with pytest.raises(CancelledError, match="together with the other ranks"):
        JobRunner(folder.path).run_here(TwoRanks())
    assert folder.read_state()["status"] == "cancelled"


def test_a_run_does_not_go_on_with_another_scan(tmp_path, stages):
    folder, job = make_run(tmp_path)

    def fail(context):
        raise WorkError("The disk is full.")

    stages.evaluate = fail
    with pytest.raises(WorkError, match="disk is full"):
        start_here(folder)
    write_small_scan(job.data.scan, n_positions=13)
    with pytest.raises(RequestError, match="not the scan that this run began with"):
        start_here(folder)
    assert stages.called == ["refine"]
