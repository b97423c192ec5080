"""The loop, step by step: a clock that only passes move, and passes that only count."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gradserve_server.engine import passes
from gradserve_server.engine.batch_limits import default_rows
from gradserve_server.engine.engine import PARTIAL_QUERY_SHARE, Engine
from gradserve_server.engine.events import Ended, ModelFailed, NotFinite, OutOfMemory, Progressed
from gradserve_server.engine.job import Job, Progress, Steps, TimeUp, together
from gradserve_server.engine.objective import NotApplicable, logit
from gradserve_server.engine.pace import MAX_KEYS, WAIT_PASS_SHARE, Pace
from gradserve_server.engine.query import Answer, ModelRead, Part, Query
from gradserve_server.engine.schedule import MAX_PASS_SECONDS, RECENT_SECONDS, SHORT_PASS_SECONDS
from gradserve_server.engine.take import Key
from gradserve_server.engine.timeline import MAX_TIMED_PASSES, TimedPass, Timeline
from gradserve_server.engine.turns import MAX_NAMES, CallerTurns
from gradserve_server.methods.explain import Call, ExplainArguments, Explained, Target, explain
from gradserve_server.models.catalogue import EMBEDDED
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared

CPU = torch.device("cpu")
ROW_GFLOP = 3 * 4 * 4 / (8 * 8)  # Of a gradient on an image of half the model's height and width.
torch.set_num_threads(1)  # A worker does so; threads that wait for each other are slow where others compute.


def _model(name: str) -> SimpleNamespace:
    """Only what the engine asks of a model."""
    card = SimpleNamespace(gflop=1.0, height=8, width=8, rows={}, unbatched=False, absent={})
    model = SimpleNamespace(device=CPU, name=name, card=card)
    model.at = lambda precision: model
    return model


class World:
    """An engine whose passes take `seconds` per row and answer each row with twice its image; `fault` may raise."""

    def __init__(self, rows: int = 8, seconds: float = 0.01) -> None:
        self.now = 0.0
        self.seconds = seconds
        self.passes: list[list[int]] = []  # The rows of each part of each pass.
        self.fault: Callable[[Sequence[Part]], None] = lambda parts: None
        models: Any = {name: _model(name) for name in ("m", "other")}
        self.engine = Engine(models, rows=rows, clock=lambda: self.now)
        self.ended: dict[str, Ended] = {}
        self.progress: list[Progressed] = []

    def differentiate(self, model: Any, parts: Sequence[Part]) -> list[Answer]:
        self.passes.append([len(part.rows) for part in parts])
        self.now += self.seconds * sum(len(part.rows) for part in parts)
        self.fault(parts)
        answers = []
        for part in parts:
            x = part.query.images[part.rows.start : part.rows.stop]
            answers.append(Answer(x.sum((2, 3)), x.sum((1, 2, 3)), 2 * x, (), (), bool(x.isfinite().all())))
        return answers

    def submit(self, name: str, method: Callable[[Job], Steps], **facts: Any) -> Job:
        job = Job(name, facts.pop("model", "m"), method, **facts)
        self.engine.submit(job)
        return job

    def step(self) -> list[str]:
        """The names of the jobs that ended in this step."""
        before = set(self.ended)
        for event in self.engine.step():
            if isinstance(event, Ended):
                self.ended[event.job.id] = event
            else:
                self.progress.append(event)
        return [name for name in self.ended if name not in before]

    def run(self, most: int = 1000) -> None:
        for _ in range(most):
            if self.engine.idle:
                return
            self.step()
        raise AssertionError("the engine does not come to an end")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(passes, "differentiate", lambda model, parts, **_: world.differentiate(model, parts))
    return world


@pytest.fixture(scope="module")
def digits() -> Prepared:
    return prepare(EMBEDDED["digits"], CPU)


def images(rows: int, value: float = 1.0) -> torch.Tensor:
    return torch.full((rows, 3, 4, 4), value)


def asking(*rows: int, value: float = 1.0, **options: Any) -> Callable[[Job], Steps]:
    """A method that asks for so many rows one query after another, and returns all gradients."""

    def method(job: Job) -> Steps:
        grads = []
        for n in rows:
            grads.append((yield Query(images(n, value), logit(0), "image", **options)).image_grad)
        return torch.cat(grads)

    return method


def closing(log: list[str], method: Callable[[Job], Steps]) -> Callable[[Job], Steps]:
    """The same, noting when the generator is closed."""

    def wrapped(job: Job) -> Steps:
        try:
            return (yield from method(job))
        finally:
            log.append(job.id)

    return wrapped


def test_fewer_callers_than_last_time_are_worth_a_moment(world: World) -> None:
    assert world.engine.worth_waiting() == 0.0
    for i in range(8):
        world.submit(str(i), asking(1))
    assert world.engine.worth_waiting() == 0.0  # Nothing is known of such passes.
    world.step()
    world.submit("back", asking(1))
    assert world.engine.worth_waiting() == pytest.approx(WAIT_PASS_SHARE * 8 * world.seconds)
    for i in range(7):
        world.submit(f"back {i}", asking(1))
    assert world.engine.worth_waiting() == 0.0  # All are there.
    world.step()
    assert world.passes == [[1] * 8, [1] * 8]


def test_who_came_during_the_pass_is_not_one_of_those_that_it_answered(world: World) -> None:
    for i in range(5):
        world.submit(str(i), asking(1))
    world.step()
    for i in range(2):
        world.submit(f"meanwhile {i}", asking(1), arrived=world.now - 0.01)
    for i in range(4):
        world.submit(f"back {i}", asking(1), arrived=world.now)
        assert world.engine.worth_waiting() > 0
    world.submit("back 4", asking(1), arrived=world.now)
    assert world.engine.worth_waiting() == 0.0


@pytest.mark.parametrize(("jobs", "rows", "seconds"), [(8, 1, 0.01), (2, 4, 0.01), (4, 1, MAX_PASS_SECONDS / 4)])
def test_nobody_waits_where_the_next_pass_is_full(world: World, jobs: int, rows: int, seconds: float) -> None:
    world.seconds = seconds
    for i in range(jobs):
        world.submit(str(i), asking(rows))
    world.step()
    for i in range(jobs):
        world.submit(f"meanwhile {i}", asking(rows), arrived=world.now - 0.001)
    assert world.engine.worth_waiting() == 0.0


def test_nobody_waits_longer_than_half_a_pass_after_its_end(world: World) -> None:
    for i in range(8):
        world.submit(str(i), asking(1))
    world.step()
    world.now += WAIT_PASS_SHARE * 8 * world.seconds - 0.001
    world.submit("back", asking(1), arrived=world.now)
    assert world.engine.worth_waiting() == pytest.approx(0.001)
    world.now += 0.002
    assert world.engine.worth_waiting() == 0.0


def test_a_pass_that_nobody_may_share_answered_none_of_the_others(world: World) -> None:
    for i in range(4):
        world.submit(str(i), asking(1))
    world.step()
    world.submit("alone", asking(1, unshared=True))
    assert world.step() == ["alone"]
    for i in range(4):
        assert (world.engine.worth_waiting() > 0) == (i > 0)
        world.submit(f"back {i}", asking(1), arrived=world.now - 0.001)
    assert world.engine.worth_waiting() == 0.0


def test_callers_who_do_not_come_back_are_waited_for_less_and_less(world: World) -> None:
    """Each pass answers two; as many others come while it runs, and none of those answered."""
    waited = 0
    for i in range(100):
        for j in range(2):
            world.submit(f"{i} {j}", asking(1), arrived=world.now - 0.001)
        left = world.engine.worth_waiting()
        waited += left > 0
        world.now += left
        world.step()
    assert waited < 10


def test_callers_who_come_back_are_waited_for_every_time(world: World) -> None:
    for i in range(20):
        for j in range(4):
            world.now += 0.001
            world.submit(f"{i} {j}", asking(1), arrived=world.now)
            assert (world.engine.worth_waiting() > 0) == (i > 0 and j < 3)
        world.step()
    assert world.passes == [[1] * 4] * 20


@pytest.mark.parametrize(
    ("method", "facts"),
    [
        (asking(1, unshared=True), {}),
        (asking(1), {"model": "other"}),
        (asking(1), {"precision": "fast"}),
        (asking(1), {"deadline": 0.1 + 0.1}),
    ],
)
def test_nobody_waits_for_what_does_not_come(world: World, method: Callable[[Job], Steps], facts: dict) -> None:
    for i in range(8):
        world.submit(str(i), asking(1))
    world.step()
    world.submit("another", method, **facts)
    assert world.engine.worth_waiting() == 0.0


def test_images_of_every_size_are_not_remembered_for_ever() -> None:
    turns = CallerTurns()
    pace, waiting = Pace(), SimpleNamespace(rows=0, deadline=float("inf"), arrived=float("inf"), open=[])
    for size in range(3 * MAX_KEYS):
        key = Key("m", "exact", size, size, "image")
        turns.charge(f"caller {size}", 1.0, key, 0.5)
        turns.charge("caller", 1.0, key, 0.5)
        for i in range(2):
            pace.learn(key, 2, 2, size + i, size + i + 0.5)
            assert pace.worth_waiting(key, [waiting], 8, size + i + 0.5) == WAIT_PASS_SHARE * 0.5  # type: ignore[list-item]
    assert len(pace._row_seconds) <= MAX_KEYS + 1
    assert len(pace._measured) <= MAX_KEYS + 1
    assert len(turns._callers._had) <= MAX_NAMES + 1
    assert len(turns._kinds) <= MAX_NAMES + 1
    assert len(turns._kinds["caller"]._had) <= MAX_NAMES + 1


def test_jobs_of_single_row_passes_take_turns(world: World) -> None:
    world.engine = Engine(world.engine.models, rows=1, clock=lambda: world.now)
    old = world.submit("old", asking(*[1] * 20), arrived=-100.0)
    world.step()
    new = world.submit("new", asking(*[1] * 20), arrived=0.0)
    for _ in range(10):
        world.step()
    assert abs(old.rows - new.rows) <= 1


def test_running_jobs_do_not_wait_for_new_ones(world: World) -> None:
    for i in range(7):
        world.submit(str(i), asking(1))
    world.submit("steps", asking(1, 1))
    world.step()
    assert world.engine.worth_waiting() == 0.0


def test_a_job_is_answered_in_full_and_in_order(world: World) -> None:
    x = torch.arange(20.0).view(20, 1, 1, 1).expand(20, 3, 4, 4)

    def method(job: Job) -> Steps:
        return (yield Query(x, logit(0), "image")).image_grad

    job = world.submit("a", method)
    world.run()
    assert torch.equal(world.ended["a"].result, 2 * x)
    assert world.passes == [[8], [8], [4]]
    assert job.rows == 20
    assert job.compute == pytest.approx(0.2)
    assert [step.rows for step in world.engine.passes] == [8, 8, 4]


def test_jobs_join_and_leave_at_every_step(world: World) -> None:
    """Ten jobs of three queries, one arriving before each step: each leaves after exactly three steps."""
    left = []
    for i in range(13):
        if i < 10:
            world.submit(f"{i}", asking(1, 1, 1, value=i))
        left.append(world.step())
    assert left == [[], [], *([f"{i}"] for i in range(10)), []]
    assert world.engine.idle
    assert max(map(len, world.passes)) == 3, "they shared passes"
    for i in range(10):
        assert torch.equal(world.ended[f"{i}"].result, images(3, 2 * i))


def test_a_gradient_waits_for_one_step_not_for_a_wide_job(world: World) -> None:
    world.submit("wide", asking(2, *[32] * 16, value=0.5))
    for _ in range(5):
        world.step()
    world.submit("narrow", asking(1))
    assert world.step() == ["narrow"]
    assert world.passes[-1] == [7, 1] or world.passes[-1] == [1, 7]
    world.run()
    assert torch.equal(world.ended["wide"].result, images(514, 1.0))


def test_a_gradient_beside_integrated_gradients_of_500_steps(digits: Prepared) -> None:
    """The same with the real methods and network: one step, and the same map as alone."""
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def job(name: str, method: str, **parameters: Any) -> Job:
        arguments = ExplainArguments((Call(method, parameters, Target(label=3)),))
        return Job(name, "digits", lambda job: explain(job, x, arguments))

    def finish(engine: Engine, steps: int = 100) -> dict[str, Explained]:
        return {e.job.id: e.result[0] for _ in range(steps) for e in engine.step() if isinstance(e, Ended)}

    alone = Engine({"digits": digits}, rows=8)
    alone.submit(job("wide", "integrated_gradients", steps=500))
    alone.submit(job("narrow", "gradient"))
    expected = finish(alone)
    engine = Engine({"digits": digits}, rows=8)
    engine.submit(job("wide", "integrated_gradients", steps=500))
    finish(engine, 10)
    engine.submit(job("narrow", "gradient"))
    got = finish(engine, 1)
    assert list(got) == ["narrow"]
    got |= finish(engine)
    for name in ("wide", "narrow"):
        assert torch.allclose(torch.from_numpy(got[name].values), torch.from_numpy(expected[name].values), rtol=1e-5)
    assert got["wide"].done == 500


def test_a_cancelled_job_is_closed_and_its_rows_are_gone(world: World) -> None:
    log: list[str] = []
    world.submit("a", closing(log, asking(100)))
    world.submit("b", closing(log, asking(9)))
    world.step()
    assert world.passes == [[4, 4]]
    world.engine.cancel("a")
    assert log == ["a"]
    assert world.engine.jobs == 1
    world.run()
    assert world.passes == [[4, 4], [5]]
    assert set(world.ended) == {"b"}
    world.engine.cancel("a")
    world.engine.cancel("unknown")
    assert world.engine.idle


def test_without_allow_partial_the_deadline_ends_the_job(world: World) -> None:
    log: list[str] = []
    world.submit("a", closing(log, asking(100)), deadline=0.2)
    world.run()
    assert isinstance(world.ended["a"].error, TimeUp)
    assert log == ["a"]
    assert world.now <= 0.2, "as soon as it is certain"


def averaging(samples: int) -> Callable[[Job], Steps]:
    """A method that answers with what it has when its time is up."""

    def method(job: Job) -> Steps:
        run = job.run()
        total = 0.0
        try:
            for part in run.parts(samples):
                total += (yield Query(images(len(part)), logit(0), "image")).image_grad.sum().item()
                run.completed(part)
        except TimeUp:
            if not run.done:
                raise
        return run.done, total / run.done

    return method


def test_with_allow_partial_a_method_answers_with_what_it_has(world: World) -> None:
    world.submit("a", averaging(100), deadline=0.3, allow_partial=True, chunk=4)
    world.run()
    done, mean = world.ended["a"].result
    assert 20 <= done < 30
    assert mean == 2 * 48
    assert world.now <= 0.3


def test_chunks_shrink_to_the_time_that_is_left(world: World) -> None:
    world.seconds = 0.1
    world.submit("before", asking(8))
    world.run()
    key = Key("m", "exact", 4, 4, "image")
    room = lambda: world.engine.fitting(key, world.now + 100)  # noqa: E731
    assert room() == 100 / 0.1 * PARTIAL_QUERY_SHARE
    deadline = world.now + 1.05
    world.passes.clear()
    facts = {"chunk": 64, "room": lambda: world.engine.fitting(key, deadline)}
    world.submit("a", averaging(100), deadline=deadline, allow_partial=True, **facts)
    world.run()
    assert world.ended["a"].result[0] >= 8, "not one chunk of 64 of which nothing is told"
    assert world.now <= deadline
    assert world.passes[0] == [2]
    assert world.passes[-1] == [1]


def test_time_up_is_thrown_only_once(world: World) -> None:
    thrown = []

    def stubborn(job: Job) -> Steps:
        while True:
            try:
                yield Query(images(1), logit(0), "image")
            except TimeUp as up:
                thrown.append(up)

    world.submit("a", stubborn, deadline=0.1, allow_partial=True)
    world.run()
    assert len(thrown) == 1
    assert isinstance(world.ended["a"].error, TimeUp)


def test_a_pass_shrinks_so_that_the_most_urgent_answer_is_in_time(world: World) -> None:
    world.submit("before", asking(8))
    world.run()
    world.submit("wide", asking(1, 50))
    world.step()
    begun = world.now
    world.submit("urgent", asking(1), deadline=begun + 0.035)
    world.step()
    assert isinstance(world.ended["urgent"].result, torch.Tensor)
    assert world.now <= begun + 0.035
    assert sum(world.passes[-1]) == 3


def test_a_pass_is_no_longer_than_arrivals_may_wait(world: World) -> None:
    world.seconds = MAX_PASS_SECONDS / 5
    world.submit("a", asking(50))
    world.step()
    world.step()
    assert world.passes == [[8], [5]]


def test_out_of_memory_halves_the_pass_and_retries(world: World) -> None:
    def fault(parts: Sequence[Part]) -> None:
        if sum(len(part.rows) for part in parts) > 3:
            raise torch.OutOfMemoryError("no memory")

    world.fault = fault
    world.submit("a", asking(10))
    world.submit("b", asking(1, value=0.5))
    world.run()
    assert torch.equal(world.ended["a"].result, images(10, 2.0))
    assert torch.equal(world.ended["b"].result, images(1, 1.0))
    assert [sum(rows) for rows in world.passes] == [8, 4, 2, 2, 2, 2, 2, 1]
    assert [step.retried for step in world.engine.passes].count(True) == 2
    world.fault = lambda parts: None
    world.submit("c", asking(5))
    world.run()
    assert torch.equal(world.ended["c"].result, images(5, 2.0))


def test_one_row_that_does_not_fit_ends_its_job_alone(world: World) -> None:
    def fault(parts: Sequence[Part]) -> None:
        if any(part.query.images.max() == 9 for part in parts):
            raise torch.OutOfMemoryError("no memory")

    world.fault = fault
    world.submit("big", asking(4, value=9))
    world.submit("small", asking(20))
    world.run()
    assert isinstance(world.ended["big"].error, OutOfMemory)
    assert torch.equal(world.ended["small"].result, images(20, 2.0))


def test_what_a_neighbour_spoiled_is_computed_again_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a kernel that reads past its image: every answer of a pass with a NaN in it is NaN."""

    def leaking(model: Any, parts: Sequence[Part]) -> list[Answer]:
        answers = world.differentiate(model, parts)
        if all(answer.finite for answer in answers):
            return answers
        return [replace(answer, logits=answer.logits * torch.nan, finite=False) for answer in answers]

    monkeypatch.setattr(passes, "differentiate", leaking)
    for name, value in {"a": 1.0, "nan": float("nan"), "b": 3.0}.items():
        world.submit(name, asking(2, value=value))
    world.run()
    assert isinstance(world.ended["nan"].error, NotFinite)
    assert torch.equal(world.ended["a"].result, images(2, 2.0))
    assert torch.equal(world.ended["b"].result, images(2, 6.0))
    assert world.passes == [[2, 2, 2], [2], [2], [2]]


def test_a_job_that_is_not_finite_ends_alone(world: World) -> None:
    for name, value in {"a": 1.0, "nan": float("nan"), "inf": float("inf"), "b": 3.0}.items():
        world.submit(name, asking(2, value=value))
    world.run()
    assert isinstance(world.ended["nan"].error, NotFinite)
    assert isinstance(world.ended["inf"].error, NotFinite)
    assert torch.equal(world.ended["a"].result, images(2, 2.0))
    assert torch.equal(world.ended["b"].result, images(2, 6.0))


def test_an_exception_in_a_method_ends_its_job_alone(world: World) -> None:
    def at_once(job: Job) -> Steps:
        raise ZeroDivisionError("at once")
        yield

    def later(job: Job) -> Steps:
        yield Query(images(1))
        raise ZeroDivisionError("later")

    def not_even_a_generator(job: Job) -> Steps:
        raise ZeroDivisionError("begin")

    def nonsense(job: Job) -> Steps:
        yield 7

    def nothing(job: Job) -> Steps:
        yield Query(images(0))

    def elsewhere(job: Job) -> Steps:
        yield Query(images(1), model="nowhere")

    faulty = [at_once, later, not_even_a_generator, nonsense, nothing, elsewhere]
    world.submit("good", asking(5, 5))
    for method in faulty:
        world.submit(method.__name__, method)
    world.run()
    assert torch.equal(world.ended["good"].result, images(10, 2.0))
    kinds = {name: type(event.error) for name, event in world.ended.items() if event.error}
    assert kinds == {
        **dict.fromkeys(["at_once", "later", "not_even_a_generator"], ZeroDivisionError),
        "nonsense": TypeError,
        "nothing": ValueError,
        "elsewhere": NotApplicable,
    }
    world.submit("after", asking(1))
    world.run()
    assert torch.equal(world.ended["after"].result, images(1, 2.0))


def test_a_query_to_a_model_without_the_jobs_precision_ends_this_job_alone(world: World) -> None:
    only_exact: dict[str, Any] = {"exact": world.engine.models["other"]}
    world.engine.models["other"].at = only_exact.__getitem__  # type: ignore[method-assign, assignment]
    world.submit("bad", asking(1, model="other"), precision="fast")
    world.submit("good", asking(1, model="other"))
    world.run()
    assert isinstance(world.ended["bad"].error, NotApplicable)
    assert "other is not loaded in FAST" in str(world.ended["bad"].error)
    assert world.ended["good"].error is None


def test_a_failing_part_is_tried_alone_and_harms_no_other(world: World) -> None:
    def fault(parts: Sequence[Part]) -> None:
        if any(part.query.images.max() == 9 for part in parts):
            raise RuntimeError("this layer cannot")
        if any(part.query.images.max() == 8 for part in parts):
            raise NotApplicable("not here")

    world.fault = fault
    for name, value in {"a": 1.0, "bad": 9.0, "refused": 8.0, "b": 3.0}.items():
        world.submit(name, asking(2, value=value))
    world.step()
    assert world.passes == [[2, 2, 2, 2], [2], [2], [2], [2]]
    assert isinstance(world.ended["bad"].error, ModelFailed)
    assert "this layer cannot" in str(world.ended["bad"].error)
    assert isinstance(world.ended["refused"].error, NotApplicable)
    assert torch.equal(world.ended["a"].result, images(2, 2.0))
    assert torch.equal(world.ended["b"].result, images(2, 6.0))


def test_progress_goes_to_the_caller_not_to_the_network(world: World) -> None:
    def method(job: Job) -> Steps:
        for i in range(3):
            yield Query(images(1))
            yield Progress(i + 1, 3, {"all": torch.tensor(0.5**i)})
        return "done"

    job = world.submit("a", method)
    world.run()
    assert [(p.job, p.progress.step, p.progress.losses) for p in world.progress] == [
        (job, 1, {"all": 1.0}),
        (job, 2, {"all": 0.5}),
        (job, 3, {"all": 0.25}),
    ]
    assert world.ended["a"].result == "done"
    assert world.passes == [[1]] * 3


def test_a_job_alone_has_one_row_a_pass_and_the_others_share(world: World) -> None:
    """However little time it has, and although memory ran out before."""
    world.engine._limits.lower(Key("m", "exact", 4, 4, "image"), 4)
    world.submit("alone", asking(5), alone=True, deadline=0.101)
    for name in "abcd":
        world.submit(name, asking(1))
    world.run()
    assert [each for each in world.passes if len(each) > 1] == [[1, 1, 1, 1]]
    assert [each for each in world.passes if len(each) == 1] == [[1]] * 5
    assert world.ended["alone"].error is None


def test_without_asking_for_passes_alone_jobs_share_them(world: World) -> None:
    for name in "abcd":
        world.submit(name, asking(2))
    world.run()
    assert world.passes == [[2, 2, 2, 2]]


def test_queries_that_want_to_be_alone_share_no_pass(world: World) -> None:
    world.submit("a", asking(2, unshared=True))
    world.submit("b", asking(3, unshared=True))
    world.submit("c", asking(1))
    world.submit("d", asking(1))
    world.run()
    assert sorted(map(sorted, world.passes)) == [[1, 1], [2], [3]]


def test_keys_take_turns(world: World) -> None:
    world.submit("a", asking(32))
    world.submit("b", asking(32), model="other")
    order = []
    for _ in range(8):
        world.step()
        order.append(world.engine.passes[-1].model)
    assert order in (["m", "other"] * 4, ["other", "m"] * 4)


def test_a_query_of_another_model_runs_there(world: World) -> None:
    world.submit("a", asking(1, model="other"))
    world.run()
    assert [step.model for step in world.engine.passes] == ["other"]


def test_together_asks_all_at_once_and_keeps_answers_apart(world: World) -> None:
    def asking_nothing(job: Job) -> Steps:
        return "nothing"
        yield

    def both(job: Job) -> Steps:
        pair = [Query(images(1, 5.0), wrt="image"), Query(images(2, 6.0), wrt="image")]
        answers = yield pair
        return [a.image_grad for a in answers]

    def all_of_them(job: Job) -> Steps:
        parts = [asking(1, 2, value=1)(job), asking_nothing(job), both(job), asking(1, 1, 1, value=3)(job)]
        return (yield from together(parts))

    world.submit("a", all_of_them)
    world.run()
    first, second, third, fourth = world.ended["a"].result
    assert torch.equal(first, images(3, 2.0))
    assert second == "nothing"
    assert torch.equal(third[0], images(1, 10.0))
    assert torch.equal(third[1], images(2, 12.0))
    assert torch.equal(fourth, images(3, 6.0))
    assert [sum(rows) for rows in world.passes] == [5, 3, 1]


def test_together_closes_all_when_one_fails_or_the_job_is_cancelled(world: World) -> None:
    log: list[str] = []

    def failing(job: Job) -> Steps:
        yield Query(images(1), logit(0), "image")
        raise ZeroDivisionError

    def method(other: Callable[[Job], Steps]) -> Callable[[Job], Steps]:
        return lambda job: together([closing(log, asking(1, 1, 1))(job), other(job)])

    world.submit("fails", method(failing))
    world.submit("cancelled", method(asking(9)))
    world.step()
    assert isinstance(world.ended["fails"].error, ZeroDivisionError)
    world.engine.cancel("cancelled")
    assert sorted(log) == ["cancelled", "fails"]


def test_together_hands_time_up_to_each(world: World) -> None:
    def method(job: Job) -> Steps:
        return together([averaging(4)(job), averaging(100)(job)])

    world.submit("a", method, deadline=0.3, allow_partial=True, chunk=2)
    world.run()
    (first, _), (second, _) = world.ended["a"].result
    assert first == 4
    assert 10 <= second < 30


def test_many_calls_of_one_request_share_the_rows_to_ask_for_at_once(digits: Prepared) -> None:
    """A request of many wide methods and targets must not hold chunks for each of them."""
    asked: list[int] = []
    calls = tuple(Call("smooth_grad", {"samples": 40}, Target(label=i % 10)) for i in range(16))

    def spied(job: Job) -> Iterator[Any]:
        steps = explain(job, torch.rand(1, 3, 8, 8), ExplainArguments(calls))
        answer = None
        while True:
            try:
                queries = steps.send(answer)
            except StopIteration as stop:
                return stop.value
            asked.append(sum(len(q.images) for q in queries))
            answer = yield queries

    engine = Engine({"digits": digits})
    engine.submit(Job("a", "digits", spied, chunk=64))
    ended = [e for _ in range(200) for e in engine.step() if isinstance(e, Ended)]
    assert [answer.done for answer in ended[0].result] == [40] * 16
    assert max(asked) == 64


def test_rows_per_pass_follow_the_device_and_the_size() -> None:
    assert default_rows(CPU, 224, 224) == 8
    assert default_rows(CPU, 32, 32) == 15
    assert default_rows(CPU, 4096, 4096) == 1
    assert default_rows(torch.device("cuda"), 224, 224) == 64
    assert default_rows(torch.device("cuda"), 32, 32) == 256


def test_an_estimate_that_was_too_high_does_not_refuse_for_ever(world: World) -> None:
    world.seconds = 6.0
    world.submit("slow", asking(1))
    world.run()
    world.seconds = 0.01
    answered = 0
    for i in range(30):
        world.submit(f"{i}", asking(1), deadline=world.now + 1)
        world.run()
        answered += isinstance(world.ended[f"{i}"].result, torch.Tensor)
    assert answered >= 20


def test_a_cap_lowered_by_memory_rises_again(world: World) -> None:
    def fault(parts: Sequence[Part]) -> None:
        if sum(len(part.rows) for part in parts) > 2:
            raise torch.OutOfMemoryError("no memory")

    world.fault = fault
    world.submit("a", asking(8))
    world.run()
    assert max(sum(parts) for parts in world.passes[-3:]) == 2
    world.fault = lambda parts: None
    world.submit("b", asking(2000))
    world.run()
    assert max(sum(parts) for parts in world.passes) == 8
    assert sum(world.passes[-2]) == 8


def test_pictures_of_ever_new_sizes_do_not_push_out_the_usual_one(world: World) -> None:
    def sized(side: int) -> Callable[[Job], Steps]:
        def method(job: Job) -> Steps:
            yield Query(torch.ones(1, 3, side, side), logit(0), "image")

        return method

    usual = world.submit("usual", asking(*[1] * 20))
    for side in range(5, 45):
        world.submit(f"size {side}", sized(side))
        world.step()
    assert usual.rows >= 6, "it takes its turn after those that waited longer, not after all that will come"


def test_callers_get_equal_shares_whatever_they_ask_at_once(world: World) -> None:
    for i in range(20):
        world.submit(f"many {i}", asking(50), caller="a")
    world.step()
    world.submit("few", asking(*[1] * 5), caller="b")
    began = world.now
    while "few" not in world.ended:
        world.step()
    assert world.now - began <= 5 * (SHORT_PASS_SECONDS + world.seconds) + 1e-9, (
        "each of its rows waits for a short pass"
    )


def test_passes_over_many_rows_are_short_while_another_caller_asks_for_few(world: World) -> None:
    world.submit("many", asking(500), caller="a")
    world.step()
    world.step()
    assert world.passes[-1] == [8], "alone it fills them"
    world.submit("few", asking(1), caller="b")
    for _ in range(3):
        world.step()
    short = round(SHORT_PASS_SECONDS / world.seconds)
    assert world.passes[-1] == [short]
    while world.now < RECENT_SECONDS:
        world.step()
    world.step()
    world.step()
    assert world.passes[-1] == [8] or world.engine.idle


def test_passes_over_many_rows_are_short_as_long_as_another_callers_job_reads_its_model(world: World) -> None:
    def read(model: Any) -> None:
        world.now += 1.0

    world.submit("many", asking(500), caller="a")
    world.step()
    world.submit("reader", reading(2 * int(RECENT_SECONDS), read), caller="b")
    world.run()
    short = round(SHORT_PASS_SECONDS / world.seconds)
    assert world.passes[2 : 2 * int(RECENT_SECONDS)] == [[short]] * (2 * int(RECENT_SECONDS) - 2)


def test_batch_work_makes_way_for_the_same_callers_interactive_requests(world: World) -> None:
    world.submit("batch", asking(500), priority="batch")
    world.step()
    world.submit("few", asking(1))
    for _ in range(3):
        world.step()
    assert world.passes[-1] == [round(SHORT_PASS_SECONDS / world.seconds)]


def test_under_overload_what_is_late_is_given_up_and_the_others_have_full_passes(world: World) -> None:
    world.submit("before", asking(8))
    world.run()
    for i in range(30):
        world.submit(f"{i}", asking(1), deadline=world.now + (0.05 if i < 5 else 1.0))
    done = world.step()
    assert all(isinstance(world.ended[f"{i}"].error, TimeUp) for i in range(5)), "a full pass takes 0.08 s"
    assert world.passes[-1] == [1] * 8
    assert len(done) == 13


def test_a_job_that_cannot_end_in_time_is_stopped_early(world: World) -> None:
    world.submit("before", asking(8))
    world.run()
    world.submit("hopeless", asking(8, 400), deadline=world.now + 1.0, least_cost=ROW_GFLOP * 408)
    world.submit("partial", asking(8, 400), deadline=world.now + 1.0, least_cost=ROW_GFLOP * 408, allow_partial=True)
    world.submit("unknown", asking(8, 400), deadline=world.now + 1.0)
    world.step()
    assert list(world.ended) == ["before"], "after its first row a job may end"
    world.step()
    world.step()
    assert list(world.ended) == ["before", "hopeless"]
    world.submit("possible", asking(8, 40), deadline=world.now + 1.0, least_cost=ROW_GFLOP * 48)
    for _ in range(4):
        world.step()
    assert "possible" not in world.ended


def test_a_pass_that_was_held_up_stops_no_job_that_can_end_in_time(world: World) -> None:
    world.submit("before", asking(8, 8, 8))
    world.run()
    world.submit("long", asking(8, 800), deadline=world.now + 20.0, least_cost=ROW_GFLOP * 808)

    def hold_up(parts: Sequence[Part]) -> None:
        if len(world.passes) == 6:
            world.now += 2.0  # At the pace of such passes the job would take 200 s.

    world.fault = hold_up
    world.run()
    assert world.ended["long"].error is None


def test_rows_of_cancelled_jobs_are_counted(world: World) -> None:
    world.submit("a", asking(50))
    world.step()
    assert world.engine.progress() == {"a": 8 * ROW_GFLOP}
    world.engine.cancel("a")
    assert world.engine.cancelled_rows == 8


def test_each_pass_is_told_with_its_estimate(world: World) -> None:
    told: list[float] = []
    world.engine.on_pass = told.append
    for rows in (4, 8):
        world.submit(f"{rows} rows", asking(rows))
        world.run()
    assert told == [0.0, pytest.approx(0.08)], "no such pass was run before the first"


def reading(count: int, read: Callable[[Any], object]) -> Callable[[Job], Steps]:
    """A method that reads its model so often, and returns what it was told."""

    def steps(job: Job) -> Steps:
        told = []
        for _ in range(count):
            told.append((yield ModelRead(read)))
        return told

    return steps


def test_passes_of_others_come_between_the_reads_of_a_job(world: World) -> None:
    reads: list[int] = []  # The passes before each read.
    world.submit("reader", reading(4, lambda model: reads.append(len(world.passes))))
    world.submit("a", asking(24))
    world.run()
    assert reads == [1, 2, 3, 3]
    assert {name: ended.error for name, ended in world.ended.items()} == {"reader": None, "a": None}


def test_a_job_is_sent_what_it_reads_of_its_model(world: World) -> None:
    world.submit("reader", reading(2, lambda model: model.name), model="other")
    world.run()
    assert world.ended["reader"].result == ["other", "other"]


def test_the_reads_of_a_job_end_with_its_time(world: World) -> None:
    def read(model: Any) -> None:
        world.now += 1.0

    world.submit("reader", reading(9, read), deadline=2.5)
    world.run()
    assert isinstance(world.ended["reader"].error, TimeUp)
    assert world.now == 3.0


def test_reads_give_way_to_passes_and_to_callers_who_had_less(world: World) -> None:
    done: list[str] = []

    def read_by(caller: str) -> Callable[[Any], None]:
        def read(model: Any) -> None:
            world.now += 1.0
            done.append(caller)

        return read

    for name, caller in (("a", "anna"), ("b", "anna"), ("c", "ben")):
        world.submit(name, reading(2, read_by(caller)), caller=caller)
    world.submit("d", reading(1, read_by("batch")), caller="carl", priority="batch")
    world.submit("e", asking(8, 8), caller="emma")
    world.step()
    assert (len(world.passes), done) == (1, ["anna"]), "one long read, and the next pass comes"
    world.run()
    assert sorted(done[:4]) == ["anna", "anna", "ben", "ben"], "two jobs of one caller have what one of another has"
    assert done[4:] == ["anna", "anna", "batch"]
    assert world.engine.read_seconds == 7.0
    assert world.ended["a"].job.compute == 2.0


def test_short_reads_of_many_jobs_follow_one_pass(world: World) -> None:
    reads: list[int] = []
    for name in "abc":
        world.submit(name, reading(1, lambda model: reads.append(len(world.passes))))
    world.submit("d", asking(24))
    world.run()
    assert reads == [1, 1, 1]


def test_nobody_is_waited_for_while_a_job_reads_its_model(world: World) -> None:
    for _ in range(2):  # Two callers who come back.
        for name in "ab":
            world.submit(name, asking(1))
        world.run()
    world.submit("a", asking(1))
    assert world.engine.worth_waiting() > 0
    world.submit("reader", reading(1, lambda model: None))
    assert world.engine.worth_waiting() == 0


@pytest.mark.parametrize("words", ["CUDA out of memory", "DefaultCPUAllocator: can't allocate memory", "anything else"])
def test_a_read_that_fails_ends_its_job_alone(world: World, words: str) -> None:
    def read(model: Any) -> None:
        raise torch.OutOfMemoryError(words) if "CUDA" in words else RuntimeError(words)

    world.submit("reader", reading(1, read))
    world.submit("a", asking(4))
    world.run()
    error = world.ended["reader"].error
    assert isinstance(error, RuntimeError if words == "anything else" else OutOfMemory)
    assert world.ended["a"].error is None


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError("Unable to allocate")])
def test_a_method_for_which_there_is_no_memory_ends_so(world: World, fault: Exception) -> None:
    def method(job: Job) -> Steps:
        yield Query(images(1), logit(0), "image")
        raise fault

    world.submit("a", method)
    world.run()
    assert isinstance(world.ended["a"].error, OutOfMemory)


def test_each_part_is_told_where_a_pass_fails(world: World) -> None:
    """A pass that fails is run again part by part, which may take many times as long in all."""
    told: list[float] = []
    world.engine.on_pass = told.append

    def fault(parts: Sequence[Part]) -> None:
        if len(parts) > 1:
            raise ArithmeticError("in company")

    world.fault = fault
    for name in "ab":
        world.submit(name, asking(2))
    world.run()
    assert len(told) == 3


def test_the_estimate_of_a_running_pass_is_what_was_measured() -> None:
    pace, key = Pace(), Key("m", "exact", 8, 8, "image")
    pace.learn(key, jobs=1, rows=2, began=0.0, ended=3.0)
    for _ in range(10):
        pace.doubt(key)
    assert pace.row_seconds(key) < 0.1
    assert pace.expected(key, 4) == pytest.approx(6.0)


def test_a_timeline_has_the_passes_of_its_job(world: World) -> None:
    def two_at_once(job: Job) -> Steps:
        yield [Query(images(2), logit(0), "image"), Query(images(1), logit(0), "image")]

    timed = world.submit("timed", two_at_once, timeline=Timeline())
    other = world.submit("other", asking(4, 1))
    world.run()
    assert other.timeline is None
    assert timed.timeline is not None
    assert timed.timeline.passes == [TimedPass(0.0, pytest.approx(0.07), 3, 4, "m", "exact")]
    assert timed.started == 0.0


def test_a_timeline_counts_what_it_does_not_keep(world: World) -> None:
    job = world.submit("long", asking(*[1] * 40), timeline=Timeline())
    world.run()
    assert job.timeline is not None
    assert (len(job.timeline.passes), job.timeline.untimed) == (MAX_TIMED_PASSES, 40 - MAX_TIMED_PASSES)


def test_a_timeline_has_the_pass_that_failed_its_job(world: World) -> None:
    def fail(parts: Sequence[Part]) -> None:
        raise ValueError("no")

    world.fault = fail
    job = world.submit("failed", asking(1), timeline=Timeline())
    world.run()
    assert job.timeline is not None
    assert len(job.timeline.passes) == 1
