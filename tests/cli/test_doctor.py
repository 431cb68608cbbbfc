import json
import subprocess

import pytest

from ptycho.cli import machine
from ptycho.cli.machine import GOOD, INSTALLATION, MACHINE, MISSING, WRONG, Finding, examine
from ptycho.cli.main import main
from tests.jobs.image_files import write_image


@pytest.fixture
def bare_machine(monkeypatch):
    """A machine without any program on PATH, where starting torch or MPI fails."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(machine, "_output", lambda command, timeout_s=20: None)


def states(findings):
    return {finding.name: finding.state for finding in findings}


def test_what_is_optional_is_missing_and_what_is_needed_is_good(tmp_path, bare_machine):
    found = states(examine(tmp_path))
    assert found["Python"] == found["packages"] == found["HDF5 filters"] == found["run folders"] == GOOD
    assert found["Slurm"] == found["Apptainer"] == found["MPI launcher"] == MISSING
    assert found["torch"] == WRONG


@pytest.mark.parametrize(
    ("state", "about", "strict", "inside", "counts"),
    [
        (WRONG, MACHINE, False, True, True),
        (MISSING, INSTALLATION, False, False, False),
        (MISSING, INSTALLATION, True, True, True),
        (MISSING, MACHINE, True, False, True),
        (MISSING, MACHINE, True, True, False),
        (GOOD, MACHINE, True, False, False),
    ],
)
def test_an_image_is_not_to_blame_for_its_machine(state, about, strict, inside, counts):
    finding = Finding(name="x", state=state, detail="", about=about)
    assert finding.counts(strict=strict, inside_image=inside) is counts


def test_an_image_is_compared_with_this_environment(tmp_path, bare_machine, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    same = {f.name: f for f in examine(tmp_path, write_image(tmp_path / "a.sif", torch="0.0.1"))}["image"]
    assert same.state == GOOD and "torch 0.0.1" in same.detail and "may differ" in same.advice
    other = {f.name: f for f in examine(tmp_path, write_image(tmp_path / "b.sif", version="0.0.1"))}["image"]
    assert other.state == WRONG and "holds ptycho 0.0.1" in other.advice


def test_what_srun_takes_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/usr/bin/{name}")
    said = "MPI plugin types are...\n\tnone\n\tpmi2\n\tpmix_v4\n"
    monkeypatch.setattr(machine, "_output", lambda command, timeout_s=20: said if "srun --mpi" in command[-1] else "")
    slurm = {finding.name: finding for finding in examine(tmp_path)}["Slurm"]
    assert slurm.detail.endswith("srun --mpi= takes none, pmi2, pmix_v4")


def test_torch_that_works_is_described(tmp_path, monkeypatch):
    said = {"torch": "2.13.0|CPU only|gloo|", "MPI": "Open MPI v4.1.4, package: x"}
    monkeypatch.setattr(
        machine, "_output", lambda command, timeout_s=20: next((v for k, v in said.items() if k in command[-1]), "")
    )
    found = {finding.name: finding.detail for finding in examine(tmp_path)}
    assert found["torch"] == "2.13.0, CPU only; ranks through gloo"
    assert found["MPI library"] == "Open MPI v4.1.4"


def test_a_full_disk_and_a_missing_package_are_seen(tmp_path, monkeypatch, bare_machine):
    usage = machine.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage._replace(free=10**9))
    monkeypatch.setattr(machine, "_NEEDED_PACKAGES", ("numpy", "no-such-package"))
    findings = {finding.name: finding for finding in examine(tmp_path)}
    assert findings["free disk"].state == MISSING
    assert findings["packages"].state == WRONG
    assert "no-such-package" in findings["packages"].advice


def test_a_folder_that_cannot_be_written_is_wrong(tmp_path, monkeypatch, bare_machine):
    def refuse(**arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(machine.tempfile, "TemporaryFile", refuse)
    assert states(examine(tmp_path / "runs"))["run folders"] == WRONG


def test_a_program_that_hangs_counts_as_silent(monkeypatch):
    def hang(command, **arguments):
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(subprocess, "run", hang)
    assert machine._output(["x"]) is None


def test_the_verb_exits_with_1_when_something_needed_is_wrong(tmp_path, bare_machine, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json", "--folder", str(tmp_path)])
    assert ended.value.code == 1
    assert {"name", "state", "detail", "advice", "about"} == json.loads(capsys.readouterr().out)[0].keys()
