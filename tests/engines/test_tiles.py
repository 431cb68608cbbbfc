"""Tiles: ranks that hold only their part of the object come to the same object as ranks that hold all of it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ptycho.config.refine import RefineConfig
from ptycho.data.geometry import Geometry
from ptycho.data.grid import ObjectGrid
from ptycho.parallel import CountedRanks, SerialRanks
from ptycho_torch.engines.tiles import Tile, paste
from ptycho_torch.stages.refinement import build_engine, owned_frames
from ptycho_torch.stages.refinement_checkpoint import RefinementCheckpoint
from tests.builders import make_scan
from tests.thread_ranks import run_on_ranks

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scan():
    """144 frames of 16² over 6 times their width."""
    return make_scan(n=144, N=16, photons=1e6, step_px=5.0)


def engine_of(scan, ranks, **options):
    return build_engine(scan, RefineConfig(**{"epochs": 8, **options}), ranks, CPU, seed=3)


def refined(scan, ranks, n_epochs=4, **options):
    engine = engine_of(scan, ranks, **options)
    results = [engine.run_epoch(epoch) for epoch in range(1, n_epochs + 1)]
    return engine, engine.image(), results


def relative(image, other):
    return float(np.linalg.norm(image - other) / np.linalg.norm(other))


@pytest.mark.parametrize(
    ("engine", "options"),
    [
        ("mpie", {}),
        ("rpie", {}),
        ("lsqml", {}),
        ("dm", {}),
        ("raar", {"probe_modes": 2}),
        ("mpie", {"position_correction": "gradient", "position_start_epoch": 2, "position_limit_px": 3.0}),
        ("mpie", {"frame_intensity": True, "probe_variations": 1, "background": "pixel", "object_amplitude_max": 1.2}),
    ],
)
def test_tiles_come_to_the_same_object_as_whole_canvases(scan, engine, options):
    (alone,) = run_on_ranks(1, lambda ranks: refined(scan, ranks, engine=engine, **options))
    tiled = run_on_ranks(5, lambda ranks: refined(scan, ranks, engine=engine, **options))
    assert all(one.tile is not None for one, _, _ in tiled)
    image = tiled[0][1]
    assert image.grid == alone[1].grid
    assert relative(image.object, alone[1].object) <= (1e-5 if not options else 1e-4)
    assert relative(image.coverage, alone[1].coverage) <= 1e-4
    r_factors, r_alone = ([result.r_factor for result in one[2]] for one in (tiled[0], alone))
    assert r_factors == pytest.approx(r_alone, rel=1e-4)
    if image.positions_px is not None:
        np.testing.assert_allclose(image.positions_px, alone[1].positions_px, atol=1e-3)


def test_copies_of_a_pixel_stay_the_same_to_the_last_bit(scan):
    tiled = run_on_ranks(5, lambda ranks: refined(scan, ranks, n_epochs=6, engine="mpie"))
    whole = tiled[0][1].object
    for engine, image, _ in tiled[1:]:
        top, left = engine.tile.start
        height, width = image.grid.shape
        assert np.array_equal(image.object, whole[top : top + height, left : left + width])


def test_a_rank_holds_its_part_only_and_sends_its_rims_only(scan):
    tiled = run_on_ranks(8, lambda ranks: refined(scan, ranks, engine="mpie"))
    whole = run_on_ranks(8, lambda ranks: refined(scan, ranks, engine="mpie", tiles=False))
    n_whole = math.prod(scan.grid.shape)
    held = [engine.estimate.object.numel() for engine, _, _ in tiled]
    assert max(held) < 0.45 * n_whole
    assert whole[0][0].estimate.object.numel() == n_whole
    sent = [max(results[-1].sent_bytes for _, _, results in ranks) for ranks in (tiled, whole)]
    assert sent[0] < 0.75 * sent[1]
    assert all(result.communication_s <= result.seconds for _, _, results in tiled for result in results)


def test_slices_lie_on_tiles_too():
    geometry = Geometry(energy_eV=8800.0, object_pixel_m=(6e-8, 6e-8))
    thick = replace(make_scan(n=64, N=16, photons=1e6, step_px=5.0), geometry=geometry)
    options = {"engine": "lsqml", "slices": 2, "slice_spacing_m": 1e-4, "n_epochs": 2}
    (alone,) = run_on_ranks(1, lambda ranks: refined(thick, ranks, **options))
    tiled = run_on_ranks(4, lambda ranks: refined(thick, ranks, **options))
    assert relative(tiled[0][1].slices, alone[1].slices) <= 1e-5


def test_a_start_image_stays_where_no_rank_has_light(scan):
    (_, start, _), *_ = run_on_ranks(1, lambda ranks: refined(scan, ranks, engine="rpie", n_epochs=1))
    shown = replace(start, object=1.3 * start.object)

    def image(ranks):
        engine = build_engine(scan, RefineConfig(engine="rpie", epochs=4), ranks, CPU, start=shown, seed=3)
        engine.run_epoch(1)
        return engine.object, engine.tile

    (alone, _), *_ = run_on_ranks(1, image)
    tiled, tile = run_on_ranks(5, image)[0]
    held = np.zeros(scan.grid.shape, bool)
    for top, left, bottom, right in tile.boxes:
        held[top:bottom, left:right] = True
    assert not held.all()
    np.testing.assert_allclose(tiled[~held], alone[~held], rtol=1e-5)


def test_a_start_image_is_cut_into_tiles(scan):
    (_, start, _), *_ = run_on_ranks(1, lambda ranks: refined(scan, ranks, engine="rpie", n_epochs=2))
    config = RefineConfig(engine="rpie", epochs=4)

    def gone_on(ranks):
        engine = build_engine(scan, config, ranks, CPU, start=start)
        engine.run_epoch(1)
        return engine.image()

    (alone,) = run_on_ranks(1, gone_on)
    lit = alone.coverage > 0
    assert relative(run_on_ranks(4, gone_on)[0].object[lit], alone.object[lit]) <= 1e-5


@pytest.mark.parametrize("engine", ["mpie", "dm"])
@pytest.mark.parametrize(("before", "after"), [(5, 3), (1, 4), (4, 1)])
def test_tiles_resume_on_another_number_of_ranks(scan, tmp_path, engine, before, after):
    def begun(ranks):
        made = engine_of(scan, ranks, engine=engine)
        for epoch in (1, 2, 3):
            made.run_epoch(epoch)
        RefinementCheckpoint(tmp_path, ranks, owned_frames(scan, ranks)).save(made, 3, is_converged=False)

    def gone_on(ranks):
        made = engine_of(scan, ranks, engine=engine)
        assert RefinementCheckpoint(tmp_path, ranks, owned_frames(scan, ranks)).restore(made) == (3, False)
        made.run_epoch(4)
        return made.object

    run_on_ranks(before, begun)
    found = run_on_ranks(after, gone_on)[0]
    never_stopped, *_ = run_on_ranks(1, lambda ranks: refined(scan, ranks, engine=engine)[0].object)
    assert relative(found, never_stopped) <= 1e-5


def test_a_checkpoint_of_another_object_is_refused(scan, tmp_path):
    def saved(ranks):
        made = engine_of(scan, ranks)
        RefinementCheckpoint(tmp_path, ranks, owned_frames(scan, ranks)).save(made, 1, is_converged=False)

    run_on_ranks(2, saved)
    wider = replace(scan, object_grid=ObjectGrid.covering(scan.positions_px, 16, margin=9), object_start=None)
    with pytest.raises(Exception, match="the checkpoint is of another scan"):
        run_on_ranks(
            2, lambda r: RefinementCheckpoint(tmp_path, r, owned_frames(wider, r)).restore(engine_of(wider, r))
        )


@pytest.mark.parametrize(
    ("engine", "options"), [("gradient", {}), ("mpie", {"object_tv": 1e-3}), ("dm", {"tiles": False})]
)
def test_what_looks_beyond_a_tile_has_the_whole_object(scan, engine, options):
    assert all(tile is None for tile in run_on_ranks(2, lambda r: engine_of(scan, r, engine=engine, **options).tile))


def test_sums_over_tiles_are_those_over_the_whole():
    """Every rank adds noise to its tile; the sum on each tile is the part of the whole sum that lies there."""
    whole = ObjectGrid(shape=(30, 40))
    corners = [np.array([[0.0, 0.0], [9.5, 12.0]]), np.array([[5.0, 20.0]]), np.zeros((0, 2)), np.array([[14.0, 3.0]])]

    def work(ranks):
        tile = Tile.around(corners[ranks.rank], 12, whole, 1, ranks)
        generator = torch.Generator().manual_seed(ranks.rank)
        waves = torch.randn(2, *tile.grid.shape, dtype=torch.complex64, generator=generator)
        light = torch.rand(tile.grid.shape, generator=generator)
        expected = [torch.zeros(2, *whole.shape, dtype=torch.complex64), torch.zeros(whole.shape)]
        paste(expected[0], (0, 0), waves, tile.start)
        paste(expected[1], (0, 0), light, tile.start)
        for values in expected:
            ranks.all_sum(values.numpy())
        tile.share([waves, light], ranks)
        gathered = tile.gather(waves, ranks, torch.tensor(7.0))
        return tile, waves, light, expected, gathered

    results = run_on_ranks(4, work)
    for tile, waves, light, (all_waves, all_light), _ in results:
        rows, columns = (slice(start, start + size) for start, size in zip(tile.start, tile.grid.shape, strict=True))
        assert torch.allclose(waves, all_waves[:, rows, columns], atol=1e-5)
        assert torch.allclose(light, all_light[rows, columns], atol=1e-5)
    gathered = results[0][4]
    held = gathered[0] != 7
    assert held.sum() < math.prod(whole.shape)
    assert torch.allclose(gathered[0][held], results[0][3][0][0][held], atol=1e-5)
    assert all(result[4] is None for result in results[1:])


def test_what_passes_through_ranks_is_counted():
    def work(ranks):
        counted = CountedRanks(ranks)
        counted.all_sum(np.zeros(3))
        there = np.zeros(5, np.float32)
        counted.exchange({1 - ranks.rank: np.full(5, ranks.rank, np.float32)}, {1 - ranks.rank: there})
        assert (there == 1 - ranks.rank).all()
        return counted.sent_bytes

    assert run_on_ranks(2, work) == [24 + 20] * 2
    alone = CountedRanks(SerialRanks())
    alone.all_sum(np.zeros(3))
    assert alone.sent_bytes == 0
