"""Tiles of a picture, against every cell by itself."""

import pytest

from gradserve_server.models.tiles import DenseHead, amount, best_size, spans, tiles

HEADS = [
    DenseHead(stride=1),
    DenseHead(stride=4, before=1, behind=2),
    DenseHead(stride=8, before=3),
    DenseHead(stride=32, before=6, behind=6),
]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: f"stride {head.stride}")
def test_every_cell_is_taken_once_from_a_tile_that_has_all_that_it_depends_on(head: DenseHead) -> None:
    for tile in {head.least_tile, head.least_tile + 1, head.least_tile + 3 * head.stride - 1, 3 * head.least_tile}:
        for pixels in range(1, 4 * tile):
            cells, taken = -(-pixels // head.stride), []
            for span in spans(pixels, tile, head):
                last = cells if span.last is None else span.last
                taken += range(span.first, last)
                assert span.begin % head.stride == 0
                assert span.end - span.begin <= tile
                assert (span.end - span.begin - pixels) % head.stride == 0 or pixels <= tile
                assert span.begin == 0 or span.first - head.before >= span.begin // head.stride
                assert span.end == pixels or last + head.behind <= span.end // head.stride
            assert taken == list(range(cells))


def test_tiles_of_a_picture() -> None:
    head = DenseHead(stride=4, before=1, behind=1)
    found = list(tiles(40, 10, (20, 20), head))
    assert [tile.columns for tile in found] == [(0, 10, 0, None)] * len(found)
    assert [tile.rows[:2] for tile in found] == [(0, 20), (12, 32), (20, 40)]
    assert amount(40, 10, (20, 20), head) == (3, 3 * 200)


def test_what_tiles_come_to_is_what_they_are() -> None:
    head = DenseHead(stride=4, before=2, behind=3)
    for size in ((28, 41), (90, 30), (400, 400)):
        found = list(tiles(93, 130, size, head))
        areas = [(rows.end - rows.begin) * (columns.end - columns.begin) for rows, columns in found]
        assert amount(93, 130, size, head) == (len(found), sum(areas))


def test_the_best_tiles_have_the_fewest_pixels_in_all() -> None:
    head = DenseHead(stride=4, before=2, behind=3)

    def cost(size: tuple[int, int]) -> int:
        return amount(90, 400, size, head).pixels

    found = best_size(90, 400, 9000, head)
    assert found is not None
    assert found[0] * found[1] <= 9000
    squares = [(side, side) for side in range(head.least_tile, 95)]
    assert cost(found) <= min(map(cost, squares))
    assert cost(found) < cost((94, 94))
    assert best_size(90, 400, 36_000, head) == (90, 400)
    assert best_size(90, 400, head.least_tile**2 - 1, head) is None
