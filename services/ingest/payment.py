"""Says whether a submission was paid for. It records nothing: that a payment counts once is `decide`'s."""

from shared.events import Payment
from shared.ids import derive_id


async def confirm(*, miner_hotkey: str, code_sha256: str) -> Payment:
    """The payment of this miner for this code. Without a chain, in unpaid local mode, it is free and derived."""
    return Payment(reference=f"unpaid:{derive_id(miner_hotkey, code_sha256)}", amount_rao=0)
