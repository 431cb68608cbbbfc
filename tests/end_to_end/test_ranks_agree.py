"""One, two and four ranks make the same image, each from its own frames, in less memory the more they are."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ptycho.config.config import ModelConfig
from ptycho.config.refine import RefineConfig
from ptycho.config.simulate import SimulateConfig
from ptycho.data.sharding import hilbert_order
from ptycho_torch.phase_sync import neighbours_of
from ptycho_torch.pinn.network import PtychoNetwork
from ptycho_torch.pinn.trained import TrainedModel
from ptycho_torch.simulate import simulate_scan
from ptycho_torch.stages.network import stitch_scan
from ptycho_torch.stages.refinement import build_engine, owned_frames
from tests.end_to_end import whole_runs
from tests.thread_ranks import run_on_ranks


class CountingFrames:
    """Frames that remember which of them were read."""

    def __init__(self, frames):
        self._frames, self.read_indices = frames, set()

    shape = property(lambda self: self._frames.shape)
    dtype = property(lambda self: self._frames.dtype)

    def read(self, indices):
        self.read_indices |= {int(index) for index in indices}
        return self._frames.read(indices)


@pytest.fixture(scope="module")
def scan():
    return simulate_scan(SimulateConfig(n_positions=100, patch_size=32, step_px=4, jitter_px=1, seed=5))


@pytest.fixture(scope="module")
def model(scan):
    """A network whose weights are random, so that its patches are not simply the physics-made guess."""
    torch.manual_seed(0)
    counts = scan.frames.read(np.arange(scan.n_positions))
    network = PtychoNetwork(ModelConfig(N=32, n_filters_scale=1), scan.probe, float(counts.sum((1, 2)).mean()))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return TrainedModel(network)


@pytest.mark.parametrize("size", [2, 4])
def test_the_stitched_object_does_not_depend_on_the_number_of_ranks(scan, model, size):
    (alone,) = run_on_ranks(1, lambda ranks: stitch_scan(model, scan, ranks, torch.device("cpu")))
    together = run_on_ranks(size, lambda ranks: stitch_scan(model, scan, ranks, torch.device("cpu")))
    for image in together:
        assert whole_runs.relative_difference(image.object, alone.object) <= 1e-5
        np.testing.assert_allclose(image.per_frame["residual"], alone.per_frame["residual"], rtol=1e-4)


@pytest.mark.parametrize("size", [2, 4])
def test_the_refined_object_does_not_depend_on_the_number_of_ranks(scan, size):
    config = RefineConfig(epochs=8, batch_size=20)

    def refined(ranks):
        engine = build_engine(scan, config, ranks, torch.device("cpu"), seed=1)
        for epoch in range(1, config.epochs + 1):
            engine.run_epoch(epoch)
        return engine.object

    (alone,) = run_on_ranks(1, refined)
    # Ranks add their sums in another order than one rank does; eight epochs let that grow to a few parts in a million.
    # Each rank holds its tile; rank 0 is given the whole.
    assert whole_runs.relative_difference(run_on_ranks(size, refined)[0], alone) <= 1e-4


def test_a_rank_reads_its_own_frames_and_their_neighbours_only(scan, model):
    def touched(ranks):
        frames = CountingFrames(scan.frames)
        stitch_scan(model, replace(scan, frames=frames), ranks, torch.device("cpu"))
        return frames.read_indices, owned_frames(scan, ranks)

    parts = run_on_ranks(4, touched)
    for read, owned in parts:
        assert read == {*owned, *neighbours_of(owned, scan.positions_px, model.window)}
        assert len(read) < scan.n_positions
    assert sorted(np.concatenate([owned for _, owned in parts])) == list(range(scan.n_positions))


def test_an_engine_reads_each_frame_on_one_rank(scan):
    def touched(ranks):
        frames = CountingFrames(scan.frames)
        build_engine(replace(scan, frames=frames), RefineConfig(), ranks, torch.device("cpu"))
        return frames.read_indices

    parts = run_on_ranks(4, touched)
    assert sum(len(part) for part in parts) == scan.n_positions
    assert set.union(*parts) == set(hilbert_order(scan.positions_px).tolist())


@pytest.mark.slow
def test_peak_memory_of_a_rank_falls_with_the_number_of_ranks(tmp_path):
    # 2,400 frames of 128 × 128 are 157 MB as amplitudes. What a process needs besides differs by tens of MB from start
    # to start, hence the mean over ranks.
    whole_runs.simulate(tmp_path / "scan.h5", n_positions=2400, patch_size=128)

    def peak_mb(n_ranks):
        spec = whole_runs.write_spec(tmp_path, name=f"ranks-{n_ranks}", engine="rpie", epochs=1, ranks=n_ranks)
        run = whole_runs.finished_run(spec)
        return np.mean([json.loads(path.read_text())["peak_memory_mb"] for path in (run / "ranks").glob("*.json")])

    one, two, four = peak_mb(1), peak_mb(2), peak_mb(4)
    assert two < one - 50
    assert four < two - 25
