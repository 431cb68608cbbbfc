"""Groups: neighbouring frames that a network sees together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ptycho.data.sharding import hilbert_order

# A group that covers is made from this many times its size of nearest positions: enough to find positions that no
# earlier group has, near enough to overlap.
_COVER_POOL = 3


def nearest_groups(positions_px: NDArray[np.float64], group_size: int, neighbor_count: int) -> NDArray[np.int64]:
    """One group for each position: itself first, then its nearest neighbours, (position, group_size) scan indices.

    Every position is a centre, so that every frame is reconstructed. Raises ValueError when `neighbor_count` neighbours
    and the centre are fewer than a group takes, or the scan has fewer positions.
    """
    neighbours = _neighbours(positions_px, group_size, neighbor_count)
    return neighbours[:, :group_size]


def covering_groups(positions_px: NDArray[np.float64], group_size: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """About as few groups as hold every position: scan indices and which of them are new, (group, group_size) both.

    Every position is new in one group. Groups follow the Hilbert curve; each takes a position that none has had and its
    nearest ones, those first that are new as well. They depend on the positions alone, so ranks that share the work
    make the same ones. Raises ValueError when the scan has fewer positions than a group takes.
    """
    near = _neighbours(positions_px, group_size, max(1, _COVER_POOL * group_size - 1))
    is_covered = np.zeros(len(positions_px), np.bool_)
    groups, news = [], []
    for centre in hilbert_order(positions_px):
        if is_covered[centre]:
            continue
        is_new = ~is_covered[near[centre]]
        chosen = np.argsort(~is_new, kind="stable")[:group_size]
        groups.append(near[centre, chosen])
        news.append(is_new[chosen])
        is_covered[groups[-1]] = True
    return np.array(groups), np.array(news)


def sample_groups(
    positions_px: NDArray[np.float64],
    n_groups: int,
    group_size: int,
    neighbor_count: int,
    rng: np.random.Generator,
    *,
    pool_size: int | None = None,
    oversampling: bool = False,
) -> NDArray[np.int64]:
    """Random groups (n_groups, group_size) of scan indices: a centre first, then some of its nearest neighbours.

    pool_size:    neighbours among which the members are drawn; None: `neighbor_count`
    oversampling: allow more groups than positions; a centre then comes back with other neighbours. Without it, more
                  groups than positions repeat centres only as evenly as they must.

    Raises ValueError when a group cannot be filled.
    """
    n = len(positions_px)
    pool = _neighbours(positions_px, group_size, pool_size or neighbor_count)
    if n_groups <= n:
        centres = rng.choice(n, n_groups, replace=False)
    elif oversampling:
        centres = rng.integers(n, size=n_groups)
    else:
        rounds = [rng.permutation(n) for _ in range(-(-n_groups // n))]
        centres = np.concatenate(rounds)[:n_groups]
    others = pool[centres, 1:]
    keys = rng.random(others.shape)
    chosen = np.sort(np.argsort(keys, axis=1, kind="stable")[:, : group_size - 1], axis=1)
    members = np.take_along_axis(others, chosen, axis=1)
    return np.concatenate([centres[:, None], members], axis=1).astype(np.int64)


def _neighbours(positions_px: NDArray[np.float64], group_size: int, neighbor_count: int) -> NDArray[np.int64]:
    """(position, 1 + neighbours) indices: each position itself, then its nearest ones, nearest first."""
    n = len(positions_px)
    if group_size < 1:
        raise ValueError(f"group_size = {group_size}: must be at least 1")
    if group_size > n:
        raise ValueError(f"group_size = {group_size}: the scan has {n} positions; use a smaller gridsize")
    if group_size > neighbor_count + 1:
        raise ValueError(
            f"neighbor_count = {neighbor_count}: a group of {group_size} takes at least {group_size - 1} neighbours"
        )
    count = min(neighbor_count + 1, n)
    if count == 1:
        return np.arange(n, dtype=np.int64)[:, None]
    near = np.asarray(cKDTree(positions_px).query(positions_px, count)[1], dtype=np.int64)
    # Where positions coincide, the nearest one found may be another: the centre must come first all the same.
    own = np.arange(n)
    place = np.argmax(near == own[:, None], axis=1)
    absent = near[own, place] != own
    place[absent] = count - 1
    near[own, place] = near[:, 0]
    near[:, 0] = own
    return near
