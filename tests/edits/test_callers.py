"""An edit acts for the caller who made it: another thread or task that asks meanwhile gets the answer it asked for."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest

import vila_lab
from vila_lab.session import Session

EDGE = "image_1 -> *"
ROUNDS = 200


@pytest.fixture
def session(golden_session) -> Session:
    """A session of its own on a model that others use as well."""
    return Session(golden_session("nvila-resize").family, "callers")


@pytest.fixture
def ask(session, golden_image):
    picture = golden_image("a_land.png")

    def answer() -> vila_lab.Answer:
        return session.ask([picture, "What?"], max_new_tokens=1)

    return answer


def score(answer: vila_lab.Answer) -> tuple[float, int]:
    return answer.tokens[0].logprob, len(answer.edits)


@pytest.fixture
def expected(session, ask) -> tuple[tuple[float, int], tuple[float, int]]:
    """What is said with the edit, and without."""
    plain = score(ask())
    with session.knockout(EDGE):
        edited = score(ask())
    assert edited[0] != plain[0]
    return edited, plain


def test_two_threads_get_what_each_asked_for(session, ask, expected):
    """One asks inside a knock-out, the other does not, again and again at the same time."""
    start, found = threading.Barrier(2), {"edited": [], "plain": []}

    def inside() -> None:
        start.wait()
        for _ in range(ROUNDS):
            with session.knockout(EDGE):
                found["edited"].append(score(ask()))

    def outside() -> None:
        start.wait()
        for _ in range(ROUNDS):
            found["plain"].append(score(ask()))

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(inside), pool.submit(outside)]:
            done.result()
    assert set(found["edited"]) == {expected[0]}
    assert set(found["plain"]) == {expected[1]}
    assert not session.edits


def test_an_edit_without_a_block_is_its_threads_own(session, ask, expected):
    handle = session.knockout(EDGE)
    assert score(ask()) == expected[0]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: len(session.edits)).result() == 0
        assert score(pool.submit(ask).result()) == expected[1]
    handle.remove()
    assert score(ask()) == expected[1]


def test_tasks_of_one_thread_do_not_see_each_others_blocks(session, ask, expected):
    async def both() -> tuple[tuple[float, int], tuple[float, int], int]:
        entered, asked = asyncio.Event(), asyncio.Event()

        async def inside() -> tuple[float, int]:
            with session.knockout(EDGE):
                entered.set()
                await asked.wait()
                return score(ask())

        async def outside() -> tuple[tuple[float, int], int]:
            await entered.wait()
            found = score(ask()), len(session.edits)
            asked.set()
            return found

        edited, (plain, edits) = await asyncio.gather(inside(), outside())
        return edited, plain, edits

    with ThreadPoolExecutor(
        1
    ) as pool:  # a thread of its own: a notebook's kernel may have left a loop running in this one
        assert pool.submit(lambda: asyncio.run(both())).result() == (*expected, 0)


def test_what_is_started_inside_a_block_is_inside(session, ask, expected):
    """As `asyncio.to_thread` does."""
    with session.knockout(EDGE), ThreadPoolExecutor(1) as pool:
        assert score(pool.submit(copy_context().run, ask).result()) == expected[0]
        assert score(pool.submit(ask).result()) == expected[1]


def test_a_block_that_has_ended_acts_nowhere_any_more(session, ask, expected):
    with session.knockout(EDGE):
        context = copy_context()
        assert score(context.run(ask)) == expected[0]
    assert score(context.run(ask)) == expected[1]
    assert score(ask()) == expected[1]


def test_clearing_is_for_the_caller_and_unloading_for_all(golden_session):
    session = Session(golden_session("nvila-resize").family, "cleared")
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(session.knockout, EDGE).result()
        mine = session.knockout(EDGE)
        session.clear_edits()
        assert (theirs.active, mine.active) == (True, False)
        session.unload()
        assert not theirs.active


@pytest.mark.parametrize("block", [True, False], ids=["block", "no block"])
def test_an_edit_that_was_removed_keeps_nothing(session, block):
    class Watched:
        def __call__(self, event) -> None: ...

    watched = Watched()
    seen = weakref.ref(watched)
    handle = session.on_hidden(watched)
    if block:
        with handle:
            pass
    handle.remove()
    del handle, watched
    gc.collect()
    assert seen() is None


def test_order_is_that_of_making_across_blocks(session):
    first = session.knockout(EDGE)
    with session.knockout("image_1 -> answer") as second:
        third = session.knockout("image_1 -> question")
        assert session.edits == (first, second, third)
    assert session.edits == (first, third)
    session.clear_edits()
