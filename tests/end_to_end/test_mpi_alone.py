"""Reconstruction and refinement under mpirun need nothing of torch.distributed."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from ptycho.config.config import ModelConfig
from ptycho.data.formats import open_scan
from ptycho.data.image import read_image
from ptycho.jobs.resolve import open_job_scan
from ptycho.jobs.resolved_job import ResolvedJob
from ptycho.parallel import SerialRanks
from ptycho_torch.pinn.bundle import load_bundle, save_bundle
from ptycho_torch.pinn.network import PtychoNetwork
from ptycho_torch.pinn.trained import TrainedModel
from ptycho_torch.stages.network import stitch_scan
from ptycho_torch.stages.refinement import build_engine
from tests.end_to_end import whole_runs
from tests.requirements import require

pytestmark = [pytest.mark.mpi, pytest.mark.slow]

MPI_VARIABLES = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
}

# The command in a process where torch's process group cannot be had.
PROGRAM = """
import torch.distributed as distributed
def refuse(*arguments, **options):
    raise AssertionError("torch's process group was started")
distributed.init_process_group = distributed.TCPStore = refuse
from ptycho.cli.main import main
main()
"""


def save_random_model(scan, folder):
    """A network that nobody trained: what its patches look like does not matter here."""
    torch.manual_seed(0)
    photons = float(scan.frames.read(np.arange(scan.n_positions)).sum((1, 2)).mean())
    network = PtychoNetwork(ModelConfig(N=scan.patch_size, gridsize=1, n_filters_scale=1), scan.probe, photons)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    save_bundle(TrainedModel(network), folder)


def test_a_trained_model_is_applied_and_refined_by_mpi_alone(tmp_path):
    whole_runs.simulate(tmp_path / "scan.h5", n_positions=72, patch_size=32, step_px=4, jitter_px=1)
    save_random_model(open_scan(tmp_path / "scan.h5"), tmp_path / "model")
    spec = whole_runs.write_spec(tmp_path)
    mpirun = [require("mpirun"), "--oversubscribe", "-n", "2", sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        [*mpirun, "run", str(spec), "--set", f"model.bundle={tmp_path / 'model'}"],
        cwd=tmp_path, env=whole_runs.environment() | MPI_VARIABLES, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    run = whole_runs.only_run(spec)
    state = json.loads((run / "state.json").read_text())
    assert (state["status"], state["n_ranks"]) == ("finished", 2)

    job = ResolvedJob.read(run / "resolved.json")
    scan = open_job_scan(job.data)
    model = load_bundle(tmp_path / "model").with_probe(scan.probe, scan.mask)
    alone = stitch_scan(model, scan, SerialRanks(), torch.device("cpu"))
    together = read_image(run / "network.h5")
    assert whole_runs.relative_difference(together.object, alone.object) <= 1e-5
    engine = build_engine(scan, job.refine, SerialRanks(), torch.device("cpu"), start=together, seed=job.seed)
    for epoch in range(1, job.refine.epochs + 1):
        engine.run_epoch(epoch)
    refined = read_image(run / "refined.h5")
    assert whole_runs.relative_difference(refined.object, engine.object) <= 1e-4
