"""What operators decide: once, on what is known, with a reason; and how they reach the validator."""

import argparse
import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.local import data_dir
from deploy.local.data_dir import DataDirError
from neurons import operator
from neurons.operator import Unusable, disqualify, reinstate, switch_burn
from shared.environment import SettingsError
from shared.events import BurnSwitched, Disqualified, Event, Reinstated
from shared.submission import fold
from tests.support.stories import disqualified, finished, paid, record, reinstated, story

DOCUMENT = (Path(__file__).parents[2] / "docs" / "validator.md").read_text()
PASSED: tuple[Event, ...] = (paid(), *finished("s1", (100.0,)))
BY = {"reason": "why", "operator": "me@here"}


def test_disqualify_once() -> None:
    assert disqualify(story(*PASSED), **BY) == [Disqualified(submission_id="s1", after_sequence=len(PASSED), **BY)]
    assert disqualify(story(*PASSED, disqualified()), **BY) == []
    assert len(disqualify(story(*PASSED, disqualified(), reinstated()), **BY)) == 1


def test_reinstate_once() -> None:
    story_of_one = story(*PASSED, disqualified())
    assert reinstate(story_of_one, **BY) == [Reinstated(submission_id="s1", after_sequence=len(PASSED) + 1, **BY)]
    assert reinstate(story(*PASSED), **BY) == []
    assert reinstate(story(*PASSED, disqualified(), reinstated()), **BY) == []


def test_nothing_is_decided_about_what_is_not_known() -> None:
    for decide in (disqualify, reinstate):
        with pytest.raises(Unusable, match="no such submission"):
            decide([], **BY)


def switched(sequence: int, *, on: bool) -> BurnSwitched:
    return BurnSwitched(netuid=3, after_sequence=sequence, on=on, **BY)


def test_the_burn_switch_is_off_until_somebody_turns_it() -> None:
    assert switch_burn([], netuid=3, on=False, **BY) == []
    assert switch_burn([], netuid=3, on=True, **BY) == [switched(0, on=True)]
    known = [record(7, switched(0, on=True))]
    assert switch_burn(known, netuid=3, on=True, **BY) == []
    assert switch_burn(known, netuid=3, on=False, **BY) == [switched(7, on=False)]


@given(wishes=st.lists(st.booleans(), max_size=12))
def test_each_wish_is_so_afterwards_and_only_changes_are_written(wishes: list[bool]) -> None:
    switches, submission = story(), story(*PASSED)
    for on in wishes:
        turned = switch_burn(switches, netuid=3, on=on, **BY)
        switches += [record(len(switches) + 1, event) for event in turned]
        decided: Sequence[Event] = disqualify(submission, **BY) if on else reinstate(submission, **BY)
        submission += [record(len(submission) + 1, event) for event in decided]
        state = fold(submission)
        assert state is not None
        assert (state.disqualified is not None) == on
        assert switch_burn(switches, netuid=3, on=on, **BY) == []
    turns = sum(now != before for before, now in zip([False, *wishes], wishes, strict=False))
    assert (len(switches), len(submission)) == (turns, len(PASSED) + turns)
    assert len({recorded.envelope.id for recorded in [*switches, *submission]}) == len(switches) + len(submission)


@pytest.mark.parametrize("wrong", ["", " ", "two\nlines", "\x1b[31mred", "\udcff", "x" * 1001])
def test_a_reason_is_one_line_that_can_be_read(wrong: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="say why"):
        operator._reason(wrong)
    assert operator._reason(" it reads the clock ") == "it reads the clock"


@pytest.mark.parametrize("wrong", ["", "*", ">", "s1", "A" * 32, "a" * 33, f"{'a' * 32}\n", f"{'a' * 31}."])
def test_only_an_id_is_one(wrong: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="32 lower-case hex digits"):
        operator._submission_id(wrong)


@contextlib.contextmanager
def validator(folder: Path, url: str) -> Iterator[None]:
    """What a running one shows of itself."""
    with data_dir.hold(folder):
        data_dir.publish_nats_url(folder, url)
        yield


def test_where_the_validator_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator, "default_data_dir", lambda name: tmp_path / name)
    with pytest.raises(SettingsError, match="no validator runs on this machine; start it, or set"):
        operator.nats_url({})
    with validator(tmp_path / "validator", "nats://free"):
        assert operator.nats_url({}) == "nats://free"
        with validator(tmp_path / "validator-paid", "nats://paid"):
            with pytest.raises(SettingsError, match="two validators run; set TOURNAMENT_DATA_DIR to one of"):
                operator.nats_url({})
            named = {"TOURNAMENT_DATA_DIR": str(tmp_path / "validator-paid")}
            assert operator.nats_url(named) == "nats://paid"
            assert operator.nats_url({**named, "TOURNAMENT_NATS_URL": "nats://elsewhere"}) == "nats://elsewhere"
        with pytest.raises(DataDirError, match="no validator runs in"):
            operator.nats_url(named)


def test_every_decision_and_flag_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    for decision in ("burn", "disqualify", "reinstate"):
        with pytest.raises(SystemExit):
            operator.main([decision, "--help"])
        flags = set(re.findall(r"(?<![\w-])--[a-z]+", capsys.readouterr().out)) - {"--help"}
        assert f"python -m neurons.operator {decision}" in DOCUMENT
        assert [flag for flag in sorted(flags) if flag not in DOCUMENT] == []
