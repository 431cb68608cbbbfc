"""The stages of a run, as the runner calls them: each takes a StageContext and leaves its work in the run folder."""

from ptycho_torch.stages.evaluation import evaluate
from ptycho_torch.stages.network import reconstruct, train
from ptycho_torch.stages.refinement import refine

__all__ = ["evaluate", "reconstruct", "refine", "train"]
