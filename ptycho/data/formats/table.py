"""The table of formats: how each is recognised, and what its files mean. docs/data-formats.md is made from it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Format:
    """One row of the table.

    module:     imported when the format is tried; has matches(contents) and read(contents, overrides)
    recognised: what a file of this format has, for messages too
    written_by: how this program writes such files, or ""
    positions:  order and units in the file, and which point of the window they name
    energy:     units in the file
    zero_frequency: where the stored frames have it
    assumed:    what the reader cannot know and says it assumed
    """

    name: str
    module: str
    recognised: str
    written_by: str = ""
    positions: str
    energy: str
    zero_frequency: str = "N // 2, checked"
    assumed: str = ""


# In the order in which they are tried: the most specific first.
FORMATS = (
    Format(
        name="PtychoPINN scan",
        module="ptycho.data.formats.hdf5",
        recognised='HDF5 with attribute format = "ptychopinn-scan"',
        written_by="convert, simulate",
        positions="(y, x), px or m as it says, of pixel N // 2",
        energy="eV",
        zero_frequency="N // 2",
        assumed="nothing",
    ),
    Format(
        name="CXI, NXcxi_ptycho",
        module="ptycho.data.formats.cxi",
        recognised="HDF5 with cxi_version or entry_1/data_1/data",
        written_by="convert --format cxi",
        positions="(x, y, z), m, motion of the sample; turned by basis_vectors",
        energy="J, or as units says; else wavelength",
        zero_frequency="N // 2, checked; or at beam_center or by corner_position",
        assumed="rows along −y and columns along −x without basis_vectors; far field; mask bit 0x1000 is no fault",
    ),
    Format(
        name="ptypy data (.ptyd)",
        module="ptycho.data.formats.ptypy",
        recognised="HDF5 with chunks/0/data",
        positions="(y, x), m, of pixel N // 2",
        energy="keV",
        assumed="weights of 0 are masked pixels; a pixel masked in one frame is masked in all",
    ),
    Format(
        name="ptychodus frames",
        module="ptycho.data.formats.ptychodus",
        recognised="HDF5 or NPZ with patterns and indexes (diffraction, training_data)",
        written_by="convert --format ptychodus",
        positions="of the product beside it, or (training_data) x and y in px, of the window's middle",
        energy="eV, of the product",
        assumed="diffraction.h5 belongs to product.h5 beside it; joined by indexes",
    ),
    Format(
        name="ptychodus product",
        module="ptycho.data.formats.product",
        recognised="HDF5 or NPZ with object, probe, probe_position_x_m",
        written_by="every run's result.h5, convert --format ptychodus",
        positions="x and y apart, m, of the window's middle",
        energy="eV",
        zero_frequency="in diffraction.h5 beside it",
        assumed="its first probe where the probe varies from frame to frame; objects of one layer only",
    ),
    Format(
        name="dp and para pair",
        module="ptycho.data.formats.dp_para",
        recognised="HDF5 with dp, and a second file named para (fold_slice, PtychoViT)",
        positions="x and y apart (ppX, ppY or probe_position), m",
        energy="lambda in m, or eV",
        assumed="frames as Python stores them; MATLAB's are transposed",
    ),
    Format(
        name="MATLAB 7.3",
        module="ptycho.data.formats.keys",
        recognised="MATLAB file with dp, ppX, ppY; others by data.keys",
        positions="x and y apart, m; or as data.keys says",
        energy="lambda in m; or as data.keys says",
        assumed="MATLAB's axes are reversed: (y, x, position)",
    ),
    Format(
        name="NeXus, Eiger master",
        module="ptycho.data.formats.nexus",
        recognised="HDF5 with entry/data or entry/instrument",
        positions="motors y and x with units; one for each frame, or for each line and column; or data.positions",
        energy="as units says, else eV; else wavelength",
        zero_frequency="at beam_center_x, beam_center_y, checked; else N // 2",
        assumed="which motors are y and x, and their signs; the largest number of a type marks gaps",
    ),
    Format(
        name="PtychoPINN NPZ",
        module="ptycho.data.formats.npz",
        recognised="NPZ with xcoords, ycoords, diff3d (or diffraction)",
        written_by="convert --format npz",
        positions="x and y apart, px, of pixel N // 2; of the window's middle in files by ptychodus",
        energy="wavelength in m where it is there",
        assumed="counts or amplitudes; who wrote it; which axis is the position's",
    ),
    Format(
        name="tike test data",
        module="ptycho.data.formats.tike",
        recognised="NPZ (also .bz2) with data, scan, probe",
        positions="(y, x), px, of the window's first pixel",
        energy="not stored",
        zero_frequency="[0, 0], checked",
        assumed="pixels that stay dark among bright ones are dead",
    ),
    Format(
        name="NumPy array",
        module="ptycho.data.formats.npy",
        recognised="NPY; positions from a file of their own",
        positions="in data.positions",
        energy="stated in the spec",
    ),
    Format(
        name="TIFF",
        module="ptycho.data.formats.tiff",
        recognised="a TIFF file or a folder of them; positions from a file of their own",
        positions="in data.positions",
        energy="stated in the spec",
        zero_frequency="N // 2, checked; or at beam_centre_px",
        assumed="files in the order of the numbers in their names",
    ),
)
# HDF5 of no known layout, read only when a person names its datasets.
BY_KEYS = Format(
    name="any HDF5, by keys",
    module="ptycho.data.formats.keys",
    recognised="data.keys in the spec names the datasets",
    positions="(y, x) or (x, y), or one dataset each; units stated or in the attribute units",
    energy="eV, keV or J, or wavelength; stated or in the attribute units",
    assumed="nothing: units that are neither stored nor stated are an error",
)


def formats_table() -> str:
    """The table in Markdown."""
    head = "| format | recognised by | read | written by | positions in the file | energy | zero frequency | assumed |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for row in (*FORMATS, BY_KEYS):
        reads = "with data.keys" if row is BY_KEYS else "yes"
        cells = (
            row.name, row.recognised, reads, row.written_by or "no", row.positions, row.energy, row.zero_frequency,
            row.assumed,
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def keys_table() -> str:
    """The keys of data.keys in Markdown, with what they mean."""
    from ptycho.data.formats.data_keys import described

    lines = ["| key | values | meaning |", "|---|---|---|"]
    lines += [f"| `{name}` | {values} | {text} |" for name, values, text in described()]
    return "\n".join(lines) + "\n"
