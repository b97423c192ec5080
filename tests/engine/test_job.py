"""What a job gives to its method: noise, chunks, warnings."""

import torch

from gradserve_server.engine.job import Job, MethodContext


def test_noise_depends_on_seed_and_index_only() -> None:
    x = torch.zeros(1, 3, 5, 5)
    alone = MethodContext(seed=7).noise(3, x)
    in_another_order = MethodContext(seed=7, chunk=2)
    for i in (9, 0, 3):
        noise = in_another_order.noise(i, x)
    assert torch.equal(noise, alone)
    torch.rand(5)
    assert torch.equal(MethodContext(seed=7).noise(3, x), alone)
    assert not torch.equal(MethodContext(seed=8).noise(3, x), alone)
    assert not torch.equal(MethodContext(seed=7).noise(4, x), alone)


def test_noise_has_the_type_asked_for_and_the_right_spread() -> None:
    normal = MethodContext(seed=1).noise(0, torch.zeros(1, 3, 100, 100, dtype=torch.float64))
    assert normal.dtype == torch.float64
    assert abs(normal.mean()) < 0.02
    assert abs(normal.std() - 1) < 0.02
    uniform = MethodContext(seed=1).noise(0, torch.zeros(1, 3, 100, 100), uniform=True)
    assert uniform.min() >= 0
    assert uniform.max() <= 1
    assert abs(uniform.mean() - 0.5) < 0.02


def test_the_largest_seed_and_index_work() -> None:
    assert torch.isfinite(MethodContext(seed=2**64 - 1).noise(2**31, torch.zeros(4))).all()


def test_parts_cover_all_samples_once() -> None:
    run = MethodContext(chunk=7)
    parts = list(run.parts(50))
    assert [i for part in parts for i in part] == list(range(50))
    assert max(map(len, parts)) == 7
    assert run.asked == 50


def test_parts_ask_before_each_what_there_is_time_for() -> None:
    left = iter([5, 3, 0, -2, 100])
    assert [len(part) for part in MethodContext(chunk=8, room=lambda: next(left)).parts(15)] == [5, 3, 1, 1, 5]


def test_methods_side_by_side_share_the_chunk() -> None:
    job = Job("a", "m", lambda job: iter(()), chunk=32, room=lambda: 20)
    assert job.run().chunk == 32
    assert job.run(beside=4).chunk == 8
    assert job.run(beside=100).chunk == 1
    assert job.run(beside=4).room() == 5


def test_a_warning_is_said_once() -> None:
    run = MethodContext()
    run.warn("careful")
    run.warn("careful")
    run.warn("twice")
    assert run.warnings == ["careful", "twice"]
    assert MethodContext().warnings == []
