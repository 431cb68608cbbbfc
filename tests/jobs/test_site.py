"""Site profiles: values that hold where the spec says nothing."""

from pathlib import Path

import pytest

from ptycho.errors import SpecError
from ptycho.jobs.spec import load_spec
from tests.jobs.small_runs import ROOT, write_spec

PROFILES = sorted((ROOT / "jobs" / "sites").glob("*.toml"))


def write_site(folder, text, name="ours"):
    (folder / "sites").mkdir(exist_ok=True)
    (folder / "sites" / f"{name}.toml").write_text(text)


def test_the_profile_gives_what_the_spec_leaves_out(tmp_path):
    write_site(tmp_path, '[resources]\nexecutor = "slurm"\nnodes = 4\nqos = "q"\n[container]\nimage = "a.sif"\n')
    spec = load_spec(write_spec(tmp_path, resources__site="ours", resources__nodes=2), ["resources.qos=fast"])
    assert (spec.resources.executor, spec.resources.nodes, spec.resources.qos) == ("slurm", 2, "fast")
    told = {key: spec.sources[f"resources.{key}"] for key in ("executor", "nodes", "qos", "site")}
    assert told == {"executor": "site", "nodes": "spec", "qos": "override", "site": "spec"}
    # A path in a profile starts at the profile.
    assert spec.container.image == str(tmp_path / "sites" / "a.sif")


def test_the_profile_is_also_found_in_the_home_folder_and_by_its_path(tmp_path, monkeypatch):
    home = tmp_path / "config" / "ptycho"
    home.mkdir(parents=True)
    write_site(home, "[resources]\nnodes = 3\n", "mine")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    spec = write_spec(tmp_path)
    for name in ("mine", home / "sites" / "mine.toml"):
        assert load_spec(spec, [f"resources.site={name}"]).resources.nodes == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[data]\ncrop_px = 8\n", r"holds \[data\]"),
        ('[resources]\nsite = "other"\n', "holds resources.site"),
        ("[resources\n", "cannot be read as TOML"),
        ("[resources]\nnode = 1\n", 'Did you mean "nodes"'),
    ],
)
def test_what_is_no_profile_is_refused(tmp_path, text, sentence):
    write_site(tmp_path, text)
    with pytest.raises(SpecError, match=sentence):
        load_spec(write_spec(tmp_path, resources__site="ours"))


def test_a_misspelt_name_is_answered_with_the_nearest(tmp_path):
    write_site(tmp_path, "")
    with pytest.raises(SpecError, match='Did you mean "ours"'):
        load_spec(write_spec(tmp_path, resources__site="our"))


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_the_profiles_that_we_ship_are_valid_and_for_slurm(tmp_path, profile: Path):
    spec = load_spec(write_spec(tmp_path), [f"resources.site={profile}"])
    assert spec.resources.executor == "slurm"
