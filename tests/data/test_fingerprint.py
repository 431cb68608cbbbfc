from dataclasses import replace

import numpy as np

from ptycho.data.fingerprint import scan_fingerprint
from ptycho.data.formats import open_scan
from ptycho.data.formats.hdf5 import write_scan
from ptycho.data.scan import ArrayFrames
from tests.builders import make_scan


def test_the_same_scan_has_the_same_fingerprint_wherever_it_lies(tmp_path):
    scan = make_scan(n=9)
    for name in ("one.h5", "two.h5"):
        write_scan(scan, tmp_path / name)
    one, two = (scan_fingerprint(open_scan(tmp_path / name)) for name in ("one.h5", "two.h5"))
    assert one == two


def test_a_scan_of_other_frames_positions_or_probe_has_another():
    scan = make_scan(n=9)
    brighter = ArrayFrames(scan.frames.read(np.arange(9)) + 1)
    changed = [
        replace(scan, frames=brighter),
        replace(scan, positions_px=scan.positions_px + 0.5),
        replace(scan, probe=scan.probe * 2),
        make_scan(n=16),
    ]
    assert len({scan_fingerprint(one) for one in [scan, *changed]}) == 5
