"""The script that runs commands inside a job's image, with a stand-in for Apptainer that runs them outside."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from ptycho.data.linked_files import linked_files
from ptycho.errors import RequestError, SpecError
from ptycho.jobs.container import inside_text, ranks_python, shown_folders, write_inside
from ptycho.jobs.job_container import refuse_other_image
from ptycho.jobs.resolve import resolve
from ptycho.jobs.run_folder import RunFolder
from ptycho.jobs.spec import load_spec
from tests.jobs.image_files import write_image, write_image_folder
from tests.jobs.small_runs import make_run, ptycho, write_program, write_spec


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def apptainer(tmp_path, monkeypatch):
    """An apptainer that notes its arguments and environment, and then runs the command without any image."""
    script = (
        f'printf "%s\\n" "$*" >> {tmp_path}/calls\nenv > {tmp_path}/environment\n'
        'until [ "${1%.sif}" != "$1" ]; do shift; done\nshift\n'
        f'[ "$1" != python3 ] || {{ shift; set -- {sys.executable} "$@"; }}\nexec "$@"'
    )
    write_program(tmp_path / "bin", "apptainer", script)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def run(tmp_path, apptainer):
    """A run with an image, ready to start."""
    write_image(tmp_path / "a.sif")
    folder, job = make_run(tmp_path, container__image="a.sif", resources__executor="local")
    write_inside(folder.path, [job])
    return folder, job


def inside(folder, *words, **variables):
    environment = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run([folder.path / "inside", *words], env=environment, capture_output=True, text=True)


def test_scan_is_shown_to_be_read_and_the_run_to_be_written(tmp_path, run):
    folder, job = run
    assert inside(folder, "echo", "a b").stdout == "a b\n"
    call = (tmp_path / "calls").read_text()
    assert call == (
        f"exec --env PYTHONSAFEPATH=1 --bind {tmp_path}:{tmp_path}:ro --bind {folder.path}:{folder.path}:rw"
        f" {tmp_path}/a.sif echo a b\n"
    )
    assert ranks_python(folder.path, job) == f"{folder.path}/inside python3"


def test_outer_folders_come_first_and_inner_ones_only_where_they_differ():
    inputs = [Path("/data/scan/a.h5"), Path("/data/mask.h5"), Path("/top.h5"), None]
    assert shown_folders(inputs, [Path("/data/runs/a")]) == {
        Path("/data"): "ro", Path("/data/runs/a"): "rw", Path("/top.h5"): "ro"
    }  # fmt: skip
    assert list(shown_folders(inputs, [Path("/data/runs/a")])) == [Path("/data"), Path("/data/runs/a"), Path("/top.h5")]


def test_only_what_a_job_needs_of_the_environment_goes_in(tmp_path, run):
    folder, _ = run
    kept = {
        "SLURM_PROCID": "1",
        "PMIX_RANK": "1",
        "NCCL_DEBUG": "WARN",
        "OMP_NUM_THREADS": "2",
        "SUBMITIT_EXECUTOR": "slurm",
    }
    dropped = {
        "PYTHONPATH": "/x",
        "PYTHONHOME": "/x",
        "CONDA_PREFIX": "/x",
        "SECRET": "x",
        "BASH_FUNC_module%%": "() { :; }",
    }
    inside(folder, "true", **kept, **dropped)
    seen = dict(line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines() if "=" in line)
    assert seen.items() >= kept.items()
    assert not seen.keys() & dropped.keys()


def test_the_spec_lets_further_variables_folders_and_options_in(tmp_path, apptainer):
    write_image(tmp_path / "a.sif", flavour="cu130")
    folder, job = make_run(
        tmp_path, container__image="a.sif", container__environment=["MY_*", "EXACT"], container__binds=["~/x:/x:ro"],
        container__arguments=["--no-privs"], resources__executor="slurm", resources__gpus_per_node=2,
    )  # fmt: skip
    write_inside(folder.path, [job])
    inside(folder, "true", MY_ONE="1", EXACT="2", EXACTLY="3")
    call, seen = (tmp_path / "calls").read_text(), (tmp_path / "environment").read_text()
    assert call.startswith("exec --env PYTHONSAFEPATH=1 --nv --no-privs --bind ")
    assert f"--bind {Path.home()}/x:/x:ro" in call
    assert "MY_ONE=1" in seen and "EXACT=2" in seen and "EXACTLY" not in seen


def test_a_jobs_own_temporary_folders_are_shown(tmp_path, run):
    folder, _ = run
    (tmp_path / "job-7").mkdir()
    inside(folder, "true", TMPDIR=str(tmp_path / "job-7"), PMIX_SERVER_TMPDIR="/no/such/folder")
    assert f"--bind {tmp_path}/job-7 {tmp_path}/a.sif" in (tmp_path / "calls").read_text()


def test_a_job_that_waited_does_not_start_in_another_image(tmp_path, run):
    folder, _ = run
    write_image(tmp_path / "a.sif", torch="2.14.0 and longer")
    done = inside(folder, "true")
    assert done.returncode == 2 and "no longer the image that this run was started with" in done.stderr
    (tmp_path / "a.sif").unlink()
    assert inside(folder, "true").returncode == 2


def test_a_node_without_apptainer_says_so(tmp_path, run):
    folder, _ = run
    (tmp_path / "few").mkdir()
    for name in ("hostname", "bash"):
        (tmp_path / "few" / name).symlink_to(subprocess.check_output(["which", name], text=True).strip())
    done = inside(folder, "true", PATH=str(tmp_path / "few"))
    assert done.returncode == 2 and "module load apptainer" in done.stderr


def test_a_run_goes_on_in_its_own_image_only(tmp_path, run):
    folder, job = run
    refuse_other_image(job)
    write_image(tmp_path / "a.sif", revision="b" * 40)
    with pytest.raises(RequestError, match="not the image that this run was made with"):
        refuse_other_image(job)
    done = ptycho("resume", folder.path, cwd=tmp_path)
    assert done.returncode == 2 and "Put that one back, or start a new run" in done.stderr


def test_the_image_is_part_of_the_resolved_job(tmp_path, run):
    folder, job = run
    kept = json.loads(folder.resolved_path.read_text())["container"]
    assert len(kept["digest"]) == 64 and kept["commit"] == "a" * 40
    assert (job.sources["container.image"], job.sources["container.digest"]) == ("spec", "image")


@pytest.mark.parametrize("make", [write_image, write_image_folder])
def test_another_version_inside_is_refused_with_both_and_the_way_out(tmp_path, make):
    make(tmp_path / "a.sif", version="0.0.9")
    with pytest.raises(RequestError, match=r"holds ptycho 0\.0\.9.*make container.*ptychopinn==0\.0\.9"):
        resolve(load_spec(write_spec(tmp_path, container__image="a.sif")))


def test_gpus_are_not_asked_for_an_image_that_cannot_use_them(tmp_path):
    write_image(tmp_path / "a.sif")
    for overrides in ({"resources__gpus_per_node": 2}, {"execution__accelerator": "cuda"}):
        with pytest.raises(SpecError, match="built for CPUs only"):
            resolve(load_spec(write_spec(tmp_path, container__image="a.sif", **overrides)))
    job, _ = resolve(load_spec(write_spec(tmp_path, container__image="a.sif")))
    assert (job.execution.accelerator, job.resources.gpus_per_node) == ("cpu", 0)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("arguments", ["--cleanenv"], "SLURM_PROCID|variables of Slurm"),
        ("arguments", ["-e"], "one option: --name"),
        ("binds", ["/a:/b:rx"], "folder:folder-inside"),
        ("environment", ["A B"], "name of a variable"),
        ("image", "no.sif", "there is no such file"),
    ],
)
def test_what_apptainer_or_the_job_could_not_bear_is_refused_at_the_door(tmp_path, key, value, said):
    write_image(tmp_path / "a.sif")
    with pytest.raises(SpecError, match=said):
        resolve(load_spec(write_spec(tmp_path, **{"container__image": "a.sif", f"container__{key}": value})))


def test_ranks_are_not_left_outside_silently(tmp_path):
    write_image(tmp_path / "a.sif")
    done = ptycho("run", write_spec(tmp_path, container__image="a.sif", resources__executor="here"), cwd=tmp_path)
    assert done.returncode == 2 and "outside it already" in done.stderr


def test_a_path_that_apptainer_would_misread_is_refused(tmp_path, apptainer):
    odd = tmp_path / "a,b"
    odd.mkdir()
    write_image(odd / "a.sif")
    folder, job = make_run(odd, container__image="a.sif")
    with pytest.raises(RequestError, match="Rename it"):
        inside_text(folder.path, [job])


def test_a_dry_run_shows_the_script(tmp_path):
    write_image(tmp_path / "a.sif")
    spec = write_spec(tmp_path, container__image="a.sif", resources__executor="slurm")
    done = ptycho("submit", spec, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "/inside python3 -u -m submitit.core._submit" in done.stdout
    assert f"image={tmp_path}/a.sif" in done.stdout


def test_files_behind_links_are_found(tmp_path):
    far = tmp_path / "far"
    far.mkdir()
    with h5py.File(far / "frames.h5", "w") as file:
        file["frames"] = [1, 2, 3]
    layout = h5py.VirtualLayout(shape=(3,), dtype="i8")
    layout[:] = h5py.VirtualSource("far/frames.h5", "frames", shape=(3,))
    with h5py.File(tmp_path / "middle.h5", "w") as file:
        file.create_virtual_dataset("frames", layout)
    with h5py.File(tmp_path / "master.h5", "w") as file:
        file["entry/data/frames"] = h5py.ExternalLink("middle.h5", "frames")
        file["entry/nowhere"] = h5py.ExternalLink("gone.h5", "frames")
        file["entry/again"] = file["entry"]
    assert linked_files(tmp_path / "master.h5") == (far / "frames.h5", tmp_path / "middle.h5")
    (tmp_path / "text").write_text("x")
    assert linked_files(tmp_path / "text") == ()


@pytest.mark.slow
def test_ranks_run_inside_the_image_that_the_spec_names(tmp_path, apptainer):
    write_image(tmp_path / "a.sif")
    spec = write_spec(tmp_path, container__image="a.sif", container__environment=["PYTHONPATH"])
    done = ptycho("run", spec, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert f"{tmp_path}/a.sif python3 -u -m submitit.core._submit" in call
    assert RunFolder.newest(tmp_path / "runs").read_state()["status"] == "finished"


@pytest.mark.slow
def test_a_machine_without_torch_asks_the_image(tmp_path, apptainer, monkeypatch):
    write_image(tmp_path / "a.sif")
    spec = write_spec(
        tmp_path, job__engine="pinn", resources__executor="slurm", training__nphotons=1e6, refine__epochs=3,
        container__image="a.sif", container__environment=["PYTHONPATH"], model__gridsize=1,
    )  # fmt: skip
    expected, _ = resolve(load_spec(spec))
    monkeypatch.setattr("ptycho.jobs.resolve_inside.find_spec", lambda name: None)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    from ptycho.jobs.resolve_inside import resolve_anywhere

    job, scan = resolve_anywhere(load_spec(spec))
    assert job == expected
    assert scan.n_positions == 12
    bad = load_spec(
        spec, ["training.nphotons=1e6", "model.gridsize=3", "training.neighbor_count=10", "training.n_groups=999999"]
    )
    try:
        resolve(bad)
    except RequestError as error:
        with pytest.raises(type(error)) as raised:
            resolve_anywhere(bad)
        assert str(raised.value) == str(error)


def test_an_image_that_cannot_answer_is_quoted(tmp_path, monkeypatch):
    write_image(tmp_path / "a.sif")
    write_program(tmp_path / "bin", "apptainer", 'echo "FATAL: no loop devices" >&2; exit 255')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("ptycho.jobs.resolve_inside.find_spec", lambda name: None)
    from ptycho.jobs.resolve_inside import resolve_anywhere

    spec = load_spec(write_spec(tmp_path, job__engine="pinn", container__image="a.sif"))
    with pytest.raises(RequestError, match=r"could not be asked instead: FATAL: no loop devices"):
        resolve_anywhere(spec)
