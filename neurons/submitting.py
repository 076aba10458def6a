"""The miner's paid path: check all that can fail, ask, pay, submit, watch. What was paid is never lost: each step is on
disk before the next begins, and `resume` takes up wherever it ended.
"""

import asyncio
import contextlib
import hashlib
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from neurons import payment, payments_folder, preflight, transfer, validator_client, wallet
from neurons.local import Report, Verdict
from neurons.outcome import NotSubmitted, Spent, Unusable
from neurons.payment import Answer, NotPaid, PaymentRecord, rao_as_tao
from neurons.validator_client import Away, Info, Refused, Submission, Validator
from shared import request
from shared.admission import check_source
from shared.chain import Chain
from shared.faults import TransientFault

DEFAULT_CHAIN = "finney"
POLL_SECONDS = 2.0
CHAIN_REACHED_SECONDS = 30.0
LEADERBOARD_ROWS = 1000
NOT_FOUND = 404
"""What the API says for a moment of a submission that was accepted just now."""

T = TypeVar("T")
Ask = Callable[[str], bool]
"""Shows a question and returns whether the person agrees.

Raises:
    Unusable: there is nobody to ask.
"""
Test = Callable[[bytes, Path], Verdict]
"""The local test of a file under a competition's file."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the person typed."""

    chain: str | None
    """None: as recorded, or the public one."""
    recipient: str | None
    wallet: payment.Wallet
    hparams: Path | None
    skip_test: bool
    timeout_seconds: float
    state: Path
    """The folder of payments."""


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """A submission to watch."""

    submission_id: str
    status_url: str
    reference: str | None
    """None: a validator that takes no payments."""
    paid_rao: int
    state_file: str | None


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints of a submission: fields may be added, none is renamed."""

    verdict: str | None
    """`passed`, `failed`, or null: there is none (yet)."""
    reason: str | None
    detail: str
    tps: float | None
    rank: int | None
    submission_id: str
    status: str
    status_url: str
    miner_hotkey: str
    code_hash: str
    payment: str | None
    paid_rao: int | None
    state_file: str | None


class FailedLocally(Exception):
    """The file does not pass here, so nothing was paid."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.detail)
        self.verdict = verdict


def submit(
    validator: Validator, path: Path, source: bytes, options: Options, *, test: Test, agree: Ask, report: Report
) -> Submitted:
    """Everything from the first check to a submission.

    Raises:
        Unusable, InvalidSubmission, FailedLocally, TransientFault: nothing was paid.
        NotSubmitted, Spent: see there.
    """
    info = _info(validator, report)
    check_source(source, max_bytes=info.max_code_bytes)
    report(f"file {path} is a submission of {len(source):,} bytes")
    if info.payment_recipient is None:
        return _submit_unpaid(validator, path, source, info, options, test=test, report=report)
    report(f"validator {validator.url} takes payments")
    recipient, endpoint = info.payment_recipient, options.chain or DEFAULT_CHAIN
    report(preflight.check_recipient(info, options.recipient))
    hparams_path, parameters, sentence = preflight.find_competition(options.hparams, info)
    report(sentence)
    report(preflight.check_price(info, parameters))
    report(preflight.check_clock(info, time.time()))
    _mention_unfinished(source, recipient, options, agree)

    opened = wallet.open_wallet(name=options.wallet.name, hotkey=options.wallet.hotkey, path=options.wallet.path)
    hotkey, coldkey = wallet.hotkey(opened), wallet.coldkey(opened)
    report(f"wallet {options.wallet.name}/{options.wallet.hotkey} is unlocked")
    standing = _on_chain(
        endpoint,
        lambda chain: transfer.standing(
            chain,
            coldkey=coldkey,
            miner_hotkey=hotkey.ss58_address,
            netuid=info.netuid,
            recipient=recipient,
            amount_rao=info.submission_cost_rao,
        ),
    )
    report(preflight.check_genesis(info, standing.genesis_hash, endpoint))
    report(
        preflight.check_registration(
            standing, coldkey=coldkey.ss58_address, miner_hotkey=hotkey.ss58_address, netuid=info.netuid
        )
    )
    code_sha256 = hashlib.sha256(source).hexdigest()
    known = _asked(
        lambda: validator.submissions(info.api_url, miner_hotkey=hotkey.ss58_address, code_sha256=code_sha256)
    )
    report(preflight.check_new(known))
    credit = preflight.find_credit(_asked(lambda: validator.credits(info.api_url, miner_hotkey=hotkey.ss58_address)))
    if credit is None:
        report(preflight.check_balance(standing, amount_rao=info.submission_cost_rao, coldkey=coldkey.ss58_address))
    else:
        report(f"a credit pays: submission {credit.submission_id} could not be evaluated ({credit.detail})")
    _test(hparams_path, sentence, source, options, test=test, report=report)

    question = (
        f"Submit {path} with the credit of submission {credit.submission_id}? Nothing is paid."
        if credit
        else (
            f"Pay {rao_as_tao(info.submission_cost_rao)} (and a fee of about {rao_as_tao(standing.fee_rao)}) from "
            f"{coldkey.ss58_address} to {recipient}, and submit {path} for hotkey {hotkey.ss58_address}? "
            "A payment is not given back."
        )
    )
    if not agree(question):
        raise Unusable("not submitted; nothing was paid")
    signed = None
    if credit is None:
        signed = _on_chain(
            endpoint,
            lambda chain: transfer.sign(
                chain, coldkey=coldkey, recipient=recipient, amount_rao=info.submission_cost_rao
            ),
        )
    record = PaymentRecord(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        validator=validator.url,
        chain=endpoint,
        genesis_hash=standing.genesis_hash,
        netuid=info.netuid,
        recipient=recipient,
        amount_rao=info.submission_cost_rao if credit is None else 0,
        miner_hotkey=hotkey.ss58_address,
        wallet=options.wallet,
        file=str(path.absolute()),
        source=source,
        transfer=signed,
        reference=None if credit is None else credit.reference,
    )
    state_file = payments_folder.path_of(options.state, record)
    try:
        payments_folder.save(state_file, record)
    except OSError as error:
        raise Unusable(f"cannot write {state_file}: {error.strerror}; nothing is paid without it") from None
    return _go_on(validator, state_file, record, hotkey, options=options, report=report, fresh=True)


def resume(
    state_file: Path,
    record: PaymentRecord,
    source: tuple[Path, bytes] | None,
    options: Options,
    *,
    wallet_given: bool,
    validator: Validator,
    report: Report,
) -> Submitted:
    """Go on with a payment: find out whether it was made, and submit it. `source` replaces the recorded file.

    Raises:
        Unusable, NotSubmitted, Spent, TransientFault.
    """
    if record.answer is not None:
        report(f"payment {record.reference} has bought submission {record.answer.submission_id} already")
        return _submitted(record, record.answer, state_file)
    if wallet_given:
        record = msgspec.structs.replace(record, wallet=options.wallet)
    if source is not None:
        path, content = source
        record = msgspec.structs.replace(record, file=str(path.absolute()), source=content)
    opened = wallet.open_wallet(name=record.wallet.name, hotkey=record.wallet.hotkey, path=record.wallet.path)
    hotkey = wallet.hotkey(opened)
    if hotkey.ss58_address != record.miner_hotkey:
        raise Unusable(
            f"the payment is for hotkey {record.miner_hotkey}, and this wallet's is {hotkey.ss58_address}; "
            "give --wallet.name, --wallet.hotkey and --wallet.path of the other"
        )
    return _go_on(validator, state_file, record, hotkey, options=options, report=report)


def watch(validator: Validator, api_url: str, submitted: Submitted, report: Report) -> Ended:
    """Follow a submission to its verdict, however long that takes.

    Raises:
        Refused: the API does not speak as it should.
    """
    said = ""
    while True:
        try:
            found = validator.submission(api_url, submitted.submission_id)
        except Refused as refusal:
            if refusal.status != NOT_FOUND:
                raise
            line = f"not in the API yet ({refusal.code})"
        except Away as error:
            line = f"{error}; asking again"
        else:
            line = f"submission {found.submission_id} is {found.status}"
            if found.status in ("evaluating", "validating") and found.runs_required:
                line += f", {found.runs_completed} of {found.runs_required} runs completed"
            if found.ended:
                report(line)
                return ended(validator, api_url, found, submitted)
        if line != said:
            report(line)
        said = line
        time.sleep(POLL_SECONDS)


def ended(validator: Validator, api_url: str, found: Submission, submitted: Submitted | None) -> Ended:
    """What there is to say of a submission now."""
    verdict = {"finished": "passed", "failed_validation": "failed"}.get(found.status)
    rank = None
    if verdict == "passed":
        # The verdict is known: it is not held back because its place is not.
        with contextlib.suppress(Away):
            rows = validator.leaderboard(api_url, limit=LEADERBOARD_ROWS)
            rank = next((row.rank for row in rows if row.submission_id == found.submission_id), None)
    return Ended(
        verdict=verdict,
        reason=found.reason,
        detail=_detail(found),
        tps=found.final_score if verdict == "passed" else None,
        rank=rank,
        submission_id=found.submission_id,
        status=found.status,
        status_url=submitted.status_url if submitted else f"{api_url}/submissions/{found.submission_id}",
        miner_hotkey=found.miner_hotkey,
        code_hash=found.code_hash,
        payment=submitted.reference if submitted else None,
        paid_rao=submitted.paid_rao if submitted else None,
        state_file=submitted.state_file if submitted else None,
    )


def _detail(found: Submission) -> str:
    if found.error_message is None:
        return "every run passed" if found.status == "finished" else f"it is {found.status}"
    if found.status == "error" and found.payment_reference and not found.payment_reference.startswith("unpaid:"):
        return f"{found.error_message}. A credit pays for the next submission of this hotkey"
    return found.error_message


def _submit_unpaid(
    validator: Validator, path: Path, source: bytes, info: Info, options: Options, *, test: Test, report: Report
) -> Submitted:
    report(f"validator {validator.url} takes no payments: this submission is free, and nothing is signed")
    hparams_path, _, sentence = preflight.find_competition(options.hparams, info)
    report(sentence)
    opened = wallet.open_wallet(name=options.wallet.name, hotkey=options.wallet.hotkey, path=options.wallet.path)
    miner_hotkey = wallet.hotkey(opened).ss58_address
    _test(hparams_path, sentence, source, options, test=test, report=report)
    try:
        answer = validator_client.patiently(
            lambda: validator.submit_unpaid(source, miner_hotkey=miner_hotkey),
            timeout_seconds=options.timeout_seconds,
            report=report,
        )
    except Away as error:
        raise Unusable(f"{error}; send it again later: it counts once") from None
    except Refused as refusal:
        raise Unusable(f"the validator refuses it: {refusal.code}: {refusal.detail}") from None
    report(f"submitted {path} as {answer.submission_id}")
    return Submitted(
        submission_id=answer.submission_id, status_url=answer.status_url, reference=None, paid_rao=0, state_file=None
    )


def _test(path: Path | None, sentence: str, source: bytes, options: Options, *, test: Test, report: Report) -> None:
    if options.skip_test:
        report("not tested here, as asked")
        return
    if path is None:
        raise Unusable(
            f"{sentence}, so the file cannot be tested as it will be; give the validator's file with --hparams, "
            "or add --skip-test"
        )
    verdict = test(source, path)
    if verdict.verdict != "passed":
        raise FailedLocally(verdict)
    report(f"the file passes here: {verdict.tps:,.0f} tokens per second")


def _mention_unfinished(source: bytes, recipient: str, options: Options, agree: Ask) -> None:
    """Who pays again while a payment waits has most likely forgotten it. For the same file and validator nobody means
    to, least of all a script that repeats its command.
    """
    waiting = payments_folder.unfinished(options.state)
    if not waiting:
        return
    for path, record in waiting:
        if (record.source, record.recipient) == (source, recipient):
            raise Unusable(
                f"this file has a payment already, which is unfinished ({path}); nothing was paid again. "
                f"Go on with: python -m neurons.miner --resume {path}"
            )
    path, record = waiting[0]
    question = (
        f"There is an unfinished payment of {rao_as_tao(record.amount_rao)} from {record.created_at} "
        f"({path}); --resume goes on with it. Pay another time all the same?"
    )
    if not agree(question):
        raise Unusable("not submitted; nothing was paid. Go on with the unfinished payment: add --resume")


def _go_on(
    validator: Validator,
    state_file: Path,
    record: PaymentRecord,
    hotkey: Any,
    *,
    options: Options,
    report: Report,
    fresh: bool = False,
) -> Submitted:
    """From wherever the record stands to its submission. `fresh`: nothing of it was sent before."""
    try:
        if record.reference is None:
            record = _settle(state_file, record, options, report, fresh=fresh)
        return _deliver(validator, state_file, record, hotkey, options=options, report=report)
    except OSError as error:
        raise NotSubmitted(f"cannot write {state_file}: {error.strerror}. {_how_to_go_on(state_file)}") from None
    except KeyboardInterrupt:
        raise NotSubmitted(f"stopped. {_how_to_go_on(state_file)}") from None


def _settle(state_file: Path, record: PaymentRecord, options: Options, report: Report, *, fresh: bool) -> PaymentRecord:
    signed = record.transfer
    assert signed is not None
    report(f"paying {rao_as_tao(record.amount_rao)} to {record.recipient}: {signed.extrinsic_hash}")

    async def settle(chain: Chain) -> payment.Paid | NotPaid | None:
        found = await transfer.genesis_hash(chain)
        if found != record.genesis_hash:
            raise Unusable(f"--chain {chain.endpoint} is not the chain on which was paid ({record.genesis_hash})")
        return await transfer.settle(chain, signed, report, timeout_seconds=options.timeout_seconds, fresh=fresh)

    try:
        fate = _on_chain(options.chain or record.chain, settle)
    except (Unusable, TransientFault) as error:
        raise NotSubmitted(f"{error}. {_how_to_go_on(state_file)}") from None
    if fate is None:
        raise NotSubmitted(
            f"the transfer is not final after {options.timeout_seconds:.0f} s. {_how_to_go_on(state_file)}"
        )
    if isinstance(fate, NotPaid):
        payments_folder.remove(state_file)
        raise Unusable(f"{fate.why}; begin again")
    report(f"paid, and final: {fate.reference}")
    record = msgspec.structs.replace(record, reference=fate.reference)
    payments_folder.save(state_file, record)
    return record


def _deliver(
    validator: Validator, state_file: Path, record: PaymentRecord, hotkey: Any, *, options: Options, report: Report
) -> Submitted:
    reference, code_sha256 = record.reference, record.code_sha256
    assert reference is not None

    def send() -> validator_client.Accepted | None:
        signed = validator_client.sign(
            record.netuid,
            record.recipient,
            miner_hotkey=record.miner_hotkey,
            code_sha256=code_sha256,
            reference=reference,
            key=hotkey,
        )
        return validator.submit(record.source, signed, miner_hotkey=record.miner_hotkey, reference=reference)

    try:
        accepted = validator_client.patiently(send, timeout_seconds=options.timeout_seconds, report=report)
        if accepted is None:
            report("the validator has it, and waits until it can check the payment on its chain")
            accepted = _until_checked(validator, record, reference, options, report)
    except Away as error:
        raise NotSubmitted(f"{error}. {_how_to_go_on(state_file)}", code="try_again_later") from None
    except Refused as refusal:
        said = f"the validator refuses it: {refusal.code}: {refusal.detail}; {payment.advice(refusal.code)}"
        if refusal.code in payment.FINAL_REFUSALS:
            payments_folder.save(
                state_file, msgspec.structs.replace(record, refused=f"{refusal.code}: {refusal.detail}")
            )
            raise Spent(f"{said}. Its record stays in {state_file}", code=refusal.code) from None
        raise NotSubmitted(f"{said}. {_how_to_go_on(state_file)}", code=refusal.code) from None
    answer = Answer(submission_id=accepted.submission_id, status_url=accepted.status_url)
    payments_folder.save(state_file, msgspec.structs.replace(record, answer=answer))
    report(f"submitted as {answer.submission_id}")
    return _submitted(record, answer, state_file)


def _until_checked(
    validator: Validator, record: PaymentRecord, reference: str, options: Options, report: Report
) -> validator_client.Accepted:
    """Follow a claim. The validator goes on with it whether anybody asks or not."""
    claim_id = request.claim_id(reference, miner_hotkey=record.miner_hotkey, code_sha256=record.code_sha256)
    deadline = time.monotonic() + options.timeout_seconds
    api_url = validator.info().api_url
    while time.monotonic() < deadline:
        try:
            claim = validator.claim(api_url, reference, claim_id)
        except Away as error:
            report(f"{error}; asking again")
            claim = None
        if claim is not None and claim.status == "accepted":
            submission_id = request.submission_id(reference)
            return validator_client.Accepted(
                submission_id=submission_id, status_url=f"{api_url}/submissions/{submission_id}"
            )
        if claim is not None and claim.status == "refused":
            raise Refused(402, claim.code or "refused", claim.detail or "no reason was given")
        time.sleep(POLL_SECONDS)
    raise Away("the validator has the submission, and still waits for its chain")


def _how_to_go_on(state_file: Path) -> str:
    return (
        f"The payment is kept in {state_file}; go on with: python -m neurons.miner --resume {state_file} "
        "(nothing is paid again)"
    )


def _submitted(record: PaymentRecord, answer: Answer, state_file: Path) -> Submitted:
    return Submitted(
        submission_id=answer.submission_id,
        status_url=answer.status_url,
        reference=record.reference,
        paid_rao=record.amount_rao,
        state_file=str(state_file),
    )


def _info(validator: Validator, report: Report) -> Info:
    """A validator that was started just now gets some time to reach its chain."""
    deadline = time.monotonic() + CHAIN_REACHED_SECONDS
    while True:
        info = _asked(validator.info)
        if info.payment_recipient is None or info.genesis_hash is not None or time.monotonic() > deadline:
            return info
        report("the validator has not reached its chain yet; asking again")
        time.sleep(POLL_SECONDS)


def _asked(question: Callable[[], T]) -> T:
    """One answer before anything is paid: who is away now would be away then."""
    try:
        return question()
    except Away as error:
        raise Unusable(f"{error}; nothing was paid: check --validator, or try again later") from None
    except Refused as refusal:
        raise Unusable(f"the validator answers {refusal.code}: {refusal.detail}; nothing was paid") from None


def _on_chain(endpoint: str, question: Callable[[Chain], Awaitable[T]]) -> T:
    """With a connection of its own: minutes may pass between two questions."""

    async def ask() -> T:
        chain = Chain(endpoint)
        try:
            return await question(chain)
        finally:
            await chain.close()

    return asyncio.run(ask())


def ask_on_terminal(question: str) -> bool:
    """The person's answer."""
    if not sys.stdin.isatty():
        raise Unusable(f"{question} There is no terminal to ask on: add --yes to agree")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
