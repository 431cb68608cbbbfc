"""Both recipes build the same thing, and the scripts around them do what they say, without Apptainer."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTAINERS = ROOT / "containers"
RECIPES = [ROOT / "Apptainer.def", CONTAINERS / "cpu.def"]
SCRIPTS = sorted(CONTAINERS.glob("*.sh"))
SHARED = ["files", "post", "environment", "runscript", "test", "labels", "help"]


def sections(recipe: Path) -> dict[str, str]:
    """Name of each section, "header" for what comes before the first, and its text."""
    header, *parts = re.split(r"^%", recipe.read_text(), flags=re.MULTILINE)
    return {"header": header} | dict(re.match(r"(\w+)\n(.*)", part, flags=re.DOTALL).groups() for part in parts)


def test_recipes_differ_in_header_and_arguments_only():
    production, cpu = map(sections, RECIPES)
    assert list(production) == list(cpu) == ["header", "arguments", *SHARED]
    for name in SHARED:
        assert production[name] == cpu[name], name


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_every_argument_is_declared_and_used(recipe):
    declared = re.findall(r"^ +(\w+)=", sections(recipe)["arguments"], flags=re.MULTILINE)
    used = re.findall(r"\{\{ (\w+) \}\}", recipe.read_text())
    assert sorted(declared) == sorted(set(used))


def test_every_file_of_the_recipes_exists_and_is_given_to_the_build():
    given = (CONTAINERS / "build.sh").read_text()
    for line in sections(RECIPES[0])["files"].split("\n"):
        if line.strip():
            source, target = line.split()
            assert (ROOT / source).exists() and target == f"/opt/ptycho-source/{source}"
            assert Path(source).name in given


@pytest.mark.parametrize("path", [*RECIPES, *SCRIPTS], ids=lambda path: path.name)
def test_no_recipe_or_script_holds_an_address_of_packages(path):
    addresses = re.findall(r"https?://([^/\s]+)", path.read_text())
    assert set(addresses) <= {"download.pytorch.org"}


def test_install_touches_nothing_that_the_machine_shares_with_a_build():
    # Apptainer shows the machine's /tmp, /var/tmp and home folder in %post: what is deleted there is gone.
    code = [line for line in (CONTAINERS / "install.sh").read_text().split("\n") if not line.startswith("#")]
    assert not re.search(r"/tmp\b(?<!SOURCE/tmp)|/root\b|\$HOME\b|~", "\n".join(code))


def test_install_refuses_to_run_outside_a_build():
    done = subprocess.run(["bash", CONTAINERS / "install.sh", "lock", "none", "x"], capture_output=True, text=True)
    assert done.returncode == 2 and "containers/build.sh" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_have_no_syntax_errors(script):
    assert subprocess.run(["bash", "-n", script]).returncode == 0


@pytest.fixture
def programs(tmp_path):
    """A PATH with a few of this machine's programs and none that runs containers."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "realpath", "dirname", "readlink", "sed", "cat", "env"):
        (folder / name).symlink_to(subprocess.check_output(["which", name], text=True).strip())
    return folder


def wrapper(programs, *words, script=CONTAINERS / "apptainer.sh"):
    environment = {"PATH": str(programs), "PTYCHO_CONTAINER_DIR": str(programs.parent / "state")}
    return subprocess.run([script, *words], env=environment, capture_output=True, text=True, timeout=20)


def stand_in(programs, name):
    program = programs / name
    program.write_text(f'#!/usr/bin/env bash\necho {name} "$@"\n')
    program.chmod(0o755)


@pytest.mark.parametrize("name", ["apptainer", "singularity"])
def test_wrapper_prefers_the_machines_own_program(programs, name):
    stand_in(programs, name)
    assert wrapper(programs, "exec", "a b.sif", "true").stdout == f"{name} exec a b.sif true\n"


def test_wrapper_called_apptainer_does_not_call_itself(programs):
    (programs / "apptainer").symlink_to(CONTAINERS / "apptainer.sh")
    stand_in(programs, "singularity")
    assert wrapper(programs, "version", script=programs / "apptainer").stdout == "singularity version\n"


def test_wrapper_says_how_to_get_apptainer(programs):
    done = wrapper(programs, "version")
    assert done.returncode == 2
    assert "This machine has no apptainer" in done.stderr
    assert not (programs.parent / "state").exists()
