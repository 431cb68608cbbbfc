from pathlib import Path

import pytest

from ptycho.errors import RequestError, SpecError
from ptycho.jobs.scan_patterns import distinct_names
from ptycho.jobs.spec import load_spec, parse_spec

MINIMAL = '[job]\nengine = "rpie"\n\n[data]\nscan = "scan.h5"\n'


def problems(text, *overrides):
    with pytest.raises(SpecError) as caught:
        parse_spec(text, overrides=overrides)
    return caught.value.problems


def test_engine_and_scan_are_enough():
    spec = parse_spec(MINIMAL)
    assert spec.job.engine == "rpie"
    assert spec.sources == {"data.scan": "spec", "job.engine": "spec"}
    assert (spec.training, spec.model, spec.refine, spec.execution) == ({}, {}, {}, {})


def test_paths_start_at_the_spec_file_and_overridden_ones_where_the_user_is(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    spec = tmp_path / "job.toml"
    spec.write_text('[data]\nscan = "scan.h5"\nmask = "mask.npy"\n[model]\nbundle = "model"\n')
    monkeypatch.chdir(tmp_path / "here")
    loaded = load_spec(spec, ["data.mask=other.npy"])
    assert Path(loaded.data.scan) == tmp_path / "scan.h5"
    assert Path(loaded.data.mask) == tmp_path / "here" / "other.npy"
    assert loaded.bundle == tmp_path / "model"


@pytest.mark.parametrize(
    ("line", "table", "expected"),
    [
        ("batch_size = 0", "training", "training.batch_size = 0: must be at least 1."),
        ("epocs = 3", "training", 'training.epocs: there is no such key. Did you mean "nepochs"?'),
        (
            "learning_rate = 1e-3",
            "training",
            "training.learning_rate: there is no such key. It belongs below [refine] or [execution].",
        ),
        ('batch_size = "16"', "training", 'training.batch_size = "16": must be a whole number.'),
        ("nepochs = 2.5", "training", "training.nepochs = 2.5: must be a whole number."),
        ("object_big = 1", "model", "model.object_big = 1: must be true or false."),
        ('architecture = "cn"', "model", 'Did you mean "cnn"?'),
        ("adam_beta1 = 1.0", "training", "training.adam_beta1 = 1.0: must be less than 1."),
        ("learning_rate = 0", "execution", "execution.learning_rate = 0: must be more than 0."),
        ("recon_log_fixed_indices = [1, 'a']", "execution", 'execution.recon_log_fixed_indices[1] = "a": must be'),
        (
            "persistent_workers = true",
            "execution",
            "execution.persistent_workers = true: there are no loading processes",
        ),
        ("epochs = 0", "refine", "refine.epochs = 0: must be at least 1."),
        ('engine = "epie"', "refine", 'refine.engine = "epie": job.engine is "rpie".'),
        ('bundle = "model"', "model", 'model.bundle: engine "rpie" uses no network.'),
        ('executor = "slrum"', "resources", 'Did you mean "slurm"?'),
        ("gridsize = 3", "model", "training.neighbor_count = 4: a group of model.gridsize = 3"),
        ("N = 64", "model", "model.N: there is no such key."),
    ],
)
def test_a_wrong_key_is_named_with_its_path_value_and_expectation(line, table, expected):
    found = problems(MINIMAL + f"[{table}]\n{line}\n")
    assert len(found) == 1
    assert expected in found[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[job]\nengine = "pin"\n[data]\nscan = "a"',
            'job.engine = "pin": must be one of "pinn", "rpie", "epie", "mpie", "dm", "raar", "lsqml",',
        ),
        ('[job]\nname = "a b"\n[data]\nscan = "a"', "made of letters, digits"),
        ("[job]\nseed = 1", "data.scan: missing."),
        ('[data]\nscan = "a"\nscans = ["b"]', "only one of them"),
        ('[trainig]\nnepochs = 1\n[data]\nscan = "a"', "[trainig]: there is no such table. Did you mean [training]?"),
        ('scan = "a"', "Write it below [data]."),
        ('training = 3\n[data]\nscan = "a"', "training = 3: must be a table: [training]."),
        ("[data]\nscan = a.h5", "line 2: 'scan = a.h5' is not TOML"),
        ("[data\n", "line 1"),
    ],
)
def test_a_wrong_spec_is_explained(text, expected):
    assert any(expected in problem for problem in problems(text)), problems(text)


def test_all_problems_come_at_once():
    text = '[job]\nseed = -1\nengine = "x"\n[data]\nscna = "a"\n'
    text += "[training]\nbatch_size = 0\nnepochs = 0\n[refine]\nalpha = 2.0\n"
    paths = {problem.partition(" ")[0].rstrip(":") for problem in problems(text)}
    assert paths == {
        "job.seed", "job.engine", "data.scna", "data.scan", "training.batch_size", "training.nepochs", "refine.alpha",
    }  # fmt: skip


def test_overrides_are_toml_or_plain_text_and_are_remembered_as_overrides():
    spec = parse_spec(
        MINIMAL,
        overrides=["training.nepochs=5", "training.scheduler=Exponential", "job.name=2024", "refine.alpha = 0.5"],
    )
    assert spec.training == {"nepochs": 5, "scheduler": "Exponential"}
    assert spec.job.name == "2024"
    assert spec.refine == {"alpha": 0.5}
    assert spec.sources["training.nepochs"] == "override"
    assert spec.sources["job.engine"] == "spec"


def test_overrides_are_checked_like_the_spec():
    assert problems(MINIMAL, "training.nepochs=0") == ["training.nepochs = 0: must be at least 1."]
    assert "Did you mean training.nepochs=5?" in problems(MINIMAL, "nepochs=5")[0]
    assert "must be table.key=value" in problems(MINIMAL, "nonsense")[0]


def test_numbers_of_toml_are_numbers():
    assert parse_spec(MINIMAL + "[training]\nnphotons = 1e6\n").training["nphotons"] == 1e6
    assert parse_spec(MINIMAL + "[training]\nnphotons = 1_000\n").training["nphotons"] == 1000


def test_patterns_name_one_scan_or_a_series(tmp_path):
    text = "[data]\nscans = ['scan_*.h5']\n[job]\nengine = 'rpie'\nname = 'beamtime'\n"
    path = tmp_path / "job.toml"
    with pytest.raises(RequestError, match="no file in"):
        parse_spec(text, path=path)
    (tmp_path / "scan_1.h5").touch()
    alone = parse_spec(text, path=path)
    assert (alone.data.scan, alone.is_series) == (str(tmp_path / "scan_1.h5"), False)
    (tmp_path / "scan_2.h5").touch()
    series = parse_spec(text.replace("*.h5'", "*.h5', 'missing.h5'"), path=path)
    assert series.is_series
    assert [scan.name for scan in series.scans] == ["missing.h5", "scan_1.h5", "scan_2.h5"]
    one = series.for_scan(series.scans[1])
    assert (one.data.scan, one.job.name, one.is_series) == (str(tmp_path / "scan_1.h5"), None, False)


def test_a_network_for_several_scans_is_trained_on_one_that_the_user_names(tmp_path):
    text = "[data]\nscans = ['a.h5', 'b.h5']\n"
    assert 'name the scan that it is trained on (train = "a.h5")' in problems(text)[0]
    assert parse_spec(text + "train = 'c.h5'\n", path=tmp_path / "job.toml").data.train == str(tmp_path / "c.h5")
    assert parse_spec(text + "[model]\nbundle = 'wts.h5.zip'\n").is_series
    assert "only one of them" in problems(text + "train = 'c.h5'\n[model]\nbundle = 'wts.h5.zip'\n")[0]
    assert "uses no network" in problems(text + "train = 'c.h5'\n[job]\nengine = 'rpie'\n")[0]
    assert "Train such a network first" in problems(text + "source = 'synthetic'\n")[0]
    assert "only for several scans" in problems("[data]\nscan = 'a.h5'\ntrain = 'c.h5'\n")[0]


def test_scans_get_names_that_tell_them_apart():
    paths = [Path("/d/one/scan 1.h5"), Path("/d/two/scan 1.h5"), Path("/d/other.h5"), Path("/d/other.cxi")]
    assert distinct_names(paths) == ["one-scan-1", "two-scan-1", "d-other", "d-other-cxi-3"]


def test_a_missing_spec_names_the_closest_file(tmp_path):
    (tmp_path / "siemens.toml").touch()
    with pytest.raises(RequestError, match=r"Did you mean .*siemens\.toml"):
        load_spec(tmp_path / "simens.toml")


def test_a_scan_given_as_spec_is_recognised(tmp_path):
    (tmp_path / "scan.h5").write_bytes(b"\x89HDF\r\n\xff\xfe")
    with pytest.raises(RequestError, match="not a text file"):
        load_spec(tmp_path / "scan.h5")


def test_random_scenes_need_no_scan_but_a_network():
    spec = parse_spec('[data]\nsource = "synthetic"\n[synthetic]\npatch_sizes = [64, 128]')
    assert spec.data.scan is None
    assert spec.synthetic == {"patch_sizes": (64, 128)}
    with pytest.raises(SpecError, match=r'engine "rpie" trains no network'):
        parse_spec('[job]\nengine = "rpie"\n[data]\nsource = "synthetic"')
    with pytest.raises(SpecError, match=r'the table is for data.source = "synthetic"'):
        parse_spec('[data]\nscan = "a.h5"\n[synthetic]\nphotons = [1e3, 1e4]')
    with pytest.raises(SpecError, match=r"synthetic.photons = .*both between 1 and"):
        parse_spec('[data]\nsource = "synthetic"\n[synthetic]\nphotons = [0.0, 1e4]')
