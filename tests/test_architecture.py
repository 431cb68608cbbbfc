"""The rules of the house that a machine can check: who may import whom, how long a file is, what is free to import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "ptycho").rglob("*.py"), *(ROOT / "ptycho_torch").rglob("*.py")])

# Each room may import itself and the rooms listed; ptycho.errors and ptycho.whole_file are open to all.
MAY_IMPORT = {
    "ptycho.config": {"ptycho.params"},
    "ptycho.params": set(),
    "ptycho.metadata": {"ptycho.config", "ptycho.data"},
    "ptycho.parallel": set(),
    "ptycho.data": set(),
    "ptycho.evaluation": {"ptycho.data"},
    "ptycho.report": {"ptycho.data", "ptycho.evaluation"},
    "ptycho.workflows": {"ptycho.config", "ptycho.params", "ptycho.raw_data", "ptycho.model_manager"},
    "ptycho.jobs": {"ptycho.config", "ptycho.data", "ptycho.parallel", "ptycho.report", "ptycho.evaluation"},
    "ptycho.cli": {
        "ptycho.config", "ptycho.data", "ptycho.evaluation", "ptycho.jobs", "ptycho.metadata", "ptycho.parallel",
        "ptycho.report",
    },
    "ptycho_torch.ranks": {"ptycho.parallel"},
    "ptycho_torch.physics": {"ptycho.data"},
    "ptycho_torch.generators": {"ptycho.config"},
    "ptycho_torch.simulate": {"ptycho_torch.physics", "ptycho.config", "ptycho.data"},
    "ptycho_torch.stitching": {"ptycho_torch.physics", "ptycho.data", "ptycho.parallel"},
    "ptycho_torch.phase_sync": {"ptycho_torch.physics", "ptycho.data", "ptycho.parallel"},
    "ptycho_torch.engines": {"ptycho_torch.physics", "ptycho.config", "ptycho.data", "ptycho.parallel"},
    "ptycho_torch.pinn": {
        "ptycho_torch.device", "ptycho_torch.generators", "ptycho_torch.physics", "ptycho_torch.ranks",
        "ptycho_torch.simulate", "ptycho.config", "ptycho.data", "ptycho.parallel",
    },
    "ptycho_torch.config_params": {"ptycho.config"},
    "ptycho_torch.config_bridge": {"ptycho_torch.config_params", "ptycho.config"},
    "ptycho_torch.config_factory": {
        "ptycho_torch.config_params", "ptycho_torch.config_bridge", "ptycho.config", "ptycho.params",
        "ptycho.metadata", "ptycho.data",
    },
}  # fmt: skip


def room_of(module: str) -> str:
    """The top-level room of a dotted module name: its first two parts."""
    return ".".join(module.split(".")[:2])


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.level:
                raise AssertionError(f"{path}: relative import; rooms are named in full")
            found.add(node.module)
            if node.module in ("ptycho", "ptycho_torch"):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    room = room_of(module_name(path))
    if room not in MAY_IMPORT:
        # Stages and older programs' doors sit on top and may use every room below.
        return
    allowed = {room, "ptycho.errors", "ptycho.whole_file", "ptycho", "ptycho_torch", *MAY_IMPORT[room]}
    ours = {room_of(name) for name in imported_modules(path) if name.split(".")[0] in ("ptycho", "ptycho_torch")}
    assert ours <= allowed, f"{room} must not import {sorted(ours - allowed)}"


@pytest.mark.parametrize("path", sorted((ROOT / "ptycho").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_ptycho_needs_no_torch(path):
    heavy = {name.split(".")[0] for name in imported_modules(path)} & {"torch", "lightning", "ptycho_torch"}
    assert not heavy


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_noun(path):
    assert path.stem not in {"utils", "helpers", "common", "misc"}
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_definition_has_a_docstring(path):
    tree = ast.parse(path.read_text())
    bare = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and ast.get_docstring(node) is None
    ]
    assert not bare


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_ptycho_loads_nothing_heavy():
    heavy = {"torch", "lightning", "mpi4py", "matplotlib", "scipy", "h5py", "submitit", "pydantic"}
    assert not loaded_after("import ptycho") & heavy
    assert not loaded_after("import ptycho.config.config") & heavy
