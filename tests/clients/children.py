"""What ptychodus does in its child processes: the calls of its releases, in their order, with their arguments.

Each function runs in a freshly spawned child and puts what came of it into a queue.
"""

import contextlib
import io
import multiprocessing
import traceback

import numpy as np


def in_child(function, *arguments, timeout_s=400):
    """What a function of this module puts into its queue, run as ptychodus does: a spawned child, pickled arguments."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_run, args=(queue, function, arguments))
    child.start()
    outcome, value = queue.get(timeout=timeout_s)
    child.join(timeout=60)
    assert child.exitcode == 0
    if outcome == "failed":
        raise AssertionError(value)
    return value


def _run(queue, function, arguments):
    # A client's terminal is not ours: what is printed would be lost, or stand in the way.
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            value = function(*arguments)
        queue.put(("failed", f"printed: {printed.getvalue()}") if printed.getvalue() else ("done", value))
    except BaseException:  # noqa: BLE001  # every failure has to reach the parent
        queue.put(("failed", traceback.format_exc()))


def tf_train(config, input_path, output_path):
    """Table B.1, training: the path that ptychodus records as the model, and its dictionary's scale."""
    import ptycho.model_manager
    import ptycho.params
    from ptycho.config.config import update_legacy_dict
    from ptycho.raw_data import RawData
    from ptycho.workflows.components import run_cdi_example, save_outputs

    test_raw = RawData.from_file(input_path / "test_data.npz")
    train_raw = RawData.from_file(input_path / "train_data.npz")
    size = train_raw.diff3d.shape[-1]
    assert train_raw.diff3d.shape[-2] == size
    config.model.N = size
    update_legacy_dict(ptycho.params.cfg, config)
    amplitude, phase, results = run_cdi_example(train_raw, test_raw, config)
    ptycho.model_manager.save(output_path)
    save_outputs(amplitude, phase, results, str(output_path))
    return output_path / "wts.h5.zip", ptycho.params.cfg["intensity_scale"]


def tf_reconstruct(config, model_dir, client, probe, start, gridsize_known=True):
    """Table B.1, reconstruction: the object. gridsize_known: whether the release passes gridsize (1.6 and later)."""
    import ptycho.loader
    import ptycho.params
    import ptycho.probe
    import ptycho.tf_helper
    from ptycho.config.config import update_legacy_dict
    from ptycho.raw_data import RawData
    from ptycho.workflows.components import load_inference_bundle

    update_legacy_dict(ptycho.params.cfg, config)
    model, _ = load_inference_bundle(model_dir)
    raw = RawData.from_coords_without_pc(
        xcoords=client.middle_px[:, 1],
        ycoords=client.middle_px[:, 0],
        diff3d=as_inpainted(client.counts),
        probeGuess=probe,
        scan_index=np.zeros(len(client.middle_px), dtype=int),
        objectGuess=start,
    )
    ptycho.probe.set_probe_guess(None, raw.probeGuess)
    more = {"gridsize": config.model.gridsize} if gridsize_known else {}
    grouped = raw.generate_grouped_data(config.model.N, K=7, nsamples=1, **more)
    container = ptycho.loader.load(lambda: grouped, raw.probeGuess, which=None, create_split=False)
    scale = ptycho.params.get("intensity_scale")
    patches = model.predict([container.X * scale, container.local_offsets])
    return np.squeeze(ptycho.tf_helper.reassemble_position(patches, container.global_offsets, M=20))


def tf_reconstruct_1_2(config, model_dir, client, probe, start):
    """The same as in releases 1.1 and 1.2: names that nobody imported, and the scale from another module."""
    import ptycho.loader
    import ptycho.model_manager
    import ptycho.params
    from ptycho.config.config import update_legacy_dict
    from ptycho.raw_data import RawData
    from ptycho.workflows.components import load_inference_bundle

    assert ptycho.loader.PtychoDataContainer
    model, _ = load_inference_bundle(model_dir)
    update_legacy_dict(ptycho.params.cfg, config)
    y, x = client.middle_px.T
    raw = RawData.from_coords_without_pc(
        xcoords=x, ycoords=y, diff3d=client.counts, probeGuess=probe[0], scan_index=np.zeros(len(x), dtype=int),
        objectGuess=start,
    )  # fmt: skip
    ptycho.probe.set_probe_guess(None, raw.probeGuess)
    grouped = raw.generate_grouped_data(config.model.N, K=7, nsamples=1)
    container = ptycho.loader.load(lambda: grouped, raw.probeGuess, which=None, create_split=False)
    import ptycho.model

    patches = model.predict([container.X * ptycho.model.params()["intensity_scale"], container.local_offsets])
    return np.squeeze(ptycho.tf_helper.reassemble_position(patches, container.global_offsets, M=20))


def torch_train(data, model, training, inference, datagen, input_path, output_path):
    """Table B.2, training: the path that ptychodus records as the model, and the losses of its callback."""
    from lightning.pytorch.callbacks import Callback

    from ptycho_torch.api.base_api import ConfigManager, DataloaderFormats, PtychoDataLoader, PtychoModel, Trainer
    from ptycho_torch.lightning_utils import find_best_checkpoint
    from ptycho_torch.model import PtychoPINN_Lightning

    class _Collector(Callback):
        def __init__(self, train_name, val_name):
            super().__init__()
            self.names, self.training, self.validation, self.epochs = (train_name, val_name), [], [], 0

        def on_train_epoch_end(self, trainer, pl_module):
            value = trainer.callback_metrics.get(self.names[0])
            if value is not None:
                self.training.append(float(value))
            self.epochs = trainer.current_epoch + 1

        def on_validation_epoch_end(self, trainer, pl_module):
            value = None if trainer.sanity_checking else trainer.callback_metrics.get(self.names[1])
            if value is not None:
                self.validation.append(float(value))

    training.n_devices = 1
    manager = ConfigManager(
        data_config=data,
        model_config=model,
        training_config=training,
        inference_config=inference,
        datagen_config=datagen,
    )
    loader = PtychoDataLoader(
        data_dir=input_path,
        config_manager=manager,
        data_format=DataloaderFormats("lightning_only_module"),
        output_dir=output_path,
    )
    new = PtychoModel._new_model(model=PtychoPINN_Lightning, config_manager=manager)
    trainer = Trainer._from_lightning(model=new, dataloader=loader, orchestration="lightning", config_manager=manager)
    collector = _Collector(new.model.loss_name, new.model.val_loss_name)
    trainer._trainer.callbacks.append(collector)
    trainer.train(orchestration="lightning", experiment_name="")
    found = find_best_checkpoint(loader.output_dir)
    return found, collector.training, collector.validation, collector.epochs


def torch_reconstruct(path, client, probe):
    """Table B.2, reconstruction: the object, and the mode of the model."""
    from ptycho_torch.api.base_api import ConfigManager, InferenceEngine, PtychoDataLoader, PtychoModel
    from ptycho_torch.model import PtychoPINN_Lightning

    data, model, training, inference = PtychoModel._extract_configs_from_checkpoint(str(path))
    configs = {
        "model_config": model, "data_config": data, "training_config": training, "inference_config": inference,
    }  # fmt: skip
    loaded = PtychoModel(**configs)
    loaded.model = PtychoPINN_Lightning.load_from_checkpoint(path, **configs)
    manager = ConfigManager.from_loaded_model(loaded)
    manager.validate_arch_compatibility(loaded)
    engine = InferenceEngine(config_manager=manager, ptycho_model=loaded)
    loader = PtychoDataLoader.from_np(
        diff_patterns=as_inpainted(client.counts), probe=probe, positions=client.middle_px, config_manager=manager
    )
    return np.asarray(engine.predict_and_stitch(loader)), manager.model_config.mode


def train_without_end(config, input_path):
    """A training that goes on until it is stopped from outside."""
    from ptycho.raw_data import RawData
    from ptycho.workflows.components import run_cdi_example

    raw = RawData.from_file(input_path / "train_data.npz")
    config.model.N, config.nepochs = raw.diff3d.shape[-1], 10**6
    run_cdi_example(raw, None, config)


def as_inpainted(counts):
    """The same counts in the memory order that inpainting of bad pixels leaves: the position is the fastest axis."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(counts, 0, -1)), -1, 0)
