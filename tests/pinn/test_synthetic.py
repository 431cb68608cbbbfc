"""Training on random scenes: it learns, goes on where it stopped, does not depend on ranks, and its card says so."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from ptycho.config.config import ModelConfig, TrainingConfig
from ptycho.config.synthetic import SyntheticConfig
from ptycho.errors import CancelledError, ModelError
from ptycho.parallel import SerialRanks
from ptycho_torch.pinn.bundle import load_bundle, save_bundle
from ptycho_torch.pinn.card import ModelCard, probe_diameter
from ptycho_torch.pinn.synthetic import SyntheticDataModule
from ptycho_torch.pinn.training import train, train_on_scenes
from tests.pinn.pinn_scans import cpu, small_config, small_scan
from tests.thread_ranks import run_on_ranks

SCENES = SyntheticConfig(
    patch_sizes=(32,), objects=("field",), photons=(1e5, 1e6), frames_per_scene=4, batches_per_epoch=3,
    validation_batches=2,
)  # fmt: skip
CAREFUL = {"scheduler": "WarmupCosine", "lr_warmup_epochs": 1, "gradient_clip_val": 1.0}


def config(**changes):
    model = ModelConfig(
        N=32, n_filters_scale=1, max_hidden_channels=16, architecture="unrolled", model_type="supervised"
    )
    made = TrainingConfig(model=model, nepochs=2, batch_size=8)
    for name, value in changes.items():
        setattr(model if hasattr(model, name) else made, name, value)
    return made


def weights(model):
    return torch.cat([part.flatten() for part in model.network.generator.state_dict().values()])


@pytest.mark.slow
@pytest.mark.parametrize("gridsize", [1, 2])
def test_a_few_batches_already_beat_the_guess(gridsize):
    made = train_on_scenes(replace(SCENES, batches_per_epoch=20), config(gridsize=gridsize, **CAREFUL), cpu(), seed=1)
    assert made.metrics["loss"] < made.metrics["loss_guess"]
    assert made.metrics["loss"] < made.metrics["loss_constant"]


@pytest.mark.slow
def test_training_by_physics_alone_works_on_scenes_too():
    settings = config(model_type="pinn", **CAREFUL)
    made = train_on_scenes(replace(SCENES, batches_per_epoch=20), settings, cpu(), seed=1)
    assert made.metrics["deviance"] < made.metrics["deviance_guess"]


def test_a_stopped_training_goes_on_as_if_it_had_not(tmp_path):
    whole = train_on_scenes(SCENES, config(), cpu(), seed=4)
    asked = iter([False, False, False, True])
    with pytest.raises(CancelledError):
        train_on_scenes(
            SCENES, config(), cpu(), seed=4, checkpoint_dir=tmp_path, should_stop=lambda: next(asked, False)
        )
    resumed = train_on_scenes(SCENES, config(), cpu(), seed=4, checkpoint_dir=tmp_path)
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=1e-6)


def test_ranks_share_the_scenes_of_a_batch():
    def batch(ranks):
        data = SyntheticDataModule(SCENES, config(), cpu(), seed=2, ranks=ranks, device=torch.device("cpu"))
        return data.batch(3, 5, 1)

    alone = batch(SerialRanks())
    for size in (2, 3):
        parts = run_on_ranks(size, batch)
        counts = torch.cat([part.counts[part.share > 0] for part in parts])
        assert torch.equal(counts, alone.counts)
        assert sum(float(part.share.sum()) for part in parts) == pytest.approx(1)


def test_no_scene_is_seen_twice_and_validation_is_never_trained_on():
    data = SyntheticDataModule(SCENES, config(), cpu(), seed=2, ranks=SerialRanks(), device=torch.device("cpu"))
    batches = [data.batch(3, epoch, number) for epoch in (0, 1) for number in (0, 1)]
    batches += list(data.val_dataloader())
    sums = [float(batch.counts.sum()) for batch in batches]
    assert len(set(sums)) == len(sums)
    assert [float(batch.counts.sum()) for batch in data.val_dataloader()] == sums[4:]


def test_larger_frames_come_in_smaller_batches():
    scenes = replace(SCENES, patch_sizes=(32, 64))
    data = SyntheticDataModule(scenes, config(), cpu(), seed=2, ranks=SerialRanks(), device=torch.device("cpu"))
    assert [tuple(data.batch(3, 0, number).counts.shape) for number in (0, 1)] == [(8, 1, 32, 32), (2, 1, 64, 64)]


def test_the_card_goes_with_the_bundle_and_speaks_up(tmp_path):
    made = train_on_scenes(SCENES, config(nepochs=1), cpu())
    save_bundle(made, tmp_path)
    card = load_bundle(tmp_path).card
    assert card == made.card
    assert card.n_patterns == 3 * 8
    scan = small_scan(photons=1e5)
    fitting = made.with_probe(scan.probe)
    assert not [doubt for doubt in fitting.doubts(1e5) if "photons" in doubt]
    assert "10 photons fall on a frame, it was trained on 1e+05 to 1e+06" in " ".join(fitting.doubts(10.0))
    wide = made.with_probe(np.ones((1, 48, 48), np.complex64))
    text = " ".join(wide.doubts(1e5))
    assert "48 pixels wide, it was trained on 32" in text
    assert f"{probe_diameter(wide.probe):.2f} of the frame's width" in text


def test_a_model_of_one_scan_still_wants_its_own_size():
    scan = small_scan()
    made = train(scan, small_config(nepochs=1), cpu())
    assert made.card.trained_on == "scan"
    assert not made.doubts(1e5)
    with pytest.raises(ModelError, match="N = 32"):
        made.with_probe(np.ones((1, 48, 48), np.complex64))


def test_a_bundle_is_trained_on_from_its_own_weights():
    scan = small_scan()
    start = train_on_scenes(SCENES, config(nepochs=1), cpu())
    settings = config(nepochs=1, model_type="pinn")
    tuned = train(scan, settings, cpu(learning_rate=1e-9), start=start)
    torch.testing.assert_close(weights(tuned), weights(start), rtol=0, atol=1e-6)
    assert tuned.card.trained_on == "scan"


def test_a_start_of_another_shape_is_refused():
    start = train_on_scenes(SCENES, config(nepochs=1), cpu())
    with pytest.raises(ModelError, match="another generator"):
        train(small_scan(), config(model_type="pinn", architecture="cnn"), cpu(), start=start)


def test_a_card_survives_json():
    card = ModelCard.of_scenes(SCENES, 12)
    assert ModelCard.from_json(json.loads(json.dumps(asdict(card)))) == card
