"""What runs beside the requests goes on, whatever happens to it."""

import asyncio

import pytest
from structlog.testing import capture_logs

from service.core.tasks import LastRuns, end, keep_running, round_completed, run_to_end, work_failed


async def test_a_task_that_fails_is_logged_and_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.core.tasks.RESTART_AFTER_S", 0)
    begun, again = [], asyncio.Event()

    async def work() -> None:
        begun.append(1)
        if len(begun) == 1:
            raise ValueError("a mistake of ours")
        again.set()
        await asyncio.Event().wait()

    with capture_logs() as lines:
        task = asyncio.create_task(keep_running("sweep", work))
        await asyncio.wait_for(again.wait(), 5)
    await end([task])
    assert [(line["event"], line["task"]) for line in lines] == [("a task failed and begins anew", "sweep")]


async def test_a_report_that_fails_does_not_end_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.core.tasks.RESTART_AFTER_S", 0)
    again = asyncio.Event()
    begun: list[int] = []

    async def work() -> None:
        begun.append(1)
        if len(begun) < 3:
            raise ValueError("a mistake of ours")
        again.set()
        await asyncio.Event().wait()

    class FullDisk:
        def error(self, *_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("service.core.tasks.log", FullDisk())
    task = asyncio.create_task(keep_running("sweep", work))
    await asyncio.wait_for(again.wait(), 5)
    await end([task])


async def test_each_completed_round_of_a_task_is_noted_under_its_name() -> None:
    now = [100.0]
    runs, completed = LastRuns(lambda: now[0]), asyncio.Event()

    async def work() -> None:
        now[0] = 107.0
        round_completed()
        completed.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(keep_running("sweep", work, runs))
    await asyncio.wait_for(completed.wait(), 5)
    await end([task])
    assert runs.at_s == {"sweep": 107.0}


async def test_a_cancellation_that_is_lost_is_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.core.tasks.AGAIN_S", 0)
    heard: list[int] = []

    async def deaf() -> None:
        while len(heard) < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                heard.append(1)

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await asyncio.wait_for(end([task]), 5)
    assert len(heard) == 2


async def test_a_task_that_is_cancelled_while_it_ends_others_leaves_none_of_them_behind() -> None:
    cancelled = 0

    async def hard_of_hearing() -> None:
        nonlocal cancelled
        while cancelled < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled += 1

    inner = asyncio.create_task(hard_of_hearing())
    await asyncio.sleep(0)

    async def outer() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await end([inner])

    ending = asyncio.create_task(outer())
    await asyncio.sleep(0)
    await end([ending])
    assert inner.done()
    assert ending.cancelled()


async def test_a_failure_is_counted_each_time_and_logged_once_a_second() -> None:
    now, done = [0.0], asyncio.Event()
    runs = LastRuns(monotonic=lambda: now[0])

    async def work() -> None:
        for moment in (0.0, 0.4, 0.8, 1.2):
            now[0] = moment
            work_failed(f"at {moment}", "OOM")
        work_failed("another reason", "timeout")
        done.set()
        await asyncio.Event().wait()

    with capture_logs() as lines:
        task = asyncio.create_task(keep_running("sweep", work, runs))
        await asyncio.wait_for(done.wait(), 5)
    await end([task])
    assert runs.failures == {("sweep", "OOM"): 4, ("sweep", "timeout"): 1}
    reported = [(line["kind"], line["reason"], line["times"]) for line in lines]
    assert reported == [("OOM", "at 0.0", 1), ("OOM", "at 1.2", 3), ("timeout", "another reason", 1)]


async def test_a_task_that_an_error_ends_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.core.tasks.RESTART_AFTER_S", 0)
    runs, again = LastRuns(), asyncio.Event()

    async def work() -> None:
        if runs.failures:
            again.set()
            await asyncio.Event().wait()
        raise ValueError("a mistake of ours")

    task = asyncio.create_task(keep_running("sweep", work, runs))
    await asyncio.wait_for(again.wait(), 5)
    await end([task])
    assert runs.failures == {("sweep", "crash"): 1}


async def test_an_error_that_ends_a_task_nobody_waits_for_is_logged_and_counted() -> None:
    runs = LastRuns()

    async def work() -> None:
        raise ValueError("a mistake of ours")

    with capture_logs() as lines:
        await asyncio.create_task(run_to_end("cluster map", work, runs))
        await asyncio.create_task(run_to_end("cluster map", work))
    assert [(line["event"], line["task"]) for line in lines] == 2 * [("a task failed", "cluster map")]
    assert runs.failures == {("cluster map", "crash"): 1}
