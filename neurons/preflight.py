"""What can fail is checked before money moves. Each function says what holds, or why it does not and what to do.

They only compare: who asks the validator, the chain and the wallet is neurons/submitting.py.
"""

from collections.abc import Sequence
from pathlib import Path

from neurons import competition
from neurons.outcome import Unusable
from neurons.payment import rao_as_tao
from neurons.transfer import Standing
from neurons.validator_client import Credit, Info, Submission
from shared import hparams
from shared.hparams import Hparams, HparamsError
from shared.request import MAX_CLOCK_SKEW_SECONDS


def find_competition(chosen: Path | None, info: Info) -> tuple[Path | None, Hparams, str]:
    """The validator's hparams among those on this machine, and a sentence. The path is None when they are not here:
    then nothing can be tested, and the hparams are only good for the price.
    """
    if chosen is not None:
        parameters = hparams.load(chosen)
        if parameters.sha256 == info.hparams_sha256:
            return chosen, parameters, f"hparams {parameters.name} from {chosen}, which are the validator's"
        return None, parameters, f"the validator runs {_hparams(info)}, which {chosen} is not"
    for path in sorted(competition.HPARAMS.glob("*.json")):
        try:
            parameters = hparams.load(path)
        except HparamsError:
            continue
        if parameters.sha256 == info.hparams_sha256:
            return path, parameters, f"hparams {parameters.name}, which are the validator's"
    real = hparams.load(competition.HPARAMS / "hparams.json")
    return None, real, f"the validator runs {_hparams(info)}, which no file of {competition.HPARAMS} is"


def check_recipient(info: Info, given: str | None) -> str:
    """The address that is paid is the one that the person named, and the validator's."""
    if given is None:
        raise Unusable(
            f"add --payment-recipient ADDRESS: the validator says {info.payment_recipient}; "
            "take the address from where its operator publishes it, not from here"
        )
    if given != info.payment_recipient:
        raise Unusable(
            f"--payment-recipient is {given}, but this validator takes payments at {info.payment_recipient} and would "
            "refuse one to another address; check --validator and the address"
        )
    return f"recipient {given} is the validator's"


def check_price(info: Info, parameters: Hparams) -> str:
    """The validator asks what the competition says."""
    asked, known = info.submission_cost_rao, parameters.economy.submission_cost_rao
    if asked != known:
        raise Unusable(
            f"the validator asks {rao_as_tao(asked)}, but hparams {parameters.name} here say {rao_as_tao(known)}; "
            "update this release, or give the validator's file with --hparams"
        )
    if info.netuid != parameters.economy.netuid:
        raise Unusable(
            f"the validator is on subnet {info.netuid}, but hparams {parameters.name} here say "
            f"{parameters.economy.netuid}; check --validator, or give its file with --hparams"
        )
    return f"price {rao_as_tao(asked)} on subnet {info.netuid}, as in hparams {parameters.name}"


def check_clock(info: Info, now_seconds: float) -> str:
    """A signature is only valid for some minutes."""
    skew = now_seconds - info.time_seconds
    if abs(skew) >= MAX_CLOCK_SKEW_SECONDS:
        raise Unusable(
            f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the validator's; "
            f"at most {MAX_CLOCK_SKEW_SECONDS} s are accepted: set the clock"
        )
    return f"clocks differ by {abs(skew):.0f} s"


def check_genesis(info: Info, genesis_hash: str, endpoint: str) -> str:
    """Both mean the same chain."""
    if info.genesis_hash is None:
        raise Unusable("the validator has not reached its chain yet; try again in a minute")
    if genesis_hash != info.genesis_hash:
        raise Unusable(
            f"--chain {endpoint} is not the validator's chain: its first block is {genesis_hash}, "
            f"the validator's {info.genesis_hash}"
        )
    return f"chain {endpoint} is the validator's"


def check_registration(standing: Standing, *, coldkey: str, miner_hotkey: str, netuid: int) -> str:
    """Only a registered hotkey can be rewarded, and only its owner can pay for it."""
    if standing.uid is None:
        raise Unusable(
            f"hotkey {miner_hotkey} is not registered on subnet {netuid}; "
            f"register it first: btcli subnets register --netuid {netuid}"
        )
    if standing.owner != coldkey:
        raise Unusable(
            f"hotkey {miner_hotkey} belongs to coldkey {standing.owner}, not to {coldkey}; "
            "the validator takes payments of the owner only: check --wallet.name"
        )
    return f"hotkey {miner_hotkey} is uid {standing.uid} on subnet {netuid}"


def check_balance(standing: Standing, *, amount_rao: int, coldkey: str) -> str:
    """With the fee, and with what must stay so that the account lives."""
    needed = amount_rao + standing.fee_rao
    if standing.free_rao < needed:
        raise Unusable(
            f"coldkey {coldkey} can spend {rao_as_tao(standing.free_rao)}; {rao_as_tao(needed)} are needed "
            f"({rao_as_tao(amount_rao)} and a fee of {rao_as_tao(standing.fee_rao)})"
        )
    return f"balance {rao_as_tao(standing.free_rao)}, fee about {rao_as_tao(standing.fee_rao)}"


def check_new(known: Sequence[Submission]) -> str:
    """The same code of the same hotkey would buy the same result. One that the validator gave up does not count."""
    for submission in known:
        if submission.status != "error":
            raise Unusable(
                f"this hotkey has submitted this code already: {submission.submission_id} ({submission.status}); "
                f"see it with `status {submission.submission_id}`"
            )
    return "this code is new for this hotkey"


def find_credit(known: Sequence[Credit]) -> Credit | None:
    """One that still pays."""
    return next((credit for credit in known if credit.spent_by is None), None)


def _hparams(info: Info) -> str:
    return f"hparams {info.hparams} (sha256 {info.hparams_sha256[:12]}…)"
