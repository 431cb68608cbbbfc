import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from ptycho.cli.document import command_names
from ptycho.cli.main import main
from ptycho.jobs import runner as runner_module
from ptycho.jobs.run_folder import RunFolder
from tests.data.format_samples import keys, npy
from tests.jobs.small_runs import ROOT, make_run, write_small_scan, write_spec


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs a command in this process, in an empty folder; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def command(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return ended.value.code or 0, told.out, told.err

    return command


@pytest.fixture
def quick_stages(monkeypatch):
    """Stages that write a result at once."""

    class Stages:
        @staticmethod
        def refine(context):
            context.report.epoch("refine", 1, 1, loss=0.5)

        @staticmethod
        def evaluate(context):
            context.folder.result_path.write_text("image")
            context.folder.report_path.write_text("<html></html>")
            context.report.result(r_factor=0.163)

    monkeypatch.setattr(runner_module, "import_module", lambda name: Stages)


def modules_after(code):
    return subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    ).stdout.split()  # fmt: skip


def test_help_loads_nothing_heavy_and_answers_quickly():
    code = "from ptycho.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    heavy = {"torch", "mpi4py", "matplotlib", "submitit", "h5py", "pydantic", "scipy", "numpy", "lightning"}
    assert not {name.partition(".")[0] for name in modules_after(code)} & heavy
    # CPU time, because other work on the machine makes the clock go on; the best of several, for the same reason.
    assert min(_cpu_seconds([sys.executable, "-m", "ptycho", "--help"]) for _ in range(3)) < 0.4


def _cpu_seconds(command):
    before = os.times()
    subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@pytest.mark.parametrize("name", command_names())
def test_every_command_has_help_and_a_mention_in_the_documents(name, run):
    code, output, _ = run(name, "--help")
    assert code == 0
    assert len(output.splitlines()) > 4
    assert f"## ptycho {name}\n" in (ROOT / "docs" / "cli.md").read_text()


def test_all_verbs_are_there():
    assert command_names() == [
        "init", "check", "simulate", "convert", "inspect", "run", "submit", "resume", "reconstruct",
        "status", "cancel", "logs", "collect", "evaluate", "report", "doctor",
    ]  # fmt: skip


def test_version_names_the_program(run):
    code, output, _ = run("--version")
    assert (code, output.split()[0]) == (0, "ptycho")


def test_an_unknown_verb_is_a_wrong_request(run):
    code, _, errors = run("rnu", "job.toml")
    assert code == 2
    assert "rnu" in errors
    assert "Traceback" not in errors


def test_a_scan_becomes_a_spec_a_run_and_a_result(run, tmp_path, quick_stages):
    write_small_scan(tmp_path / "scan.h5")
    code, output, errors = run("init", "scan.h5", "--engine", "rpie")
    assert code == 0, errors
    assert "ptycho check scan.toml" in output.splitlines()[-1]
    code, output, _ = run("check", "scan.toml", "--json", "--set", "refine.epochs=3")
    checked = json.loads(output)
    assert code == 0
    assert checked["values"]["refine.epochs"] == {"value": 3, "source": "override"}
    assert checked["stages"] == ["refine", "evaluate"]
    code, output, errors = run("run", "scan.toml", "--set", "resources.executor=here")
    assert code == 0, errors
    assert "refine 1/1  loss 0.5" in output
    assert "r_factor 0.163" in output
    assert output.splitlines()[-1].startswith("Next: open ")
    code, output, _ = run("status", "--json")
    assert (code, json.loads(output)["status"], json.loads(output)["result"]) == (0, "finished", {"r_factor": 0.163})
    code, output, _ = run("evaluate", "--json")
    assert (code, json.loads(output)) == (0, {"r_factor": 0.163})
    code, output, _ = run("report")
    assert (code, "report.html" in output) == (0, True)
    code, output, _ = run("logs", "--lines", "3")
    assert (code, "rank ends: finished" in output) == (0, True)
    code, output, _ = run("resume")
    assert (code, "finished already" in output) == (0, True)
    code, output, _ = run("cancel")
    assert (code, "not running" in output) == (0, True)


def test_init_writes_what_was_said_about_a_file_that_leaves_it_open(run, tmp_path):
    path, _ = npy(tmp_path)
    code, _, errors = run("init", path.name)
    assert code == 2
    assert "ptycho init diffraction.npy --set KEY=VALUE" in errors
    (tmp_path / "specs").mkdir()
    given = ("positions=positions.txt", "energy_eV=8000", "distance_m=0.75", "detector_pixel_m=[75e-6, 75e-6]")
    words = [word for one in given for word in ("--set", one)]
    code, _, errors = run("init", path.name, "-o", "specs/job.toml", "--engine", "rpie", *words)
    assert code == 0, errors
    lines = (tmp_path / "specs" / "job.toml").read_text().splitlines()
    assert 'positions = "../positions.txt"' in lines
    code, output, errors = run("check", "specs/job.toml", "--no-axes")
    assert code == 0, errors
    assert "12 frames of 16 × 16" in output


def test_init_proposes_the_keys_of_an_unknown_file_and_takes_them(run, tmp_path):
    path, _ = keys(tmp_path)
    code, _, errors = run("init", path.name)
    assert code == 2
    proposed = '{ frames = "exchange/data", frames_axes = "yxn", positions = "motor" }'
    assert f"keys = {proposed} in [data]" in " ".join(errors.split())
    said = proposed.replace(" }", ', positions_units = "um", energy = "energy" }')
    given = (f"keys={said}", "distance_m=0.75", "detector_pixel_m=[75e-6, 75e-6]")
    code, _, errors = run("init", path.name, "--engine", "rpie", *[word for one in given for word in ("--set", one)])
    assert code == 0, errors
    assert 'positions_units = "um"' in (tmp_path / "raw.toml").read_text()
    code, output, errors = run("check", "raw.toml")
    assert code == 0, errors
    assert "Axes: not compared" in output


def test_the_spec_that_init_writes_needs_no_change_for_a_network_either(run, tmp_path):
    write_small_scan(tmp_path / "scan.h5")
    assert run("init", "scan.h5")[0] == 0
    text = (tmp_path / "scan.toml").read_text()
    # The commented keys are true as well: uncommented, the spec is still valid.
    lines = [line.removeprefix("# ") if "=" in line and line.startswith("# ") else line for line in text.splitlines()]
    (tmp_path / "all.toml").write_text("\n".join(lines).replace("bundle =", "# bundle =").replace("site =", "# site ="))
    code, output, errors = run("check", "all.toml", "--set", "data.crop_px=8")
    assert code == 0, errors
    assert "The spec is valid." in output


def test_inspect_tells_what_a_file_holds(run, tmp_path):
    write_small_scan(tmp_path / "scan.h5")
    code, output, _ = run("inspect", "scan.h5", "--json")
    found = json.loads(output)
    assert code == 0
    assert (found["n_positions"], found["patch_size"], found["probe_modes"]) == (12, 16, 1)
    assert found["largest_count"] >= 10
    code, output, _ = run("inspect", "scan.h5", "--picture", "scan.png")
    assert code == 0
    assert (tmp_path / "scan.png").read_bytes().startswith(b"\x89PNG")


def test_convert_writes_our_layout_and_keeps_notes(run, tmp_path):
    write_small_scan(tmp_path / "scan.h5")
    code, _, errors = run("convert", "scan.h5", "copy.h5", "--crop-px", "8", "--note", "licence=CC0", "--name", "star")
    assert code == 0, errors
    found = json.loads(run("inspect", "copy.h5", "--json")[1])
    assert (found["patch_size"], found["name"], found["provenance"]["licence"]) == (8, "star", "CC0")
    assert run("convert", "scan.h5", "copy.h5")[0] == 2
    assert run("convert", "scan.h5", "copy.h5", "--force")[0] == 0


def test_simulate_makes_a_scan_with_its_truth(run):
    code, _, errors = run(
        "simulate", "sim.h5", "--object", "star", "--path", "spiral", "--n-positions", 9, "--patch-size", 16,
        "--probe", "gaussian", "--probe-diameter-px", 6, "--start-probe", "true", "--seed", 3,
    )  # fmt: skip
    assert code == 0, errors
    found = json.loads(run("inspect", "sim.h5", "--json")[1])
    assert (found["n_positions"], found["patch_size"], found["has_truth"]) == (9, 16, True)
    assert found["provenance"]["simulated"]["path"] == "spiral"


def test_simulate_explains_options_that_cannot_be(run, tmp_path):
    code, _, errors = run("simulate", "sim.h5", "--n-positions", 0, "--photons", -1)
    assert code == 2
    assert "n_positions = 0: must be between 1 and" in errors
    assert "photons = -1" in errors
    assert not (tmp_path / "sim.h5").exists()


def spoil(path, what):
    """Damages a small scan file in one way."""
    with h5py.File(path, "r+") as file:
        if what == "positions":
            values = file["positions"][:-1]
            attributes = dict(file["positions"].attrs)
            del file["positions"]
            file["positions"] = values
            file["positions"].attrs.update(attributes)
        elif what == "nan position":
            file["positions"][0, 0] = np.nan
        elif what == "no frames":
            del file["diffraction"]
    if what == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("truncated", "scan.h5"),
        ("positions", "12 frames but positions of shape (11, 2)"),
        ("nan position", "position 0"),
        ("no frames", "has no dataset /diffraction"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "check", "inspect", "init"])
def test_a_damaged_scan_costs_one_sentence_and_starts_nothing(run, tmp_path, what, sentence, verb):
    spec = write_spec(tmp_path)
    spoil(tmp_path / "scan.h5", what)
    code, _, errors = run(verb, spec if verb in ("run", "check") else "scan.h5")
    assert code == 2
    assert sentence in errors
    assert_one_sentence(errors)
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "scan.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "nothing.toml"], "There is no spec file nothing.toml."),
        (["run", "job.toml", "--set", "data.scan=nothing.h5"], "there is no such file"),
        (["run", "job.toml", "--set", "training.batch_size=0"], "training.batch_size = 0: must be at least 1."),
        (["check", "job.toml", "--set", "training.epocs=1"], 'Did you mean "nepochs"?'),
        (["check", "job.toml", "--set", "job.engine=magic"], "must be one of"),
        (["check", "broken.toml"], "line 1"),
        (["check", "scan.h5"], "not a text file"),
        (["submit", "job.toml", "--set", "resources.executor=here"], "ptycho run"),
        (["run", "job.toml", "--set", "output.dir=scan.h5"], "Cannot write"),
        (["run", "job.toml", "--set", "data.crop_px=32"], "data.crop_px = 32"),
        (["run", "job.toml", "--set", "container.image=scan.h5"], "Apptainer"),
        (["submit", "job.toml", "--set", "resources.executor=slurm"], "needs sbatch"),
        (["status"], "There are no runs"),
        (["status", "nothing"], "There is no run folder nothing."),
        (["resume", "."], "is not a run folder"),
        (["init"], "ptycho init SCAN"),
        (["inspect", "job.toml"], "job.toml"),
        (["inspect", "."], "folder"),
        (["convert", "scan.h5", "nowhere/copy.h5"], "There is no folder"),
        (["convert", "scan.h5", "copy.h5", "--note", "licence"], "must be KEY=TEXT"),
        (["reconstruct", "scan.h5", "--model", "nowhere"], "wts.h5.zip"),
    ],
)
def test_wrong_input_costs_one_helpful_sentence(run, tmp_path, monkeypatch, arguments, sentence):
    write_spec(tmp_path)
    (tmp_path / "broken.toml").write_text("[job\n")
    monkeypatch.setenv("PATH", "")
    before = {path.name for path in tmp_path.iterdir()}
    code, _, errors = run(*arguments)
    assert code == 2, errors
    assert sentence in errors
    assert_one_sentence(errors)
    assert {path.name for path in tmp_path.iterdir()} == before


def assert_one_sentence(errors):
    assert errors.startswith("Error: ")
    assert "Traceback" not in errors
    assert len(errors.splitlines()) == 1


def test_several_problems_are_listed_below_one_another(run, tmp_path):
    write_spec(tmp_path)
    code, _, errors = run("check", "job.toml", "--set", "training.nepochs=0", "--set", "refine.alpha=7")
    assert code == 2
    assert errors.splitlines()[0] == "Error: 2 problems in the spec:"
    assert len(errors.splitlines()) == 3


def test_a_full_disk_is_named_and_leaves_nothing(run, tmp_path, monkeypatch):
    spec = write_spec(tmp_path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, errors = run("run", spec)
    assert code == 2
    assert "the disk is full" in errors
    assert list((tmp_path / "runs").iterdir()) == []


def test_work_that_fails_after_it_began_exits_with_1_and_says_how_to_go_on(run, tmp_path, monkeypatch):
    class Stages:
        @staticmethod
        def refine(context):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner_module, "import_module", lambda name: Stages)
    code, _, errors = run("run", write_spec(tmp_path), "--set", "resources.executor=here")
    assert code == 1
    assert "Traceback" not in errors
    assert RunFolder.newest(tmp_path / "runs").read_state()["status"] == "failed"


def test_debug_shows_the_traceback(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="There is no spec file"):
        main(["check", "nothing.toml", "--debug"])


def test_a_run_without_result_is_not_ready(run, tmp_path):
    folder, _ = make_run(tmp_path)
    for verb in ("status", "evaluate", "report", "logs"):
        code, output, errors = run(verb, folder.path)
        assert code == 3, (verb, output, errors)


def test_the_schema_can_be_printed(run):
    code, output, _ = run("init", "--schema")
    assert code == 0
    assert "training" in json.loads(output)["properties"]
