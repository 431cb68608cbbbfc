"""Opens damaged and hostile copies of a sample and says how that went; run as a process of its own.

python -m tests.data.fuzzing SAMPLE FIRST STOP FOLDER [guarded]: a line with its number before each file, one of JSON
after it. A file may be opened, or refused by a DataError. Whatever else happens ends the process, and its number is the
last line. Unless guarded, files are not tried in a child process first, which takes most of the time: of the few that
end the process by crashing the HDF5 library, or by making it loop, the caller finds out whether the guard refuses them.
"""

import json
import os
import pickle
import resource
import shutil
import signal
import sys
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np

from ptycho.data import formats, trial
from ptycho.errors import DataError
from tests.data.format_samples import SAMPLES

HUGE = (2**40, 2**20, 2**20)
# What the reader may use beside what it needs for the sample itself.
MEMORY_LIMIT_BYTES = 2**30
# Of these files none needs a tenth of that, unless the HDF5 library loops.
CPU_LIMIT_S = 1


class Touches:
    """What a pickle in a hostile file does when someone loads it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def damage_bytes(path, rng):
    """Truncate, flip, clear, repeat or cut out bytes anywhere in the file."""
    content = bytearray(path.read_bytes())
    size = max(1, len(content))
    start = int(rng.integers(size))
    length = int(rng.integers(1, min(size, 4096) + 1))
    kind = rng.integers(6)
    if kind == 0:
        del content[start:]
    elif kind == 1:
        for at in rng.integers(size, size=rng.integers(1, 30)):
            content[at] = int(rng.integers(256))
    elif kind == 2:
        # Where formats keep their tables: at the beginning.
        for at in rng.integers(min(size, 2048), size=rng.integers(1, 10)):
            content[at] = int(rng.integers(256))
    elif kind == 3:
        content[start : start + length] = bytes([int(rng.choice([0, 255]))]) * length
    elif kind == 4:
        content[start:start] = content[start : start + length]
    else:
        del content[start : start + length]
    path.write_bytes(bytes(content))


def strange_values(shape, dtype, rng):
    """Something that an array of that shape should not be."""
    kind = rng.integers(9)
    shape = shape or (1,)
    if kind == 0:
        return np.full(shape, np.nan)
    if kind == 1:
        return np.full(shape, "text", dtype="S4")
    if kind == 2:
        return np.zeros((*shape, 2), dtype if dtype.kind in "iufcb" else float)
    if kind == 3:
        return np.zeros((0, *shape[1:]))
    if kind == 4:
        return np.full(shape, -1e30)
    if kind == 5:
        return np.full(shape, 1 + 1j)
    if kind == 6:
        return np.ones((), float)
    if kind == 7:
        return np.full((shape[0] + 1, *shape[1:]), 3, np.int64)
    return np.full(shape, 1e-30, np.float32)


def damage_hdf5(path, rng):
    """Take away, replace, swell or tie in a circle one thing in the file."""
    names = []
    with h5py.File(path, "r+") as file:
        file.visit(names.append)
        if not names:
            return
        name = names[int(rng.integers(len(names)))]
        kind = rng.integers(8)
        item = file[name]
        if kind == 0:
            del file[name]
        elif kind == 1:
            del file[name]
            file[name] = h5py.SoftLink(f"/{name}")
        elif kind == 2:
            del file[name]
            file[name] = h5py.ExternalLink(str(rng.choice([path.name, "../../etc/passwd", "nothing.h5"])), f"/{name}")
        elif kind == 3 and "/" in name:
            file[name + "_circle"] = file[name.rsplit("/", 1)[0]]
        elif isinstance(item, h5py.Group):
            for key in list(item.attrs) or ["NX_class"]:
                item.attrs[key] = strange_values((2,), np.dtype(float), rng)
        else:
            shape, dtype = item.shape or (), item.dtype
            for key in list(item.attrs):
                if rng.integers(2) and key != "DIMENSION_LIST":
                    item.attrs[key] = strange_values((2,), np.dtype(float), rng)
            if kind < 7:
                del file[name]
                if kind == 4 and dtype.kind in "iufcb":
                    size = HUGE[: max(1, len(shape))]
                    file.create_dataset(name, size, dtype, chunks=tuple(min(length, 64) for length in size))
                elif kind == 5 and dtype.kind in "iufcb":
                    # Little on disk, much in memory: one chunk of zeros.
                    size = (2**28,) if len(shape) < 2 else (1,) * (len(shape) - 2) + (2**14, 2**14)
                    if rng.integers(20) == 0:
                        file.create_dataset(name, data=np.zeros(size, np.uint8), chunks=size, compression="gzip")
                else:
                    file[name] = strange_values(shape, dtype, rng)


def damage_npz(path, rng, mark):
    """Write the archive again with one member replaced, swollen, pickled, lying or misnamed."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    names = list(arrays)
    name = names[int(rng.integers(len(names)))]
    kind = rng.integers(7)
    if kind == 0:
        del arrays[name]
    elif kind < 3:
        arrays[name] = strange_values(arrays[name].shape, arrays[name].dtype, rng)
    np.savez_compressed(path, **arrays)
    hostile = {3: b"", 4: pickle.dumps(Touches(mark)), 5: bytes(int(rng.integers(1, 2**22))), 6: b"\x93NUMPY\x01\x00"}
    if kind < 3:
        return
    with zipfile.ZipFile(path) as archive:
        members = {entry: archive.read(entry) for entry in archive.namelist() if entry != f"{name}.npy"}
    header = {"descr": "|O" if kind == 4 else "<f8", "fortran_order": False, "shape": HUGE if kind == 5 else (1,)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in members.items():
            archive.writestr(f"../../{entry}" if kind == 3 and rng.integers(2) else entry, content)
        with archive.open(f"{name}.npy", "w") as member:
            if kind in (4, 5):
                np.lib.format.write_array_header_1_0(member, header)
            member.write(hostile[int(kind)])


def damage(folder, rng, mark):
    """Damage one file in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[int(rng.integers(len(files)))]
    if rng.integers(2):
        if h5py.is_hdf5(path):
            return damage_hdf5(path, rng)
        if zipfile.is_zipfile(path):
            return damage_npz(path, rng, mark)
        if rng.integers(8) == 0:
            return path.unlink()
    return damage_bytes(path, rng)


def fuzz(name, first, stop, home):
    """Open the damaged copies of the sample with these numbers, and say how each went."""
    warnings.simplefilter("ignore")
    clean, mark = home / "clean", home / "executed"
    clean.mkdir(parents=True)
    path, said = SAMPLES[name](clean)
    start = peak_bytes()
    for number in range(first, stop):
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        rng = np.random.default_rng([number, len(name)])
        # Paths in what is said lead into the clean folder, so the copy takes its place.
        shutil.copytree(clean, home / "damaged")
        clean.rename(home / "kept")
        (home / "damaged").rename(clean)
        damage(clean, rng, mark)
        began = cpu_s()
        signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
        try:
            scan = formats.open_scan(path, said)
            scan.frames.read(np.unique(np.array([0, scan.n_positions // 2, scan.n_positions - 1])))
            outcome = "opened"
        except DataError as error:
            outcome = "refused"
            assert len(str(error)) < 5000
        signal.setitimer(signal.ITIMER_PROF, 0)
        used = {"cpu_s": cpu_s() - began, "peak_MiB": round((peak_bytes() - start) / 2**20)}
        assert not mark.exists(), "code in the file was executed"
        sys.stdout.write(json.dumps({"outcome": outcome, **used}) + "\n")
        shutil.rmtree(clean)
        (home / "kept").rename(clean)


def peak_bytes():
    """The largest memory that this process or one of its children has had."""
    return 1024 * max(resource.getrusage(whose).ru_maxrss for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def cpu_s():
    """Seconds of the processor that this process and its children have used."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    sample, begin, end, folder, *guarded = sys.argv[1:]
    used_bytes = MEMORY_LIMIT_BYTES + 2**29
    resource.setrlimit(resource.RLIMIT_DATA, (used_bytes, used_bytes))
    trial.CPU_LIMIT_S = CPU_LIMIT_S
    if not guarded:
        formats.try_apart = lambda files, work: None
    fuzz(sample, int(begin), int(end), Path(folder))
