"""How a signed transfer is brought to its end while the chain is away, slow, or says no."""

from collections.abc import Callable
from typing import Any

import pytest

from neurons import transfer
from neurons.payment import Found, NotPaid, Paid, Sighting, Transfer
from shared.chain import Chain
from shared.faults import TransientFault

SIGNED = Transfer(
    extrinsic=b"\x45", extrinsic_hash="0x" + "cd" * 32, payer="5Bob", nonce=7, first_block=100, last_block=164
)
BLOCK = "0x" + "ab" * 32
AWAY = TransientFault("cannot reach the chain")
PENDING = Sighting(found=None, searched_to=101, final_nonce=7, next_nonce=8)
NOWHERE = Sighting(found=None, searched_to=101, final_nonce=7, next_nonce=7)
FINAL = Sighting(found=Found(block_hash=BLOCK, index=2, succeeded=True), searched_to=103, final_nonce=8, next_nonce=8)

Scripted = Callable[..., tuple[list[int], list[str]]]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """The chain, as given. Returns from where was searched, and what was sent."""

    def install(sightings: list[Sighting | TransientFault], answers: list[str | TransientFault | None]) -> Any:
        searched: list[int] = []
        sent: list[str] = []

        async def look(chain: Chain, signed: Transfer, *, searched_to: int) -> Sighting:
            searched.append(searched_to)
            seen = sightings.pop(0) if len(sightings) > 1 else sightings[0]
            if isinstance(seen, TransientFault):
                raise seen
            return seen

        async def broadcast(chain: Chain, signed: Transfer) -> str | None:
            sent.append(signed.extrinsic_hash)
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, TransientFault):
                raise answer
            return answer

        monkeypatch.setattr(transfer, "look", look)
        monkeypatch.setattr(transfer, "broadcast", broadcast)
        monkeypatch.setattr(transfer, "LOOK_EVERY_SECONDS", 0.001)
        monkeypatch.setattr("neurons.payment.BROADCAST_EVERY_SECONDS", 0.05)
        return searched, sent

    return install


async def settle(*, fresh: bool, timeout_seconds: float = 5.0) -> tuple[Paid | NotPaid | None, list[str]]:
    said: list[str] = []
    fate = await transfer.settle(
        Chain("ws://127.0.0.1:1"), SIGNED, said.append, timeout_seconds=timeout_seconds, fresh=fresh
    )
    return fate, said


async def test_it_is_sent_once_and_found(scripted: Scripted) -> None:
    searched, sent = scripted([NOWHERE, PENDING, FINAL], [None])
    fate, said = await settle(fresh=True)
    assert fate == Paid(reference=f"{BLOCK}-2")
    assert len(sent) == 1
    assert searched == [99, 101, 101], "no block is read twice"
    assert said == ["final block 101: waiting for the transfer, until block 164"]


async def test_what_is_final_already_is_not_sent(scripted: Scripted) -> None:
    _, sent = scripted([FINAL], [None])
    assert (await settle(fresh=False))[0] == Paid(reference=f"{BLOCK}-2")
    assert sent == []


async def test_a_chain_that_is_away_is_asked_again(scripted: Scripted) -> None:
    _, sent = scripted([AWAY, NOWHERE, AWAY, PENDING, FINAL], [AWAY, None])
    fate, said = await settle(fresh=True)
    assert fate == Paid(reference=f"{BLOCK}-2")
    assert len(sent) == 1, "an answer that did not come is no reason to send at once again"
    assert "cannot reach the chain; asking again" in said


async def test_it_is_sent_again_after_a_while(scripted: Scripted) -> None:
    _, sent = scripted([NOWHERE], [None])
    fate, _ = await settle(fresh=True, timeout_seconds=0.3)
    assert fate is None
    assert 3 <= len(sent) <= 6


async def test_what_the_first_node_does_not_take_was_not_paid(scripted: Scripted) -> None:
    scripted([NOWHERE], ["inability to pay some fees"])
    fate, _ = await settle(fresh=True)
    assert isinstance(fate, NotPaid)
    assert "inability to pay some fees; nothing was paid" in fate.why


@pytest.mark.parametrize(
    ("fresh", "answers"), [(False, ["stale"]), (True, [AWAY, "stale"])], ids=["sent before", "sent, and no answer"]
)
async def test_what_another_node_may_have_taken_is_waited_for(
    *, fresh: bool, answers: list[str | TransientFault | None], scripted: Scripted
) -> None:
    scripted([NOWHERE], answers)
    assert (await settle(fresh=fresh, timeout_seconds=0.2))[0] is None
