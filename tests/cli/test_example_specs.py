"""Every spec in jobs/ passes `ptycho check`, once the files that it stands for are there."""

import pytest

from ptycho.cli.main import main
from ptycho.data.formats import open_scan
from ptycho_torch.pinn.bundle import save_bundle
from ptycho_torch.pinn.network import PtychoNetwork
from ptycho_torch.pinn.trained import TrainedModel
from tests.jobs.small_runs import ROOT
from tests.pinn.pinn_scans import small_config

STAR = ROOT / "jobs" / "data" / "siemens-star.h5"
SPECS = sorted((ROOT / "jobs").glob("*.toml"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A model that takes the star's frames."""
    scan = open_scan(STAR)
    network = PtychoNetwork(small_config(size=scan.patch_size).model, scan.probe, 1e5, scan.mask)
    return save_bundle(TrainedModel(network.eval(), {}, []), tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name)
def test_every_example_spec_passes_check(path, bundle, capsys):
    stands_for = {
        "apply-model.toml": [f"data.scan={STAR}", f"model.bundle={bundle}"],
        "simulated.toml": [f"data.scan={STAR}"],
    }
    overrides = [word for one in stands_for.get(path.name, []) for word in ("--set", one)]
    with pytest.raises(SystemExit) as ended:
        main(["check", str(path), "--no-axes", *overrides])
    told = capsys.readouterr()
    assert (ended.value.code or 0) == 0, told.err
    assert "valid" in told.out


def test_the_examples_are_those_that_were_looked_at():
    assert [path.stem for path in SPECS] == ["apply-model", "demo", "iterative", "pretrain", "series", "simulated"]
