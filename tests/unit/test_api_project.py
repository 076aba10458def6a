"""The projection without Postgres: given these events, these rows, however they are cut into batches."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.project import (
    ClaimRow,
    CreditRow,
    EventRow,
    FinishRow,
    Rows,
    RunRow,
    StandingRow,
    SubmissionRow,
    decode_state,
    project,
    touched,
)
from shared import request
from shared.events import (
    CATALOGUE,
    CreditGranted,
    Event,
    LeaderboardChanged,
    MessageDeadLettered,
    Payment,
    PaymentClaimed,
    PaymentRefused,
    Recorded,
    RunCompleted,
    Standing,
    SubmissionPaid,
    Verified,
    WeightsSet,
    decode,
)
from shared.faults import UnknownEvent
from shared.submission import Submission, fold
from tests.support.stories import (
    ALICE,
    BEGIN,
    BOB,
    CODE,
    COMPETITION,
    TRANSFER,
    abandoned,
    claimed,
    completed,
    credited,
    disqualified,
    finished,
    paid,
    record,
    refused,
    reinstated,
    requested,
    started,
    story,
    verified,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "events"
FAILED: tuple[Event, ...] = (paid(), requested(), started(), completed(), verified(failure="output_mismatch"))


@dataclass
class Tables:
    """What the statements of queries.sql do with rows, in memory."""

    submissions: dict[str, SubmissionRow] = field(default_factory=dict)
    claims: dict[str, ClaimRow] = field(default_factory=dict)
    credits: dict[str, CreditRow] = field(default_factory=dict)
    finishes: dict[tuple[str, int], FinishRow] = field(default_factory=dict)
    evaluations: dict[tuple[str, str], RunRow] = field(default_factory=dict)
    standings: dict[tuple[str, str], StandingRow] = field(default_factory=dict)
    weights: dict[int, EventRow] = field(default_factory=dict)
    dead_letters: dict[int, EventRow] = field(default_factory=dict)

    def states(self, names: Iterable[str]) -> dict[str, Submission]:
        return {name: decode_state(self.submissions[name].state) for name in names if name in self.submissions}

    def save(self, rows: Rows) -> None:
        self.submissions |= rows.submissions
        for claim, new in rows.claims.items():
            old = self.claims.get(claim, new)
            self.claims[claim] = old._replace(
                updated_at=new.updated_at,
                claimed=new.claimed or old.claimed,
                refused=new.refused or old.refused,
                paid=new.paid or old.paid,
            )
        self.credits = rows.credits | self.credits
        self.evaluations |= rows.runs
        for key, verdict in rows.verdicts.items():
            sequence, judged = verdict.verified_sequence, verdict.verified
            self.evaluations[key] = self.evaluations[key]._replace(verified_sequence=sequence, verified=judged)
        assert not rows.finishes.keys() & self.finishes.keys()
        self.finishes |= rows.finishes
        assert not rows.left.keys() & rows.standings.keys()
        for gone in rows.left:
            self.standings.pop(gone, None)
        self.standings |= rows.standings
        assert not rows.weights.keys() & self.weights.keys()
        assert not rows.dead_letters.keys() & self.dead_letters.keys()
        self.weights |= rows.weights
        self.dead_letters |= rows.dead_letters


def projected(*batches: Sequence[Recorded]) -> Tables:
    tables = Tables()
    for batch in batches:
        tables.save(project(tables.states(touched(batch)), batch))
    return tables


def ranked(submission: str, score: float, *, cause: int = 1, competition: str = COMPETITION) -> LeaderboardChanged:
    entry = Standing(
        rank=1, submission_id=submission, miner_hotkey=ALICE, miner_uid=7, score=score, submitted_sequence=1
    )
    return LeaderboardChanged(competition=competition, cause_sequence=cause, entry=entry, ranked=1, top=(entry,))


def left(submission: str, *, cause: int = 2, competition: str = COMPETITION) -> LeaderboardChanged:
    return LeaderboardChanged(
        competition=competition, cause_sequence=cause, entry=None, ranked=0, top=(), removed_submission_id=submission
    )


CLAIM = request.claim_id(TRANSFER, miner_hotkey=ALICE, code_sha256=CODE)


def bought(submission: str = "s1", *, reference: str = TRANSFER, hotkey: str = ALICE) -> SubmissionPaid:
    """A submission that was really paid for."""
    payment = Payment(reference=reference, amount_rao=100_000_000, payer=BOB, recipient=BOB, block_number=7)
    return msgspec.structs.replace(paid(submission, hotkey=hotkey), payment=payment)


def weights(interval: int) -> WeightsSet:
    return WeightsSet(
        netuid=3,
        interval=interval,
        interval_seconds=600,
        reason="burn_no_leader",
        hotkey=None,
        uid=None,
        weight=0.0,
        leader_submission_id=None,
        outcome="no_chain",
        detail="no chain is configured",
    )


def dead_letter(sequence: int) -> MessageDeadLettered:
    return MessageDeadLettered(consumer="c", sequence=sequence, subject="tournament.x", deliveries=5, error="poison")


def test_a_finished_submission() -> None:
    events = story(paid(), *finished("s1", (100.0, 300.0)), ranked("s1", 200.0, cause=7))
    tables = projected(events)
    row = tables.submissions["s1"]
    assert row[:3] == ("s1", "finished", 200.0)
    assert (row.created_at, row.updated_at) == (events[0].envelope.time, events[6].envelope.time)
    assert [
        (run.run_id, run.evaluation_id, run.sequence, run.verified_sequence) for run in tables.evaluations.values()
    ] == [
        ("evaluation-s1-0", "evaluation-s1", 4, 5),
        ("evaluation-s1-1", "evaluation-s1", 6, 7),
    ]
    assert list(tables.standings.values()) == [(COMPETITION, "s1", ALICE, 7, 200.0, 1, 7)]


def test_the_state_is_the_shared_fold_without_logs() -> None:
    events = story(*FAILED)
    state = fold(events)
    assert state is not None
    (run,) = state.runs
    without = msgspec.structs.replace(run, completed=msgspec.structs.replace(run.completed, log_tail=""))
    tables = projected(events)
    assert tables.states(["s1"])["s1"] == msgspec.structs.replace(state, runs=(without,))
    assert tables.submissions["s1"].status == "failed_validation"
    (stored,) = tables.evaluations.values()
    assert stored.verified is not None
    assert msgspec.json.decode(stored.completed, type=RunCompleted) == without.completed
    assert msgspec.json.decode(stored.verified, type=Verified) == run.verified


RUNS: list[tuple[str, tuple[Event, ...], list[tuple[str, bool]]]] = [
    ("only paid", (paid(),), []),
    ("a run is not judged yet", FAILED[:-1], [("e1-0", False)]),
    ("a run is judged", FAILED, [("e1-0", True)]),
    ("only the first verdict counts", (*FAILED, verified()), [("e1-0", True)]),
    ("a fenced-off attempt", (*FAILED[:3], started(attempt=2), completed(attempt=1)), []),
    ("out of turn", (*FAILED[:3], completed(1)), []),
    ("told twice", (*FAILED[:4], completed()), [("e1-0", False)]),
    ("given up", (*FAILED[:4], abandoned()), [("e1-0", False)]),
    (
        "a re-test keeps the runs before it",
        (*FAILED, *finished("s1", (1.0, 2.0), evaluation="e2")),
        [("e1-0", True), ("e2-0", True), ("e2-1", True)],
    ),
    (
        "a verdict that comes after a re-test began",
        (*FAILED[:4], requested(evaluation="e2"), verified()),
        [("e1-0", False)],
    ),
    (
        "an evaluation that is taken up again",
        (*FAILED, requested(evaluation="e2"), requested(evaluation="e1"), started(), completed()),
        [("e1-0", False)],
    ),
]


@pytest.mark.parametrize(("why", "given_events", "expected"), RUNS, ids=[row[0] for row in RUNS])
def test_runs(why: str, given_events: tuple[Event, ...], expected: list[tuple[str, bool]]) -> None:
    events = story(*given_events)
    for tables in (projected(events), projected(*([recorded] for recorded in events))):
        assert [(run.run_id, run.verified is not None) for run in tables.evaluations.values()] == expected, why


def test_given_up_is_an_error() -> None:
    assert projected(story(paid(), requested(), abandoned())).submissions["s1"].status == "error"


def test_equal_run_ids_of_two_submissions_are_two_runs() -> None:
    both = (*FAILED, paid("s2"), requested("s2"), started("s2"), completed(submission="s2"))
    assert len(projected(story(*both)).evaluations) == 2


def test_what_was_never_paid_has_no_row() -> None:
    assert projected(story(requested(), started(), completed(), verified())) == Tables()


def test_the_latest_entry_of_a_submission_stands_in_each_competition() -> None:
    events = story(ranked("s1", 5.0), ranked("s1", 4.0, cause=9), ranked("s1", 6.0, competition="d" * 64))
    for tables in (projected(events), projected(*([recorded] for recorded in events))):
        assert {key: row.score for key, row in tables.standings.items()} == {
            (COMPETITION, "s1"): 4.0,
            ("d" * 64, "s1"): 6.0,
        }


def test_whoever_left_the_ranking_has_no_row_until_it_returns() -> None:
    first, second = ranked("s1", 5.0), ranked("s2", 4.0)
    events = story(first, second, left("s1"), left("s9"), ranked("s1", 5.0, cause=3), left("s2", cause=4))
    for end, names in ((2, {"s1", "s2"}), (3, {"s2"}), (4, {"s2"}), (5, {"s1", "s2"}), (6, {"s1"})):
        for tables in (projected(events[:end]), projected(*([recorded] for recorded in events[:end]))):
            assert {name for _, name in tables.standings} == names
    assert projected(events[:2], events[2:5], events[5:]) == projected(events)


def test_every_evaluation_that_was_passed_says_of_how_many_runs() -> None:
    events = (paid(), *finished("s1", (1.0, 2.0), evaluation="e1"), *finished("s1", (1.0,), evaluation="e2"))
    expected = [("s1", 7, COMPETITION, 2), ("s1", 11, COMPETITION, 1)]
    assert list(projected(story(*events)).finishes.values()) == expected
    # Those too that were passed while it was disqualified: it may return.
    away = story(paid(), disqualified(), *finished("s1", (1.0, 2.0)), reinstated())
    assert list(projected(away).finishes.values()) == [("s1", 8, COMPETITION, 2)]
    assert projected(story(*FAILED)).finishes == {}


def test_a_disqualified_submission_says_so_until_it_is_reinstated() -> None:
    events = (paid(), *finished("s1", (100.0,)), disqualified())
    tables = projected(story(*events))
    assert tables.submissions["s1"][1:3] == ("failed_validation", None)
    assert tables.states(["s1"])["s1"].error_message == "disqualified: it reads the clock"
    assert projected(story(*events, reinstated())).submissions["s1"][1:3] == ("finished", 100.0)


def test_what_an_older_release_stored_of_a_submission_can_be_read() -> None:
    row = projected(story(*FAILED)).submissions["s1"]
    older = msgspec.json.decode(row.state)
    del older["disqualified"]
    assert decode_state(msgspec.json.encode(older).decode()) == decode_state(row.state)


def test_a_claim_keeps_each_of_its_events() -> None:
    events = story(claimed(CLAIM), refused(CLAIM), bought())
    for tables in (projected(events), projected(*([recorded] for recorded in events))):
        (row,) = tables.claims.values()
        assert row[:3] == (CLAIM, TRANSFER, 1)
        assert (row.created_at, row.updated_at) == (events[0].envelope.time, events[2].envelope.time)
        assert (row.claimed, row.refused, row.paid) == tuple(
            msgspec.json.encode(recorded.event).decode() for recorded in events
        )
        assert tables.submissions["s1"].status == "pending"


def test_claims_of_others_on_the_same_payment_are_others() -> None:
    other = request.claim_id(TRANSFER, miner_hotkey=BOB, code_sha256=CODE)
    tables = projected(story(claimed(other, hotkey=BOB), bought(), bought(hotkey=BOB)))
    assert [(row.claim_id, row.claimed is None, row.paid is None) for row in tables.claims.values()] == [
        (other, False, True),
        (CLAIM, True, False),
    ]


def test_what_cost_nothing_is_no_payment() -> None:
    assert projected(story(paid())).claims == {}


def test_a_credit_knows_what_it_buys() -> None:
    reference = request.credit_reference("c" * 32)
    granted = credited("c" * 32)
    spends = bought(request.submission_id(reference), reference=reference)
    tables = projected(story(paid(), requested(), abandoned(), granted, spends))
    (row,) = tables.credits.values()
    assert (row.credit_id, row.sequence, row.miner_hotkey, row.submission_id) == ("c" * 32, 4, ALICE, "s1")
    assert row.buys in tables.submissions
    assert msgspec.json.decode(row.event, type=CreditGranted) == granted


def test_postgres_stores_no_nul() -> None:
    event = ranked("s1", 5.0)
    assert event.entry is not None
    hostile = msgspec.structs.replace(event, entry=msgspec.structs.replace(event.entry, miner_hotkey="a\0b"))
    assert projected([record(1, hostile)]).standings[COMPETITION, "s1"].miner_hotkey == "a\N{REPLACEMENT CHARACTER}b"
    rows = projected(story(paid(hotkey="a\0b"), requested(), abandoned()))
    assert "\0" not in rows.submissions["s1"].state + rows.submissions["s1"].miner_hotkey
    assert projected(story(credited(hotkey="a\0b"))).credits["c1"].miner_hotkey == "a\N{REPLACEMENT CHARACTER}b"
    assert rows.states(["s1"])["s1"].paid.miner_hotkey == "a\0b"


def test_weights_and_dead_letters_are_kept_as_they_are() -> None:
    tables = projected(story(weights(1), dead_letter(7), weights(2)))
    assert [msgspec.json.decode(row.event, type=WeightsSet) for row in tables.weights.values()] == [
        weights(1),
        weights(2),
    ]
    (letter,) = tables.dead_letters.values()
    assert (letter.sequence, msgspec.json.decode(letter.event, type=MessageDeadLettered)) == (2, dead_letter(7))


def test_only_the_states_of_touched_submissions_are_needed() -> None:
    assert touched(story(paid("s2"), weights(1), paid("s1"), requested("s2"), ranked("s3", 1.0))) == ["s1", "s2"]


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_event_has_a_rule(name: str) -> None:
    for file in GOLDEN.glob(f"{name}.v*.json"):
        envelope = decode(file.read_bytes())
        project({}, [record(1, envelope.data)])


class Unheard(Event, frozen=True, kw_only=True):
    """A new event outside of the submissions' stories."""

    key = ("name",)
    name: str


def test_an_event_without_a_rule_is_not_skipped() -> None:
    recorded = record(1, weights(1))
    unheard = msgspec.structs.replace(recorded.envelope, type="Unheard", data=Unheard(name="x"))
    with pytest.raises(UnknownEvent, match="Unheard is not projected yet"):
        project({}, [msgspec.structs.replace(recorded, envelope=unheard)])


def stories(name: str) -> list[tuple[Event, ...]]:
    """Every kind of life that a submission has."""
    first, second = f"{name}-e1", f"{name}-e2"
    begun = (paid(name), requested(name, first), started(name, first))
    run = completed(submission=name, evaluation=first)
    failed = (*begun, run, verified(submission=name, evaluation=first, failure="crashed"))
    passed = (paid(name), *finished(name, (100.0, 300.0), evaluation=first), ranked(name, 200.0))
    taken_over = (
        *begun,
        run,
        started(name, first, attempt=2),
        completed(1, submission=name, evaluation=first, attempt=2),
    )
    return [
        (paid(name),),
        failed,
        passed,
        (*begun, run, abandoned(name, first)),
        (*taken_over, completed(2, submission=name, evaluation=first, attempt=1)),
        (*failed, *finished(name, (7.0,), evaluation=second), ranked(name, 7.0)),
        (*passed, requested(name, second), started(name, second), completed(submission=name, evaluation=second)),
        (*failed[:4], requested(name, second), failed[4]),
        (*passed, disqualified(name), left(name)),
        (*passed, disqualified(name), left(name), reinstated(name), ranked(name, 200.0, cause=9)),
        (paid(name), disqualified(name), *passed[1:-1], reinstated(name), ranked(name, 200.0, cause=9)),
        _presented(name),
        (*_presented(name)[1:], *_presented(name)[:1]),
        (*begun, abandoned(name, first), credited(f"{name}-c", submission=name)),
    ]


def _presented(name: str) -> tuple[PaymentClaimed, PaymentRefused, SubmissionPaid]:
    """A payment that waits, is refused, and buys in the end: not always in this order."""
    reference = f"{TRANSFER}{name}"
    claim = request.claim_id(reference, miner_hotkey=ALICE, code_sha256=CODE)
    return (
        msgspec.structs.replace(claimed(claim, submission=name), payment_reference=reference),
        msgspec.structs.replace(refused(claim, submission=name), payment_reference=reference),
        bought(name, reference=reference),
    )


NAMES = ("s1", "s2", "s3")
OTHERS: tuple[Event, ...] = (weights(1), dead_letter(3), weights(2))


@st.composite
def interleaved(draw: st.DrawFn) -> list[Event]:
    """Some stories, each in its own order, mixed in any way."""
    chosen = [draw(st.sampled_from(stories(name))) for name in NAMES]
    waiting = [list(events) for events in (*chosen, OTHERS)]
    turns = [number for number, events in enumerate(waiting) for _ in events]
    return [waiting[number].pop(0) for number in draw(st.permutations(turns))]


@given(events=interleaved(), data=st.data())
def test_batches_of_any_size_give_the_same_rows(events: list[Event], data: st.DataObject) -> None:
    whole = story(*events)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1))))
    batches = [whole[begin:end] for begin, end in itertools.pairwise([0, *cuts, len(whole)])]
    assert projected(*batches) == projected(whole) == projected(*([recorded] for recorded in whole))


@given(events=interleaved())
def test_how_stories_are_mixed_changes_no_row_of_theirs(events: list[Event]) -> None:
    mixed = projected(story(*events))
    for name in NAMES:
        own = [event for event in events if name in (getattr(event, "submission_id", ""), _ranks(event))]
        assert _timeless(mixed, name) == _timeless(projected(story(*own)), name)


def _ranks(event: Event) -> str | None:
    if not isinstance(event, LeaderboardChanged):
        return None
    return event.removed_submission_id if event.entry is None else event.entry.submission_id


def _timeless(tables: Tables, name: str) -> object:
    """The rows of one submission, without the sequences and times, which depend on what is between its events."""
    state = tables.states([name])[name]
    same = msgspec.structs.replace(state, created_at=BEGIN, updated_at=BEGIN, last_sequence=0, paid_sequence=0)
    runs = {
        key: (run.evaluation_id, run.completed, run.verified)
        for key, run in tables.evaluations.items()
        if key[0] == name
    }
    return (
        same,
        tables.submissions[name][:3],
        runs,
        {key: row for key, row in tables.standings.items() if key[1] == name},
        [row[2:] for row in tables.finishes.values() if row.submission_id == name],
        [
            (row.claimed, row.refused, row.paid)
            for row in tables.claims.values()
            if row.reference.removeprefix(TRANSFER) == name
        ],
        [row.event for row in tables.credits.values() if row.submission_id == name],
    )
