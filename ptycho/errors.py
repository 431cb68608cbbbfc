"""The exception tree: what went wrong, with the exit code that the command line gives it."""


class PtychoError(Exception):
    """A failure that we can explain in one sentence: what is wrong, what was expected, what to do."""

    exit_code = 1


class RequestError(PtychoError):
    """The request was wrong; nothing was started and nothing was written."""

    exit_code = 2


class SpecError(RequestError):
    """The job spec is invalid. `problems` holds one line for each fault, each with its dotted path."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class DataError(RequestError):
    """A scan file is missing, unreadable or inconsistent."""


class ModelError(RequestError):
    """A model bundle is missing, broken, foreign or does not fit the scan."""


class PackageError(RequestError):
    """A package or program that the request needs is not installed."""


class RanksError(RequestError):
    """The launcher, MPI and Slurm disagree about the number of processes."""


class WorkError(PtychoError):
    """Work that had begun failed: a diverged engine, a full disk, a rank that died."""


class NotReadyError(PtychoError):
    """The thing asked about does not exist yet (a result of a run that is still going)."""

    exit_code = 3


class CancelledError(PtychoError):
    """The run was stopped by a signal after its state was saved."""

    exit_code = 130
