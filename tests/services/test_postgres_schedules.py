"""Schedules on one PostgreSQL journal: only the process that has it fires, and the next one goes on where it was killed."""

from __future__ import annotations

import pytest

from seqtor import JournalLocked
from tests.crash.schedules_program import Contenders, killed_at_the_end, office, require_each_slot_once
from tests.services.postgres import until


def test_of_two_processes_on_one_journal_only_one_fires_and_the_other_goes_on_when_it_is_killed(url: str) -> None:
    for lines in (2, 6):
        with killed_at_the_end(url, lines), pytest.raises(JournalLocked):
            office(url).start()
    with office(url) as system:
        before = system.schedules()[0].started
        until(lambda: system.schedules()[0].started > before + 3, "it goes on")
        require_each_slot_once(system)


def test_of_five_processes_at_once_only_the_leader_fires_and_another_goes_on_when_it_is_killed(url: str) -> None:
    leaders: list[int] = []
    with Contenders(url, 5) as crowd:
        for commits in (3, 8, 20):
            word, leader = crowd.next()
            assert word == "leads"
            told = 0
            while told < commits or len(crowd.stood_by - {*leaders, leader}) < 4 - len(leaders):
                assert crowd.next() == ("commits", leader), "somebody else commits"
                told += 1
            crowd.kill(leader)
            leaders.append(leader)
        word, leader = crowd.next()
        assert word == "leads"
        assert leader not in leaders
        assert crowd.next() == ("commits", leader)
    with office(url) as system:
        before = system.schedules()[0].started
        until(lambda: system.schedules()[0].started > before + 3, "it goes on")
        require_each_slot_once(system)
        fired_in = {each.epoch for each in system.commits(limit=None) if each.trigger.type == "schedules-program.ring"}
        assert len(fired_in) >= 4, "every leader has fired"
