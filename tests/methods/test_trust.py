"""Judgements of maps against plain numpy on the same masks, on maps of known worth, and on what cannot be judged."""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from zoo import CPU, inputs, pictures, prepared

from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job, MethodContext, TimeUp
from gradserve_server.methods.explain import Call, ExplainArguments, Explained, explain
from gradserve_server.methods.explain.curves import area
from gradserve_server.methods.explain.judging import judging_rows
from gradserve_server.methods.explain.trust import (
    CELLS,
    MASKS,
    NO_TIME,
    NOT_FINITE,
    agreements,
    cell_sums,
    centre_cells,
    conference_matrix,
    copies,
    half_masks,
    judged,
)
from gradserve_server.methods.regions import ScoredRegion
from gradserve_server.methods.regularizers import blurred
from gradserve_server.methods.targets import AnyTarget, Contrast, Target
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.positions import PositionWeights
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared

from .runs import call

TOP, OTHER = Target(rank=1), Target(label=7)


def run(model: Prepared, x: Tensor, calls: list[Call], **facts: Any) -> tuple[list[Explained], Job]:
    """Answers with judgements, and the job that gave them."""
    arguments = ExplainArguments(tuple(calls), trust=True, curves=facts.pop("curves", False))
    job = Job("job", "model", lambda job: explain(job, x, arguments), **facts)
    engine = Engine({"model": model})
    engine.submit(job)
    events = []
    while not engine.idle:
        events += engine.step()
    (ended,) = [event for event in events if isinstance(event, Ended)]
    if ended.error is not None:
        raise ended.error
    return ended.result, job


def halved(x: Tensor, masks: np.ndarray, sigma: float) -> Tensor:
    """The pictures with half of their cells blurred."""
    rest = blurred(x, sigma)[0]
    rows, columns = (np.arange(side) * cells // side for side, cells in zip(x.shape[2:], masks.shape[1:], strict=True))
    return torch.stack([torch.where(torch.from_numpy(mask[np.ix_(rows, columns)]), x[0], rest) for mask in masks])


def correlation_given(a: np.ndarray, b: np.ndarray, given: np.ndarray) -> float:
    """The partial correlation from the three plain ones."""
    table = np.corrcoef([a, b, given])
    return float((table[0, 1] - table[0, 2] * table[1, 2]) / np.sqrt((1 - table[0, 2] ** 2) * (1 - table[1, 2] ** 2)))


def test_agreement_is_the_partial_correlation_over_the_masked_pictures() -> None:
    model, x = prepared("squeezenet1_1"), pictures(prepared("squeezenet1_1"), 1)
    targets: list[AnyTarget] = [OTHER, Contrast(((Target(label=3), 1.0), (OTHER, -1.0)))]
    calls = [call(model, name, target) for name in ("gradient", "grad_cam") for target in targets]  # type: ignore[arg-type]
    answers, job = run(model, x, calls, seed=4)
    assert job.rows == len(calls) + MASKS, "all maps and targets share one set of rows"
    masks = half_masks(x, MethodContext(seed=4))
    with torch.no_grad():
        logits = model(halved(x, masks, 10 / 224 * 64)).double().numpy()
    values = [logits[:, 7], logits[:, 3] - logits[:, 7]] * 2
    kept = masks.reshape(MASKS, -1).sum(1).astype(float)
    rows, columns = (np.arange(side) * CELLS // side for side in x.shape[2:])
    for answer, value in zip(answers, values, strict=True):
        cells = np.zeros((CELLS, CELLS))
        np.add.at(cells, (rows[:, None], columns[None]), answer.values.astype(float))
        own = correlation_given((masks * cells).sum((1, 2)), value, kept)
        assert answer.judgement is not None
        assert answer.judgement.agreement == pytest.approx(own, abs=1e-4)
        others = [
            correlation_given((masks * np.roll(moved, (i, j), (0, 1))).sum((1, 2)), value, kept)
            for turn, flip in product(range(4), (False, True))
            for moved in [np.rot90(cells.T if flip else cells, turn)]
            for i, j in product(range(CELLS), repeat=2)
        ]
        assert answer.judgement.chance_p == pytest.approx(np.mean(np.array(others) >= own - 1e-9), abs=0.011)
        line = np.exp(-8 * ((np.arange(CELLS) + 0.5) / CELLS - 0.5) ** 2)
        middle = correlation_given((masks * np.outer(line, line)).sum((1, 2)), value, kept)
        assert answer.judgement.centre_agreement == pytest.approx(middle, abs=1e-4)


def test_a_map_of_cells_has_392_copies_with_itself() -> None:
    every = copies((CELLS, CELLS))
    assert every[0].tolist() == list(range(CELLS * CELLS))
    assert len({each.tobytes() for each in every}) == len(every) == 392
    assert len({each.tobytes() for each in copies((3, 7))}) == 3 * 7 * 4, "no quarter turns where it is not square"


def test_the_number_of_kept_cells_explains_nothing() -> None:
    """A value that only counts agrees with no map, though without the partialling every positive map follows it."""
    rng = np.random.default_rng(1)
    masks = rng.random((MASKS, 7, 7)) < 0.5
    counting = masks.sum((1, 2)) + 1e-3 * rng.standard_normal(MASKS)
    assert abs(agreements(rng.random((1, 7, 7)), masks, counting)[0]) < 0.5
    assert np.corrcoef((masks * rng.random((7, 7))).sum((1, 2)), counting)[0, 1] > 0.7


def test_maps_of_known_worth() -> None:
    """A value that is the sum over some cells: their map beats both, noise is chance, and the middle is no better."""
    rng = np.random.default_rng(2)
    masks = rng.random((MASKS, 7, 7)) < 0.5
    true = np.zeros((7, 7))
    true[0, 1], true[0, 2], true[5, 0] = 3, 2, 2
    scores = (masks * true).sum((1, 2)) + 0.3 * rng.standard_normal(MASKS)
    whole = np.kron(true, np.ones((8, 8)))
    assert judged(whole, masks, scores).verdict == "beats_both"
    assert judged(-whole, masks, scores).verdict == "no_better_than_chance"
    verdicts = [judged(rng.random((56, 56)), masks, scores).verdict for _ in range(100)]
    assert verdicts.count("no_better_than_chance") >= 90
    central = centre_cells((7, 7))
    at_centre = (masks * central).sum((1, 2)) + 0.2 * rng.standard_normal(MASKS)
    broad = np.kron(central + 0.4 * rng.random((7, 7)), np.ones((8, 8)))
    found = judged(broad, masks, at_centre)
    assert (found.verdict, found.chance_p < 0.05) == ("no_better_than_centre", True)
    assert "no better than the middle of the picture" in found.sentence


def test_a_constant_value_and_constant_maps_are_at_chance_without_nan() -> None:
    masks = np.random.default_rng(3).random((MASKS, 7, 7)) < 0.5
    found = judged(np.random.default_rng(4).random((56, 56)), masks, np.full(MASKS, 3.25))
    assert (found.agreement, found.chance_p, found.centre_agreement) == (0, 1, 0)
    assert (found.verdict, "does not depend on which" in found.sentence) == ("no_better_than_chance", True)
    for level in (0.0, 1.5, -2.0):
        flat = judged(np.full((57, 64), level, np.float32), masks, np.random.default_rng(5).random(MASKS))
        assert (flat.agreement, flat.chance_p, flat.verdict) == (0, 1, "no_better_than_chance")
        assert "the same everywhere" in flat.sentence


def test_a_unit_that_never_fires_is_said_to_have_one_value() -> None:
    model = prepared("squeezenet1_1")
    x = pictures(model, 1)
    acts = {}
    handle = model.network.get_submodule("features.1").register_forward_hook(lambda *a: acts.update(out=a[2]))
    with torch.no_grad():
        model(torch.zeros_like(x))
    handle.remove()
    dead = int(acts["out"][0].amax((1, 2)).argmin())
    answers, _ = run(model, torch.zeros_like(x), [call(model, "gradient", Target(layer="features.1", channel=dead))])
    found = answers[0].judgement
    assert found is not None
    assert (found.verdict, found.agreement) == ("no_better_than_chance", 0)
    assert np.isfinite([found.chance_p, found.centre_agreement]).all()


def test_occlusion_by_one_patch_is_the_same_everywhere() -> None:
    model = prepared("squeezenet1_1")
    answers, job = run(model, pictures(model, 1)[..., :64], [call(model, "occlusion", OTHER, patch=1.0)])
    assert job.rows == 2 + MASKS
    found = answers[0].judgement
    assert found is not None
    assert (found.verdict, "the same everywhere" in found.sentence) == ("no_better_than_chance", True)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 9), (8, 12)])
def test_pictures_with_fewer_pixels_have_fewer_cells(size: tuple[int, int]) -> None:
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    masks = half_masks(x, MethodContext())
    assert masks.shape == (MASKS, min(7, size[0]), min(7, size[1]))
    values = x[0].sum(0).numpy()
    assert cell_sums(values, masks.shape[1:]).sum() == pytest.approx(values.sum(), rel=1e-5)
    found = judged(values, masks, np.random.default_rng(0).random(MASKS))
    assert np.isfinite([found.agreement, found.chance_p, found.centre_agreement]).all()
    if size == (1, 1):
        assert found.verdict == "no_better_than_chance"


def test_the_conference_matrix_is_one() -> None:
    matrix = conference_matrix()
    assert np.array_equal(matrix @ matrix.T, 49 * np.eye(MASKS))
    assert np.array_equal(matrix, matrix.T)
    assert np.array_equal(np.abs(matrix), 1 - np.eye(MASKS))


@pytest.mark.parametrize("size", [(30, 40), (3, 9)])
def test_cells_are_kept_by_half_of_the_masks_and_nearly_uncorrelated(size: tuple[int, int]) -> None:
    signs = list[np.ndarray]()
    for seed in range(20):
        kept = half_masks(torch.zeros(1, 3, *size), MethodContext(seed=seed)).reshape(MASKS, -1)
        assert set(kept.sum(0)) <= {24, 25, 26}
        signs.append(2 * kept - 1)
        products = signs[-1].T @ signs[-1]
        assert np.abs(products - np.diag(np.diag(products))).max() <= 2
    kept_counts = np.concatenate([(each > 0).sum(1) for each in signs])
    cells = signs[0].shape[1]
    assert kept_counts.mean() == pytest.approx(cells / 2, abs=cells / 20)
    assert kept_counts.std() == pytest.approx(np.sqrt(cells) / 2, rel=0.15), "as of cells that are kept independently"


def test_the_design_tells_maps_apart_better_than_masks_at_random() -> None:
    """The agreement of a map that has half of a linear value varies less from draw to draw."""
    rng = np.random.default_rng(6)
    value = rng.standard_normal((7, 7))
    cells = (value + rng.standard_normal((7, 7)))[None]
    x = torch.zeros(1, 3, 7, 7)
    found = dict[str, list[float]](design=[], random=[])
    for seed in range(100):
        for name, masks in (
            ("design", half_masks(x, MethodContext(seed=seed))),
            ("random", rng.random((MASKS, 7, 7)) < 0.5),
        ):
            found[name].append(float(agreements(cells, masks, (masks * value).sum((1, 2)))[0]))
    assert np.std(found["design"]) < np.std(found["random"]) / 2


def test_masks_are_of_the_picture_and_the_seed() -> None:
    first, second = pictures(prepared("linear"), 2).split(1)
    assert np.array_equal(half_masks(first, MethodContext(seed=1)), half_masks(first.clone(), MethodContext(seed=1)))
    for other in (half_masks(second, MethodContext(seed=1)), half_masks(first, MethodContext(seed=2))):
        assert not np.array_equal(half_masks(first, MethodContext(seed=1)), other)


@pytest.mark.parametrize("facts", [{"chunk": 7}, {"chunk": 1, "alone": True}])
def test_verdicts_do_not_depend_on_how_the_rows_are_cut(facts: dict[str, Any]) -> None:
    model, x = prepared("squeezenet1_1"), pictures(prepared("squeezenet1_1"), 1)
    calls = [call(model, "gradient"), call(model, "grad_cam")]
    (whole, _), (cut, job) = run(model, x, calls), run(model, x, calls, **facts)
    assert job.rows >= MASKS
    for a, b in zip(whole, cut, strict=True):
        assert a.judgement is not None
        assert b.judgement is not None
        assert (a.judgement.verdict, a.judgement.chance_p) == (b.judgement.verdict, b.judgement.chance_p)
        assert a.judgement.agreement == pytest.approx(b.judgement.agreement, abs=1e-5)


def test_verdicts_do_not_depend_on_company() -> None:
    model, both = prepared("squeezenet1_1"), pictures(prepared("squeezenet1_1"), 2)
    calls = [call(model, "gradient"), call(model, "grad_cam")]
    arguments = ExplainArguments(tuple(calls), trust=True)
    engine = Engine({"model": model})
    for i, x in enumerate(both.split(1)):
        engine.submit(Job(str(i), "model", lambda job, x=x: explain(job, x, arguments)))  # type: ignore[misc]
    ended = [each for _ in iter(lambda: engine.idle, True) for each in engine.step() if isinstance(each, Ended)]
    for each in ended:
        alone, _ = run(model, both[int(each.job.id)][None], calls)
        for a, b in zip(each.result, alone, strict=True):
            assert (a.judgement.verdict, a.judgement.chance_p) == (b.judgement.verdict, b.judgement.chance_p)  # type: ignore[union-attr]


def test_curves_are_the_probability_as_pixels_come_and_go() -> None:
    model, x = prepared("squeezenet1_1"), pictures(prepared("squeezenet1_1"), 1)
    (answer,), job = run(model, x, [call(model, "gradient", OTHER)], curves=True)
    assert job.rows == 1 + MASKS + 29
    assert answer.judgement is not None
    pair = answer.judgement.curves
    assert pair is not None
    order = np.argsort(-answer.values.ravel(), kind="stable")
    gone = blurred(x, 10 / 224 * 64)
    for k in (0, 1, 5, 13, 14):
        first = torch.zeros(answer.values.size, dtype=torch.bool)
        first[order[: round(k * answer.values.size / 14)].copy()] = True
        first = first.view(answer.values.shape)
        grey = x.mean((2, 3), keepdim=True).expand_as(x)
        with torch.no_grad():
            both = model(torch.cat([torch.where(first, x, gone), torch.where(first, grey, x)])).softmax(1)[:, 7]
        assert (pair.insertion[k], pair.deletion[k]) == pytest.approx(both.tolist(), rel=1e-3)
    assert pair.insertion[-1] == pair.deletion[0]
    assert area((0.0, 1.0, 1.0)) == 0.75


def test_where_time_runs_out_after_the_map_it_is_returned_without_a_judgement() -> None:
    model = prepared("linear")
    x = pictures(model, 1)
    arguments = ExplainArguments((call(model, "gradient", Target(label=1)),), trust=True)
    job = Job("job", "model", lambda job: explain(job, x, arguments), allow_partial=True)
    engine = Engine({"model": model})
    engine.submit(job)
    engine.step()  # The map is there, and the rows of its judgement are asked for.
    assert job.steps is not None
    with pytest.raises(StopIteration) as stopped:
        job.steps.throw(TimeUp())
    (answer,) = stopped.value.value
    assert (answer.judgement, answer.warnings) == (None, (NO_TIME,))
    assert answer.values.any()


@pytest.mark.parametrize(("curves", "share"), [(False, 0.97), (True, 0.88)])
def test_maps_are_returned_without_a_judgement_where_masked_pictures_have_no_finite_value(
    curves: bool, share: float
) -> None:
    """The network gives NaN for pictures with less contrast: under the masks, or at the ends of the curves alone."""
    model = prepared("linear")
    height, width = model.card.height, model.card.width
    x = (torch.arange(height)[:, None] + torch.arange(width)).remainder(2).float().expand(1, 3, height, width)
    least = share * ((x - model.mean) / model.std).std()

    def forget(network: torch.nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        return torch.where((inputs[0].std((1, 2, 3)) < least)[:, None], torch.nan, logits)

    handle = model.network.register_forward_hook(forget)
    try:
        calls = [call(model, "gradient", Target(label=1))]
        (answer,), _ = run(model, x, calls, curves=curves)
        if curves:
            assert run(model, x, calls)[0][0].judgement is not None, "the masked pictures have finite values"
    finally:
        handle.remove()
    assert (answer.judgement, answer.warnings) == (None, (NOT_FINITE,))
    assert answer.values.any()


def test_photos_of_trained_networks() -> None:
    """The short form of `tests.bench.trust`: noise is flagged, and maps that are known to be good are not."""
    model, photos = inputs("trained-squeezenet1_0", 3)
    photos = photos[1:, :, 32:192, 32:192].contiguous()  # Smaller ones take half of the time.
    calls = [call(model, "guided_grad_cam"), call(model, "grad_cam")]
    every = [run(model, x, calls) for x in photos.split(1)]
    assert [job.rows for _, job in every] == 2 * [1 + 2 + 1 + MASKS]
    verdicts = [each.judgement.verdict for answers, _ in every for each in answers if each.judgement]
    assert verdicts == 4 * ["beats_both"]
    again, _ = run(model, photos[:1], calls)
    assert [each.judgement.verdict for each in again if each.judgement] == verdicts[:2]
    rng, masks = np.random.default_rng(0), half_masks(photos[:1], MethodContext())
    scores = rng.standard_normal(MASKS) + 5 * (masks * centre_cells((7, 7))).sum((1, 2))
    flagged = [judged(rng.random((160, 160)), masks, scores).verdict != "beats_both" for _ in range(20)]
    assert sum(flagged) >= 19


def test_regions_that_are_equal_share_their_masked_pictures() -> None:
    spec = ModelSpec(name="m", builder="position_networks:fine", height=32, width=48, precisions=("exact",))
    model = prepare(spec, CPU)
    x = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    left = np.zeros((32, 48), np.float32)
    left[:, :24] = 1
    regions = [ScoredRegion(left), ScoredRegion(left.copy()), ScoredRegion(1 - left)]
    calls = [replace(call(model, "gradient", Target(label=1)), region=region) for region in regions]
    answers, job = run(model, x, calls)
    assert job.rows == 3 + 2 * MASKS == 3 + judging_rows(regions, with_curves=False)
    masks = half_masks(x, MethodContext())
    with torch.no_grad():
        images = halved(x, masks, 10 / 224 * 32)
        weights = [PositionWeights(torch.from_numpy(region.weights), averaged=False) for region in regions]
        scores = [model(images, regions=[each] * MASKS)[:, 1].double().numpy() for each in weights]
    for answer, values in zip(answers, scores, strict=True):
        expected = judged(answer.values, masks, values)
        assert answer.judgement is not None
        assert answer.judgement.agreement == pytest.approx(expected.agreement, abs=1e-4)
        assert answer.judgement.verdict == expected.verdict
