"""The tables of a job spec that belong to jobs alone; the others are the configuration dataclasses themselves."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ptycho.data.formats.data_keys import DataKeys
from ptycho.data.formats.overrides import ReadOverrides
from ptycho.data.orientation import Axes

# Pattern → what it asks for, in words.
OPTION_PATTERN = r"^--[a-z][a-z-]*(=\S.*)?$"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
BIND_PATTERN = r"^[^:,]+(:[^:,]*(:(ro|rw))?)?$"
VARIABLE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*\*?$"
PATTERNS = {
    OPTION_PATTERN: "one option: --name or --name=value",
    NAME_PATTERN: "made of letters, digits, points, dashes and underscores",
    BIND_PATTERN: "a folder, or folder:folder-inside, or folder:folder-inside:ro",
    VARIABLE_PATTERN: "the name of a variable, or its beginning and *",
}


@dataclass(frozen=True, kw_only=True)
class JobTable:
    """What to do."""

    name: Annotated[
        str | None,
        Field(pattern=NAME_PATTERN, description="Name of the run; the run folder begins with it. Unset: the scan's."),
    ] = None
    engine: Annotated[
        str,
        Field(
            description='How to reconstruct: "pinn" trains a physics-informed network (or applies a trained one) and'
            " then refines its image; any other engine works iteratively, without a network."
        ),
    ] = "pinn"
    seed: Annotated[
        int, Field(ge=0, lt=2**32, description="Start of every random choice; the same seed gives the same result.")
    ] = 0


@dataclass(frozen=True, kw_only=True)
class DataTable:
    """What to reconstruct."""

    source: Annotated[
        Literal["scan", "synthetic"],
        Field(
            description="What a network is trained on: the scan, or random scenes that are simulated on the device"
            ' while it trains (see [synthetic]). With "synthetic" scan may be left out; the network is then tried on a'
            " simulated scan."
        ),
    ] = "scan"
    scan: Annotated[
        str | None,
        Field(description="The scan file, relative to the spec file; its format is recognised by its content."),
    ] = None
    scans: Annotated[
        list[str] | None,
        Field(
            min_length=1,
            description="Instead of scan: file names and patterns. Every file that they match gets a run of its own.",
        ),
    ] = None
    train: Annotated[
        str | None,
        Field(description="With scans and no model.bundle: the scan on which the network for all of them is trained."),
    ] = None
    positions: Annotated[
        str | None,
        Field(
            description="A file with the positions, where the scan file has none or wrong ones: a ptychodus product,"
            ' text with "y, x" in metres, and others (docs/data-formats.md).'
        ),
    ] = None
    start: Annotated[
        str | None,
        Field(description="A reconstruction whose probe and object to start from: a product, .ptyr, CXI or NPY file."),
    ] = None
    keys: Annotated[
        DataKeys | None,
        Field(
            description="Where an HDF5 file of no known format keeps its arrays:"
            ' { frames = "/data", y = "/y", x = "/x", positions_units = "um" }; all keys: docs/data-formats.md.'
        ),
    ] = None
    frame_axes: Annotated[
        Axes | None,
        Field(
            description='How frames are to be turned: "-yx" mirrors their rows, "xy" swaps rows and columns.'
            " Unset: as they are."
        ),
    ] = None
    position_axes: Annotated[
        Axes | None,
        Field(
            description='How positions are to be turned: "-yx" lets y run backwards, "xy" swaps y and x.'
            ' Unset: as they are. "ptycho check" finds the right one.'
        ),
    ] = None
    beam_centre_px: Annotated[
        tuple[float, float] | Literal["find"] | None,
        Field(
            description='Detector pixel [y, x] that the direct beam hits, or "find". Unset: as the file says, else the'
            " middle."
        ),
    ] = None
    mask: Annotated[
        str | None, Field(description="A file with the good detector pixels (true), beside the scan's own mask.")
    ] = None
    dark: Annotated[
        str | None,
        Field(
            description="A file with the detector's dark signal, which is taken off every frame. Unset: the one that"
            " the scan's file records, if any."
        ),
    ] = None
    threshold_counts: Annotated[float | None, Field(gt=0, description="Counts below this read as 0.")] = None
    saturation_counts: Annotated[
        float | None,
        Field(gt=0, description="Mask pixels that reach this count in any frame. Reads every frame once more."),
    ] = None
    bin_px: Annotated[int | None, Field(ge=1, description="Take this many detector pixels along each side as one.")] = (
        None
    )
    crop_px: Annotated[
        int | None,
        Field(ge=8, description="Keep only this many detector pixels around the centre (the object pixel grows)."),
    ] = None
    pad_px: Annotated[
        int | None,
        Field(ge=8, description="Surround frames with masked pixels to this size (the object pixel shrinks)."),
    ] = None
    validation_fraction: Annotated[
        float,
        Field(ge=0, le=0.5, description="Part of the scanned area, as one region, kept out of training to test it."),
    ] = 0.05
    diffraction: Annotated[
        Literal["counts", "amplitude"] | None,
        Field(description="What the file's frames are, where its reader cannot tell. Unset: as the reader finds."),
    ] = None
    photons_per_frame: Annotated[
        float | None, Field(gt=0, description="Mean counts of one frame, where the file holds normalised amplitudes.")
    ] = None
    zero_frequency: Annotated[
        Literal["centre", "corner"] | None,
        Field(description="Where the file's frames have zero frequency. Unset: as the reader finds."),
    ] = None
    energy_eV: Annotated[float | None, Field(gt=0, description="Photon energy, instead of the file's.")] = None
    distance_m: Annotated[
        float | None, Field(gt=0, description="Distance from sample to detector, instead of the file's.")
    ] = None
    detector_pixel_m: Annotated[
        tuple[float, float] | None, Field(description="Detector pixel [height, width], instead of the file's.")
    ] = None
    object_pixel_m: Annotated[
        tuple[float, float] | None, Field(description="Object pixel [height, width], instead of the file's.")
    ] = None

    focus_distance_m: Annotated[
        float | None,
        Field(gt=0, description="Distance from focus to sample of a near-field scan. Unset: the far field."),
    ] = None

    @property
    def read(self) -> ReadOverrides:
        """What the file's reader is told; relative paths are still relative."""
        own = {field.name for field in fields(self)}
        said = {field.name: getattr(self, field.name) for field in fields(ReadOverrides) if field.name in own}
        for name in ("positions", "start"):
            said[name] = None if said[name] is None else Path(said[name])
        # Without binning first, the crop can be made when the detector's frames are cut to a square.
        return ReadOverrides(**said, window_px=self.crop_px if self.bin_px in (None, 1) else None)


@dataclass(frozen=True, kw_only=True)
class ResourcesTable:
    """Where to run, and with how much."""

    executor: Annotated[
        Literal["here", "local", "slurm"],
        Field(
            description='"here": this process; "local": processes of their own on this machine; "slurm": a cluster job.'
            " Started by mpirun or srun, a run always uses the processes that these started."
        ),
    ] = "local"
    site: Annotated[
        str | None,
        Field(
            description="A site profile, whose values hold where this spec says nothing: a name, looked for in sites/"
            " beside the spec and in ~/.config/ptycho/sites, or a path."
        ),
    ] = None
    nodes: Annotated[int, Field(ge=1, description="Machines.")] = 1
    ranks_per_node: Annotated[
        int | None, Field(ge=1, description="Processes on each machine. Unset: one for each GPU, one without GPUs.")
    ] = None
    gpus_per_node: Annotated[
        int | None, Field(ge=0, description='GPUs on each machine. Unset: all of this machine\'s; none for "slurm".')
    ] = None
    cpus_per_rank: Annotated[int | None, Field(ge=1, description="Cores of each process, asked from Slurm.")] = None
    memory_gb: Annotated[float | None, Field(gt=0, description="Memory of each machine, asked from Slurm.")] = None
    time_limit_min: Annotated[
        int | None,
        Field(
            ge=1,
            description="Stop, with the state saved, after this many minutes; a Slurm job then goes on in a further"
            " allocation. Unset: no limit, in Slurm the partition's.",
        ),
    ] = None
    partition: Annotated[str | None, Field(description="Slurm partition.")] = None
    account: Annotated[str | None, Field(description="Slurm account.")] = None
    qos: Annotated[str | None, Field(description="Slurm quality of service.")] = None
    constraint: Annotated[str | None, Field(description="Slurm node features, for example a GPU model.")] = None
    reservation: Annotated[str | None, Field(description="Slurm reservation, for example a beamtime's.")] = None
    exclusive: Annotated[bool, Field(description="Share the nodes with no other job.")] = False
    mail_user: Annotated[str | None, Field(description="Where Slurm sends mail to.")] = None
    mail_type: Annotated[
        list[str] | None, Field(min_length=1, description='When Slurm sends mail: ["END", "FAIL", "REQUEUE"].')
    ] = None
    max_requeues: Annotated[
        int,
        Field(
            ge=0,
            description="How often the job may go on in a further allocation: at its time limit, when it was preempted,"
            " when a node or a process died.",
        ),
    ] = 20
    max_parallel_scans: Annotated[
        int | None,
        Field(
            ge=1,
            description="How many scans of data.scans are worked on at once. Unset: one on this machine, in Slurm as"
            " many as the queue allows.",
        ),
    ] = None
    warning_s: Annotated[
        int,
        Field(ge=1, description="Seconds before the time limit at which the run saves its state and asks to go on."),
    ] = 120
    setup: Annotated[
        list[str] | None,
        Field(description='Lines of shell before the ranks start: ["module load python", "export NCCL_DEBUG=WARN"].'),
    ] = None
    extra_sbatch: Annotated[
        list[Annotated[str, Field(pattern=OPTION_PATTERN)]] | None,
        Field(description='Further options of sbatch: ["--switches=1", "--licenses=scratch"].'),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ContainerTable:
    """The container in which the ranks run."""

    image: Annotated[
        str | None,
        Field(description="Apptainer image, a file or a folder, relative to the spec file. Unset: this environment."),
    ] = None
    binds: Annotated[
        list[Annotated[str, Field(pattern=BIND_PATTERN)]] | None,
        Field(
            description='Further folders to show inside, as Apptainer writes them: "/data:/data:ro". The folders of'
            " scan, mask and model (to read) and the run's own are shown anyway."
        ),
    ] = None
    arguments: Annotated[
        list[Annotated[str, Field(pattern=OPTION_PATTERN)]] | None,
        Field(description='Further options of "apptainer exec": ["--no-privs", "--no-mount=home"].'),
    ] = None
    environment: Annotated[
        list[Annotated[str, Field(pattern=VARIABLE_PATTERN)]] | None,
        Field(
            description='Further variables of the machine that go in, by name or pattern: ["MIOPEN_*"]. Those of'
            " Slurm, MPI, GPUs, networks and threads do anyway; PYTHONPATH, conda's and others stay outside."
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class OutputTable:
    """Where results go."""

    dir: Annotated[
        str,
        Field(min_length=1, description="The run folder is made inside this folder, relative to where you are."),
    ] = "runs"
