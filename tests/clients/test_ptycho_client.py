"""The library PtychoPINN of ptychodus: every call of its releases, in a spawned child, with pickled configurations."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.clients import children
from tests.clients.client_files import client_scan, judge, write_standard_folder, write_training_npz
from tests.clients.ptychodus_configs import tf_inference, tf_model, tf_training

SMALL = {"n_filters_scale": 1}


@pytest.fixture(scope="module")
def scan():
    return client_scan(modes=2)


@pytest.fixture(scope="module")
def trained(scan, tmp_path_factory):
    """The folder with the model of a training from two exported files; nothing is written elsewhere."""
    folder = tmp_path_factory.mktemp("client")
    for name in ("train_data.npz", "test_data.npz"):
        write_training_npz(folder / name, scan)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    before = Path.cwd()
    os.chdir(elsewhere)
    try:
        config = tf_training(tf_model(gridsize=2, **SMALL), nepochs=2)
        path, scale = children.in_child(children.tf_train, config, folder, folder / "out")
    finally:
        os.chdir(before)
    assert path.is_file()
    assert scale > 0
    assert not list(elsewhere.iterdir())
    return folder / "out"


@pytest.mark.slow
def test_training_leaves_model_image_and_history(scan, trained):
    image = np.load(trained / "reconstruction.npz")
    assert image["amplitude"].shape == image["phase"].shape == scan.truth.shape
    story = json.loads((trained / "training.json").read_text())
    assert len(story["history"]) == 2
    assert story["backend"] == "pytorch"


@pytest.mark.slow
def test_reconstruction_is_registered_on_the_pixels_of_the_products_object(scan, trained):
    config = tf_inference(tf_model(N=32, gridsize=2))
    image = children.in_child(
        children.tf_reconstruct, config, trained, scan, scan.probe, np.ones(scan.truth.shape, np.complex64)
    )
    assert image.shape == scan.truth.shape
    assert np.iscomplexobj(image)
    correlation, shift, amplitude = judge(image, scan)
    assert correlation > 0.9
    assert shift < 0.25
    assert amplitude == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_releases_up_to_1_2_reconstruct_with_a_probe_of_two_axes(scan, trained, tmp_path):
    config = tf_inference(tf_model(N=32, gridsize=2))
    start = np.ones(scan.truth.shape, np.complex64)
    image = children.in_child(children.tf_reconstruct_1_2, config, trained, scan, scan.probe, start)
    assert judge(image, scan)[0] > 0.85


@pytest.mark.slow
def test_a_child_ends_when_it_is_asked_to_and_when_its_parent_is_killed(scan, tmp_path):
    write_training_npz(tmp_path / "train_data.npz", scan)
    context = multiprocessing.get_context("spawn")
    training = (children.train_without_end, tf_training(tf_model(**SMALL)), tmp_path)

    asked = context.Process(target=training[0], args=training[1:])
    asked.start()
    pids = context.Queue()
    parent = context.Process(target=_parent_of, args=(pids, *training))
    parent.start()
    orphan = pids.get(timeout=200)
    # Long enough for both to be in the middle of training on any machine; neither may depend on when it is met.
    time.sleep(20)
    asked.terminate()
    asked.join(timeout=10)
    assert asked.exitcode == -signal.SIGTERM
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    assert _gone_within(orphan, 30)


def test_batch_training_finds_the_scan_in_the_folder_that_ptychodus_stages(scan, tmp_path):
    from ptycho.raw_data import RawData

    write_standard_folder(tmp_path, scan)
    raw = RawData.from_file(tmp_path / "test_data.npz")
    assert raw.diff3d.shape == scan.counts.shape
    assert (np.asarray(raw.diff3d) == scan.counts).all()
    assert (raw.diff3d[3, 4:6] == scan.counts[3, 4:6]).all()
    assert raw.probeGuess.shape == scan.probe.shape
    # Index N // 2 of a window lies half a pixel beyond its middle.
    assert np.allclose(np.stack([raw.ycoords, raw.xcoords], 1), scan.middle_px + 0.5)


def test_an_exported_file_and_the_staged_folder_are_the_same_scan(scan, tmp_path):
    from ptycho.raw_data import RawData

    write_standard_folder(tmp_path / "staged", scan)
    staged = RawData.from_file(tmp_path / "staged" / "train_data.npz")
    exported = RawData.from_file(write_training_npz(tmp_path / "train_data.npz", scan))
    assert np.allclose(staged.xcoords, exported.xcoords)
    assert np.allclose(staged.probeGuess, exported.probeGuess)
    assert staged.objectGuess.shape == exported.objectGuess.shape


@pytest.mark.parametrize("modes", [1, 2])
@pytest.mark.parametrize("gridsize", [1, 2, 3])
def test_containers_scale_and_know_their_scan(modes, gridsize):
    import ptycho.loader
    from ptycho.raw_data import RawData

    scan = client_scan(side=4, modes=modes)
    probe = scan.probe if modes > 1 else scan.probe[0]
    y, x = scan.middle_px.T
    raw = RawData.from_coords_without_pc(
        xcoords=x, ycoords=y, diff3d=children.as_inpainted(scan.counts), probeGuess=probe,
        scan_index=np.zeros(len(x), int), objectGuess=np.ones(scan.truth.shape, np.complex64),
    )  # fmt: skip
    grouped = raw.generate_grouped_data(32, K=7, nsamples=1, gridsize=gridsize)
    container = ptycho.loader.load(lambda: grouped, probe, which=None, create_split=False)
    amplitudes = np.asarray(container.X * 2.0)
    assert amplitudes.shape == container.X.shape == (16, 32, 32, gridsize**2)
    # At any dose the mean square is 1/4, so the factor 2 makes it 1.
    assert np.square(amplitudes[..., 0]).mean() == pytest.approx(1, rel=1e-4)
    assert container.local_offsets.shape == (16, 1, 2, gridsize**2)
    assert np.allclose(container.global_offsets[:, 0, :, 0], scan.middle_px + 0.5)


def test_settings_that_cannot_be_followed_are_refused_in_one_sentence(scan, tmp_path):
    import ptycho.loader
    import ptycho.probe
    from ptycho.errors import DataError
    from ptycho.raw_data import RawData
    from ptycho.tf_helper import reassemble_position
    from ptycho.workflows.components import run_cdi_example

    raw = RawData.from_file(write_training_npz(tmp_path / "train_data.npz", scan))
    with pytest.raises(ValueError, match="positions_provided = False"):
        run_cdi_example(raw, None, tf_training(tf_model(N=32), positions_provided=False))
    with pytest.raises(DataError, match="N = 64, but the patterns are 32"):
        raw.generate_grouped_data(64)
    with pytest.raises(ValueError, match="create_split = True"):
        ptycho.loader.load(lambda: raw.generate_grouped_data(32), raw.probeGuess, None, True)
    with pytest.raises(ValueError, match="never guessed"):
        ptycho.probe.set_probe_guess(np.zeros(3), None)
    with pytest.raises(TypeError, match="ndarray given"):
        reassemble_position(np.zeros(3), None)
    with pytest.raises(DataError, match="several objects"):
        RawData.from_coords_without_pc([1, 2], [1, 2], scan.counts[:2], scan.probe, [0, 1])


def _parent_of(queue, function, *arguments):
    child = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    child.start()
    queue.put(child.pid)
    child.join()


def _gone_within(pid, seconds):
    """Whether the process ends in time; one that nobody waits for any more stays as a zombie."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.2)
    return False
