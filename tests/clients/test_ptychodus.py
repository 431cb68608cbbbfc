"""ptychodus itself, as it comes from the package index and without a window, with this package as its engine."""

import json
import os
import subprocess
from pathlib import Path

import h5py
import pytest

from tests.clients.client_files import client_scan, judge, write_standard_folder
from tests.requirements import cannot_run

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).with_name("ptychodus_driver.py")
VARIABLE = "PTYCHO_TESTS_PTYCHODUS_PYTHON"

OLDER = ("1.2", "1.3.2", "1.4.2", "1.5.1", "1.6.0")
# Everything else keeps the default of ptychodus.
SETTINGS = {
    "ptychopinn_pinn": "[PtychoPINNTraining]\nNumEpochs = 4\n",
    "ptychopinn-torch_unsupervised": "[PtychoPINNTorchTraining]\nepochs = 1\n",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "model_name"), [("ptychopinn_pinn", "model.zip"), ("ptychopinn-torch_unsupervised", "model.ckpt")]
)
def test_batch_training_saving_reloading_and_reconstructing(tmp_path, algorithm, model_name):
    scan = client_scan(side=10, n=90, photons=3e5)
    write_standard_folder(tmp_path, scan)
    (tmp_path / "settings.ini").write_text(f"[Processing]\nAlgorithm = {algorithm}\n{SETTINGS[algorithm]}")

    done = drive(tmp_path, "batch", tmp_path, model_name)

    assert done["exit_codes"] == [0, 0]
    assert done["ptychopinn_reconstructor_library"] == ["PINN", "Supervised"]
    assert done["ptychopinn_torch_reconstructor_library"] == ["Unsupervised", "Supervised"]

    assert (tmp_path / model_name).is_file()
    (product,) = (tmp_path / "reconstructed").glob("product*.h5")
    with h5py.File(product) as after, h5py.File(tmp_path / "product.h5") as before:
        image = after["object"][0]
        assert after["object"].shape == before["object"].shape
        for name, value in before["object"].attrs.items():
            assert after["object"].attrs[name] == pytest.approx(value)
    correlation, shift, amplitude = judge(image, scan)
    assert correlation > 0.9
    assert shift < 0.25
    assert amplitude == pytest.approx(1, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("release", OLDER)
def test_older_releases_start_and_find_the_reconstructors(tmp_path, release):
    found = drive(tmp_path, "libraries", release=release)
    assert found["ptychopinn_reconstructor_library"] == ["PINN", "Supervised"]
    # Release 1.2 has no such library.
    torch_names = [] if release == "1.2" else ["Unsupervised", "Supervised"]
    assert found["ptychopinn_torch_reconstructor_library"] == torch_names


def drive(home, *arguments, release=None):
    """What the driver prints, in an empty home folder."""
    python = os.environ.get(VARIABLE, "")
    if not Path(python).is_file():
        cannot_run("ptychodus", f"ptychodus is not installed (see .ci/ptychodus; {VARIABLE} names its Python)")
    paths = [str(ROOT)]
    if release:
        older = Path(python).parents[2] / release
        if not older.is_dir():
            cannot_run("ptychodus", f"ptychodus {release} is not installed (see .ci/ptychodus)")
        paths.insert(0, str(older))
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [python, str(DRIVER), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
