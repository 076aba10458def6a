"""The miner's command: its exit codes, its one JSON object, and what it says to people."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from neurons import local, miner
from services.evaluator import providers
from services.evaluator.controller import Measured
from services.evaluator.evaluation import Bench, Draw
from services.evaluator.machine import Placement
from services.evaluator.sandbox import Open, Provider, SandboxFault
from shared.events import Phases
from shared.evidence import Evidence
from shared.faults import Failure
from tests.support.evidence import EXPECTED, REFERENCE, TOKENS, altered

GOOD = b"def inner_steps(model, data_iterator, optimizer, num_steps, device): ...\n"
CANDIDATE = altered(initial_sketch=None, previous_sketch=None)

Scripted = Callable[..., list[str]]


def ended(
    evidence: Evidence | None = CANDIDATE, *, failure: Failure | None = None, elapsed_ns: int = 10**9
) -> Measured:
    return Measured(
        failure=failure,
        detail="" if failure is None else "Traceback:\nValueError: [red]boom[/red]",
        tokens=TOKENS,
        elapsed_ns=elapsed_ns,
        phases=Phases(start_ns=10**7, prepare_ns=2 * 10**9, train_ns=elapsed_ns),
        evidence=evidence if failure is None else None,
        log_tail="printed [bold]by it[/bold]\n",
    )


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """The command sends this process's logs to a stderr that ends with the test."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def train_py(tmp_path: Path) -> str:
    path = tmp_path / "train.py"
    path.write_bytes(GOOD)
    return str(path)


@pytest.fixture
def competition(tmp_path: Path) -> str:
    path = tmp_path / "competition.json"
    path.write_bytes(EXPECTED.encode())
    return str(path)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """In place of sandboxes: runs that end as given. Returns the list in which calls are noted."""

    def never_open(*_: Any) -> Any:
        raise AssertionError("no sandbox is opened here")

    def choose(setting: str, runtime: str) -> tuple[Provider, str]:
        opener: Open = never_open
        return Provider(kind="process", image="python 3", runtime="", open=opener), f"process sandbox for {setting}"

    def install(*runs: Measured | Exception, reference: Measured | Exception | None = None) -> list[str]:
        calls: list[str] = []
        left = list(runs)
        secrets: list[Draw] = []

        def play(measured: Measured | Exception) -> Measured:
            if isinstance(measured, Exception):
                raise measured
            return measured

        def candidate(bench: Bench, source: bytes, secret: Draw, *, name: str) -> Measured:
            assert (bench.hparams, source) == (EXPECTED, GOOD)
            assert secret not in secrets, "each run has a draw of its own"
            secrets.append(secret)
            calls.append("candidate")
            return play(left.pop(0))

        def trusted(bench: Bench, secret: Draw, *, name: str) -> Measured:
            assert secret == secrets[-1], "the reference shares the seed and the nonce of its run"
            calls.append("reference")
            return play(reference or ended(REFERENCE))

        monkeypatch.setattr(local, "measure_candidate", candidate)
        monkeypatch.setattr(local, "measure_reference", trusted)
        monkeypatch.setattr(providers, "choose", choose)
        monkeypatch.setattr(miner, "place", lambda cpus: Placement(cpus=(0,), gpu_uuid=None, accelerator="cpu"))
        return calls

    return install


Captured = pytest.CaptureFixture[str]


def run_json(capsys: Captured, *arguments: str) -> tuple[int, dict[str, Any], str]:
    code = miner.main([*arguments, "--json"])
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1, "exactly one line, which is one object"
    answer: dict[str, Any] = json.loads(captured.out)
    return code, answer, captured.err


def test_three_passed_runs(scripted: Scripted, train_py: str, competition: str, capsys: Captured) -> None:
    calls = scripted(*(ended(elapsed_ns=10**9 * seconds) for seconds in (1, 2, 4)))
    code, answer, said = run_json(capsys, train_py, "--skip-payment", "--hparams", competition)
    assert code == 0
    assert calls == ["candidate", "reference"] * 3
    assert (answer["verdict"], answer["reason"]) == ("passed", None)
    assert answer["detail"] == "3 of 3 runs passed; in the last one every check passed, equal to the reference"
    assert answer["tps"] == pytest.approx(TOKENS * (1 + 1 / 2 + 1 / 4) / 3)
    assert [run["tps"] for run in answer["runs"]] == [TOKENS, TOKENS / 2, TOKENS / 4]
    assert [check["name"] for check in answer["runs"][0]["checks"]][:2] == ["tokens", "output_vectors"]
    assert answer["hparams_sha256"] == EXPECTED.sha256
    assert answer["machine"]["sandbox"] == "process"
    assert said.splitlines() == [
        f"hparams {EXPECTED.name} from {competition}",
        "WARNING: process sandbox for auto",
        *(
            line
            for index in (1, 2, 3)
            for line in (
                f"run {index} of 3: import, warm-up, 20 steps",
                "the reference, on the same data, to compare with",
            )
        ),
    ]


def test_the_first_failed_run_ends_it(scripted: Scripted, train_py: str, competition: str, capsys: Captured) -> None:
    calls = scripted(ended(), ended(altered(logits=-REFERENCE.logits)))
    code, answer, _ = run_json(capsys, train_py, "--skip-payment", "--hparams", competition, "--sandbox", "process")
    assert code == 1
    assert calls == ["candidate", "reference"] * 2
    assert (answer["verdict"], answer["reason"], answer["tps"]) == ("failed", "output_mismatch", None)
    assert answer["detail"].startswith("the output vectors differ by 200 %, allowed 1 %")
    assert [run["failure"] for run in answer["runs"]] == [None, "output_mismatch"]


def test_a_crash_needs_no_reference(scripted: Scripted, train_py: str, competition: str, capsys: Captured) -> None:
    calls = scripted(ended(failure=Failure.CRASHED))
    code, answer, _ = run_json(capsys, train_py, "--skip-payment", "--hparams", competition)
    assert code == 1
    assert calls == ["candidate"]
    assert (answer["reason"], answer["runs"][0]["log_tail"]) == ("crashed", "printed [bold]by it[/bold]\n")
    assert answer["runs"][0]["tps"] == 0.0


def test_what_people_read_when_it_passed(scripted: Scripted, train_py: str, competition: str, capsys: Captured) -> None:
    scripted(*(ended(elapsed_ns=2 * 10**9) for _ in range(3)))
    assert miner.main([train_py, "--skip-payment", "--hparams", competition]) == 0
    out = capsys.readouterr().out
    assert "run 3: 5,120 tokens per second" in out
    assert "start 0.01 s, import and warm-up 2.00 s, training (timed) 2.00 s" in out
    assert "│ output_vectors │" in out
    assert "PASSED  5,120 tokens per second on average" in out
    assert "measured under hparams demo-cpu on cpu, process sandbox (python 3)" in out


def test_what_people_read_when_it_failed(scripted: Scripted, train_py: str, competition: str, capsys: Captured) -> None:
    scripted(ended(failure=Failure.CRASHED))
    assert miner.main([train_py, "--skip-payment", "--hparams", competition]) == 1
    out = capsys.readouterr().out
    assert "run 1: not measured" in out
    assert "printed [bold]by it[/bold]" in out, "what it printed is shown as it is"
    assert "FAILED  crashed\nTraceback:\nValueError: [red]boom[/red]" in out


def test_a_distance_beyond_measure_is_shown(
    scripted: Scripted, train_py: str, competition: str, capsys: Captured
) -> None:
    scripted(ended(altered(final_loss=float("nan"))))
    assert miner.main([train_py, "--skip-payment", "--hparams", competition]) == 1
    out = capsys.readouterr().out
    assert "not finite" in out
    assert "FAILED  non_finite_output" in out


@pytest.mark.parametrize(
    "source", [b"", b"x = 1", b"def inner_steps(:", b"\xff\xfe", b"#" * (EXPECTED.max_code_bytes + 1)]
)
def test_an_invalid_file_fails_before_any_sandbox_is_chosen(
    source: bytes, tmp_path: Path, competition: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_: str) -> Any:
        raise AssertionError("a sandbox was chosen")

    monkeypatch.setattr(providers, "choose", never)
    path = tmp_path / "train.py"
    path.write_bytes(source)
    code, answer, _ = run_json(capsys, str(path), "--skip-payment", "--hparams", competition)
    assert code == 1
    assert (answer["verdict"], answer["reason"], answer["tps"], answer["runs"]) == (
        "failed",
        "invalid_submission",
        None,
        [],
    )
    assert answer["detail"]
    assert miner.main([str(path), "--skip-payment", "--hparams", competition]) == 1
    assert "FAILED  invalid_submission" in capsys.readouterr().out


def test_without_a_validator_nothing_is_paid(train_py: str, capsys: Captured) -> None:
    code, answer, said = run_json(capsys, train_py, "--validator", "http://127.0.0.1:1", "--payment-recipient", "5G")
    assert code == 2
    assert answer["error"].startswith("http://127.0.0.1:1/info does not answer: ")
    assert "nothing was paid: check --validator" in said


def test_the_flags_of_a_paid_submission_are_accepted_by_a_local_test(
    scripted: Scripted, train_py: str, competition: str
) -> None:
    scripted(*(ended() for _ in range(3)))
    flags = ["--wallet.name", "test", "--wallet.hotkey", "test", "--payment-recipient", "5G", "--skip-payment"]
    assert miner.main([train_py, *flags, "--hparams", competition]) == 0


@pytest.mark.parametrize("arguments", [[], ["a.py", "--sandbox", "none"], ["a.py", "b.py"], ["a.py", "--jsn"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended_with:
        miner.main(arguments)
    assert ended_with.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "usage: python -m neurons.miner" in captured.err


@pytest.mark.parametrize("name", ["missing.py", "."])
def test_a_file_that_cannot_be_read_is_exit_code_2(name: str, tmp_path: Path, capsys: Captured) -> None:
    code, answer, said = run_json(capsys, str(tmp_path / name), "--skip-payment")
    assert code == 2
    assert answer["error"].startswith(f"cannot read {tmp_path / name}: ")
    assert said == f"miner: {answer['error']}\n"


def test_wrong_hparams_are_exit_code_2_with_the_key(train_py: str, tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "wrong.json"
    path.write_bytes(EXPECTED.encode().replace(b'"runs":3', b'"runs":0'))
    code, answer, _ = run_json(capsys, train_py, "--skip-payment", "--hparams", str(path))
    assert code == 2
    assert "$.evaluation.runs" in answer["error"]


@pytest.mark.parametrize(
    ("candidate", "reference", "why"),
    [
        (SandboxFault("no engine answers"), None, "no engine answers"),
        (ended(), SandboxFault("the reference run failed"), "the reference run failed"),
        (ended(), ended(altered(final_loss=0.0)), "the reference's loss has size 0.0"),
    ],
)
def test_this_machines_own_fault_is_exit_code_2(
    *,
    candidate: Measured | Exception,
    reference: Measured | Exception | None,
    why: str,
    scripted: Scripted,
    train_py: str,
    competition: str,
    capsys: Captured,
) -> None:
    scripted(candidate, reference=reference)
    code, answer, said = run_json(capsys, train_py, "--skip-payment", "--hparams", competition)
    assert code == 2
    assert why in answer["error"]
    assert why in said


def test_ctrl_c_ends_it_without_a_verdict(
    train_py: str, competition: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: str) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(providers, "choose", interrupted)
    code, answer, _ = run_json(capsys, train_py, "--skip-payment", "--hparams", competition)
    assert code == 130
    assert answer == {"error": "stopped; nothing was left running"}


@pytest.mark.parametrize(
    ("gpus", "name", "said"),
    [
        ([], "demo-cpu", "no GPU found, so speeds say nothing about the real tournament"),
        ([("GPU-1", "NVIDIA A100")], "templar-150m", "NVIDIA A100 found"),
    ],
)
def test_the_competition_follows_the_machine(
    *,
    gpus: list[tuple[str, str]],
    name: str,
    said: str,
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("neurons.competition.list_gpus", lambda: gpus)
    path = tmp_path / "train.py"
    path.write_bytes(b"")
    code, answer, err = run_json(capsys, str(path), "--skip-payment")
    assert (code, answer["hparams"]) == (1, name)
    assert err == f"hparams {name}: {said}\n"


def test_shards_are_looked_for_where_the_environment_says(
    scripted: Scripted, train_py: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted()
    content = msgspec.json.decode(EXPECTED.encode())
    content["data"] = {"source": "shards", "shards": [{"name": "a.bin", "sha256": "0" * 64}]}
    path = tmp_path / "shards.json"
    path.write_bytes(msgspec.json.encode(content))
    code, answer, _ = run_json(capsys, train_py, "--skip-payment", "--hparams", str(path))
    assert code == 2
    assert "set TOURNAMENT_SHARDS_DIR" in answer["error"]
    monkeypatch.setenv("TOURNAMENT_SHARDS_DIR", str(tmp_path))
    code, answer, _ = run_json(capsys, train_py, "--skip-payment", "--hparams", str(path))
    assert code == 2
    assert answer["error"].startswith(f"{tmp_path / 'a.bin'}: No such file")
