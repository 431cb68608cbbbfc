"""The mean of gradients over ranks, to the last bit the same however DistributedDataParallel packs them."""

# No postponed annotations here: DistributedDataParallel looks at a hook's to refuse a wrong one.

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.distributed import GradBucket  # type: ignore[attr-defined]  # public; re-exported without saying so
from torch.futures import Future


def rank_ordered_mean(group: distributed.ProcessGroup | None, bucket: GradBucket) -> Future[Tensor]:
    """A communication hook for DistributedDataParallel: the bucket's mean over ranks, summed in the order of ranks.

    An ordinary all-reduce sums an element in an order that depends on where in the buffer it lies, and
    DistributedDataParallel packs its buckets anew after the first step: a run that is resumed would take its first
    step with other roundings than one that never stopped. Each rank sums one slice of all ranks' buckets, then the
    slices are gathered: the same number of bytes as a ring all-reduce, 2·(size − 1)/size of the bucket.
    """
    buffer = bucket.buffer()
    mean: Future[Tensor] = Future(devices=[] if buffer.device.type == "cpu" else [buffer.device])
    mean.set_result(mean_over_ranks(buffer, group))
    return mean


def mean_over_ranks(buffer: Tensor, group: distributed.ProcessGroup | None = None) -> Tensor:
    """The one-dimensional buffer's mean over ranks, on every rank; in the buffer's own memory."""
    size = distributed.get_world_size(group)
    width = -(-buffer.numel() // size)
    padded = torch.nn.functional.pad(buffer, (0, width * size - buffer.numel()))
    slices = torch.empty_like(padded)
    distributed.all_to_all_single(slices, padded, group=group)
    first, *others = slices.view(size, width).unbind()
    for other in others:
        first += other
    first /= size
    distributed.all_gather(list(padded.view(size, width).unbind()), first, group=group)
    return buffer.copy_(padded[: buffer.numel()])
