"""Nearest neighbours, their votes, and separability, against plain loops and scikit-learn."""

from collections import Counter

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from gradserve_server.methods.pictures import nearest as module
from gradserve_server.methods.pictures.nearest import nearest, voted
from gradserve_server.methods.pictures.separability import asked_rows, is_separable, separability

RNG = np.random.default_rng(0)
KNOWN = (RNG.normal(size=(700, 24)) + 100).astype(np.float32)  # Far from the origin, where float32 has few digits.
ASKED = (RNG.normal(size=(40, 24)) + 100).astype(np.float32)


@pytest.mark.parametrize("rows", [8192, 100, 7])
def test_neighbours_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(module, "KNOWN_ROWS", rows)
    monkeypatch.setattr(module, "ASKED_ROWS", 9)
    found, distances = nearest(KNOWN, ASKED, 12)
    exact = NearestNeighbors(n_neighbors=12, algorithm="brute").fit(KNOWN.astype(np.float64))
    expected, places = exact.kneighbors(ASKED.astype(np.float64))
    assert np.array_equal(found, places)
    assert np.allclose(distances, expected, rtol=1e-7)


def test_a_row_is_not_its_own_neighbour_and_unusable_ones_are_none() -> None:
    rows = np.arange(0, 700, 35)
    usable = RNG.random(700) < 0.5
    found, _ = nearest(KNOWN, KNOWN[rows], 9, own=rows, usable=usable)
    for row, mine in zip(rows, found, strict=True):
        distances = np.linalg.norm(KNOWN.astype(np.float64) - KNOWN[row], axis=1)
        distances[~usable] = np.inf
        distances[row] = np.inf
        assert np.array_equal(mine, np.argsort(distances, kind="stable")[:9])


def test_equal_distances_go_by_the_row_and_there_may_be_few() -> None:
    known = np.zeros((5, 3), np.float32)
    assert nearest(known, known[:1], 10)[0].tolist() == [[0, 1, 2, 3, 4]]
    assert nearest(known, known[2:3], 10, own=np.array([2]))[0].tolist() == [[0, 1, 3, 4]]
    assert nearest(known[:1], known[:1], 3, own=np.array([0]))[0].shape == (1, 0)


@pytest.mark.parametrize("rows", [8192, 100])
def test_of_many_that_are_the_same_the_lower_rows_are_found(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """As in a layer whose units are all 0 on most pictures."""
    monkeypatch.setattr(module, "KNOWN_ROWS", rows)
    known = np.concatenate([KNOWN[:50], np.repeat(ASKED[:1], 450, 0), KNOWN[50:], np.zeros((500, 24), np.float32)])
    asked = np.stack([ASKED[0], np.zeros(24, np.float32)])
    assert nearest(known, asked, 4)[0].tolist() == [[50, 51, 52, 53], [1150, 1151, 1152, 1153]]
    found, distances = nearest(known, asked[:1], 3, own=np.array([51]))
    assert found.tolist() == [[50, 52, 53]]
    assert not distances.any()


def test_votes() -> None:
    labels = np.array([[2, 1, 1, 2], [3, -1, -1, 4], [-1, -1, -1, -1], [0, 5, 5, 5]])
    classes, shares = voted(labels)
    assert classes.tolist() == [2, 3, -1, 5], "of equally common ones that of the nearest"
    assert shares.tolist() == [0.5, 0.5, 0.0, 0.75]


def test_separability_is_the_leave_one_out_accuracy() -> None:
    """By a loop, and by scikit-learn as far as its ties, which go to the lower class, do not matter."""
    labels = RNG.integers(0, 3, 300)
    features = (RNG.normal(size=(300, 5)) + 0.9 * labels[:, None]).astype(np.float32)
    right, without_ties = [], []
    for row in range(300):
        others = np.delete(np.arange(300), row)
        distances = np.linalg.norm(features[others].astype(np.float64) - features[row], axis=1)
        mine = labels[others[np.argsort(distances, kind="stable")[:10]]].tolist()
        counts = Counter(mine)
        best = max(counts.values())
        winner = next(each for each in mine if counts[each] == best)
        right.append(winner == labels[row])
        if list(counts.values()).count(best) == 1:
            sklearn = KNeighborsClassifier(10).fit(features[others], labels[others]).predict(features[row : row + 1])
            without_ties.append(sklearn[0] == winner)
    found = separability(features, labels.astype(np.int32))
    assert found.accuracy == pytest.approx(np.mean(right), abs=1e-12)
    assert 0.7 < found.accuracy < 0.98
    assert all(without_ties)
    assert len(without_ties) > 200


def test_shuffled_labels_are_at_chance() -> None:
    labels = np.repeat(np.arange(4), 500).astype(np.int32)
    features = RNG.normal(size=(2000, 8)).astype(np.float32) + 9 * labels[:, None]
    found = separability(features, labels)
    assert found.accuracy == 1.0
    assert abs(found.shuffled - 0.25) < 0.04


def test_pictures_without_labels_take_no_part() -> None:
    labels = np.array([0, 1] * 50 + [-1] * 100, np.int32)
    features = np.concatenate([np.arange(100) % 2 * 5.0, np.zeros(100)])[:, None].repeat(2, 1).astype(np.float32)
    features[:100] += RNG.normal(size=(100, 2)) * 0.1
    assert separability(features, labels).accuracy == 1.0
    assert asked_rows(labels).max() < 100
    assert len(asked_rows(np.zeros(5000, np.int32))) == 2000
    assert not is_separable(np.array([-1, 3, 3, -1]))
    assert is_separable(np.array([-1, 3, 2]))
