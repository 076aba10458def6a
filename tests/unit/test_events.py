"""The wire format of events: what was written once is read for ever, and read as it was meant."""

import types
import typing
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import events, subjects
from shared.events import (
    CATALOGUE,
    BurnSwitched,
    Check,
    Envelope,
    Event,
    LeaderboardChanged,
    MessageDeadLettered,
    Standing,
    Verified,
    WeightsDecided,
    WeightsSet,
)
from shared.faults import UnknownEvent
from shared.upcasters import Fields, upcast
from tests.support import stories

Steps = dict[tuple[str, int], Callable[[Fields], Fields]]

GOLDEN = Path(__file__).parents[1] / "golden" / "events"

STANDING = Standing(
    rank=1, submission_id="s1", miner_hotkey=stories.ALICE, miner_uid=4, score=123.5, submitted_sequence=1
)
EXAMPLES: dict[str, Event] = {
    type(example).__name__: example
    for example in (
        stories.paid(uid=4),
        stories.requested(),
        stories.started(),
        stories.completed(),
        Verified(
            submission_id="s1",
            evaluation_id="e1",
            run_id="e1-0",
            run_index=0,
            failure="output_mismatch",
            detail="the output vectors differ by 3.2 %, allowed 1 %",
            checks=(
                Check(name="output_vectors", value=0.032, threshold=0.01, margin=-0.022, passed=False, detail="row 1"),
                Check(name="update", value=None, threshold=0.2, margin=None, passed=False, detail="NaN or infinity"),
            ),
            tokens_per_second=5120.0,
        ),
        stories.abandoned(),
        LeaderboardChanged(
            competition=stories.COMPETITION, cause_sequence=6, entry=STANDING, ranked=1, top=(STANDING,)
        ),
        stories.claimed(),
        stories.refused(),
        stories.credited(),
        stories.disqualified(),
        stories.reinstated(),
        BurnSwitched(netuid=3, after_sequence=0, on=True, reason="a leader cheats", operator="root@host"),
        WeightsDecided(
            netuid=3,
            interval=2_954_321,
            interval_seconds=600,
            attempt=1,
            instance="host-1",
            reason="leader",
            hotkey=stories.ALICE,
            uid=4,
            leader_submission_id="s1",
            chain_block=120,
        ),
        WeightsSet(
            netuid=3,
            interval=2_954_321,
            interval_seconds=600,
            reason="leader",
            hotkey=stories.ALICE,
            uid=4,
            weight=1.0,
            leader_submission_id="s1",
            outcome="no_chain",
            detail="no chain is configured; nothing was sent",
        ),
        MessageDeadLettered(
            consumer="verifier-judge",
            sequence=5,
            subject="tournament.submission.s1.run_completed",
            deliveries=1,
            error="not an evidence file",
        ),
    )
}


def envelope(event: Event) -> Envelope:
    return stories.record(1, event).envelope


@pytest.mark.parametrize("kind", CATALOGUE)
def test_every_event_type_has_a_golden_file_of_the_version_it_writes(kind: str) -> None:
    path = GOLDEN / f"{kind}.v{CATALOGUE[kind].version}.json"
    written = path.read_bytes().removesuffix(b"\n")
    assert events.decode(written) == envelope(EXAMPLES[kind])
    assert events.encode(envelope(EXAMPLES[kind])) == written


@pytest.mark.parametrize("path", sorted(GOLDEN.iterdir()), ids=lambda path: path.name)
def test_every_version_ever_written_decodes_to_the_current_one(path: Path) -> None:
    kind = path.name.split(".")[0]
    decoded = events.decode(path.read_bytes())
    assert type(decoded.data) is CATALOGUE[kind]
    assert decoded.version == CATALOGUE[kind].version


def of_type(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of an event field's type."""
    origin = get_origin(annotation)
    if origin is Literal:
        return st.sampled_from(get_args(annotation))
    if origin is tuple:
        return st.lists(of_type(get_args(annotation)[0]), max_size=3).map(tuple)
    if origin in (types.UnionType, typing.Union):
        return st.one_of(*(of_type(choice) for choice in get_args(annotation)))
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        fields = {field.name: of_type(field.type) for field in msgspec.structs.fields(annotation)}
        return st.builds(annotation, **fields)
    return {
        str: st.text(max_size=20),
        int: st.integers(-(2**63), 2**63 - 1),
        float: st.floats(allow_nan=False, allow_infinity=False),
        bool: st.booleans(),
        type(None): st.none(),
    }[annotation]


@given(
    event=st.one_of(*(of_type(kind) for kind in CATALOGUE.values())),
    time=st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    causation_id=st.none() | st.text(max_size=5),
)
def test_any_event_survives_the_wire(event: Event, time: datetime, causation_id: str | None) -> None:
    original = Envelope(
        id=event.id,
        type=type(event).__name__,
        version=event.version,
        time=time,
        producer="test",
        causation_id=causation_id,
        correlation_id="s1",
        data=event,
    )
    assert events.decode(events.encode(original)) == original


@pytest.mark.parametrize("kind", CATALOGUE)
def test_an_event_has_a_subject_under_its_aggregate(kind: str) -> None:
    subject = subjects.subject_of(EXAMPLES[kind])
    assert subject.startswith("tournament.")
    assert len(subject.split(".")) == 4


def test_the_filters_name_the_aggregates_of_the_subjects() -> None:
    assert subjects.submission("s1") == "tournament.submission.s1.>"
    assert subjects.leaderboard("c") == "tournament.leaderboard.c.>"
    assert subjects.weights(3) == "tournament.weights.3.>"
    assert subjects.dead_letters("verifier-judge") == "tournament.consumer.verifier-judge.>"


def test_an_event_without_a_place_in_the_stream_is_a_bug() -> None:
    with pytest.raises(TypeError, match="Event has no subject"):
        subjects.subject_of(Event())


def test_the_same_fact_has_the_same_id_whatever_else_it_says() -> None:
    first, again = stories.completed(tps=1.0), stories.completed(tps=2.0)
    assert first.id == again.id
    assert first.id != stories.completed(attempt=2).id


def test_a_type_of_a_newer_release_is_refused() -> None:
    raw = events.encode(envelope(EXAMPLES["SubmissionPaid"])).replace(b'"SubmissionPaid"', b'"Refunded"')
    with pytest.raises(UnknownEvent, match="unknown event type 'Refunded'"):
        events.decode(raw)


def test_a_version_of_a_newer_release_is_refused() -> None:
    raw = events.encode(envelope(EXAMPLES["SubmissionPaid"])).replace(b'"version":1', b'"version":2')
    with pytest.raises(UnknownEvent, match="newer than this release"):
        events.decode(raw)


def test_a_field_that_a_newer_release_added_is_ignored() -> None:
    raw = events.encode(envelope(EXAMPLES["SubmissionPaid"])).replace(
        b'"code_bytes"', b'"added_later":[1],"code_bytes"'
    )
    assert events.decode(raw).data == EXAMPLES["SubmissionPaid"]


@pytest.mark.parametrize("raw", [b"", b"null", b"{}", b'{"id":1}', b"\xff"])
def test_what_is_no_envelope_is_refused(raw: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        events.decode(raw)


def test_upcasters_take_an_old_version_one_step_at_a_time() -> None:
    def seconds_to_nanoseconds(fields: Fields) -> Fields:
        return {"elapsed_ns": round(fields["elapsed"] * 1e9)}

    def with_unit(fields: Fields) -> Fields:
        return {**fields, "clock": "monotonic"}

    steps: Steps = {("Timed", 1): seconds_to_nanoseconds, ("Timed", 2): with_unit}
    assert upcast("Timed", 1, {"elapsed": 1.5}, to=3, steps=steps) == {
        "elapsed_ns": 1_500_000_000,
        "clock": "monotonic",
    }
    assert upcast("Timed", 3, {"elapsed_ns": 1}, to=3, steps=steps) == {"elapsed_ns": 1}


def test_a_missing_step_between_versions_is_refused() -> None:
    steps: Steps = {("Timed", 1): lambda fields: fields}
    with pytest.raises(UnknownEvent, match="no upcaster from Timed version 2 to 3"):
        upcast("Timed", 1, {}, to=3, steps=steps)


def test_an_old_version_is_upcast_while_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(fields: Fields) -> Fields:
        return {**{key: value for key, value in fields.items() if key != "why"}, "detail": fields["why"]}

    old = events.encode(envelope(EXAMPLES["EvaluationAbandoned"])).replace(b'"detail"', b'"why"')
    monkeypatch.setattr(events.EvaluationAbandoned, "version", 2)
    monkeypatch.setattr("shared.upcasters.STEPS", {("EvaluationAbandoned", 1): rename})
    decoded = events.decode(old)
    assert decoded.data == EXAMPLES["EvaluationAbandoned"]
    assert decoded.version == 2
