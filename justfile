# Every habit of the project. `uv run just` lists them; a person needs only Python >= 3.11 and pip: `pip install uv`.

set positional-arguments

# What there is
default:
    @just --list --unsorted

# A whole tournament from nothing to its leaderboard, on real parts, in about two minutes
[group('run')]
[no-exit-message]
demo *arguments:
    uv run python -m deploy.local.demo "$@"

# A whole validator on this machine, until Ctrl-C; the same as `python -m neurons.validator`
[group('run')]
[no-exit-message]
up *arguments:
    uv run python -m neurons.validator "$@"

# Test a train.py on this machine, exactly as a validator will
[group('run')]
try file *arguments:
    uv run python -m neurons.miner "$@" --skip-payment

# The image that submissions run in: from the public base, or from Debian packages without a registry (as root)
[group('run')]
sandbox-image:
    uv run python -m deploy.sandbox_image

# Everything that must hold: lint, strict types, import walls, the whole suite
[group('check')]
test *arguments: lint
    uv run pytest "$@"

# What takes seconds: unit tests and nothing that starts a server or a container
[group('check')]
fast *arguments:
    uv run pytest tests/unit "$@"

# Cheats, hostile files and honest oddities through the real evaluation: `just hostile [FAMILY|FILE ...] [--json]`
[group('check')]
[no-exit-message]
hostile *arguments:
    uv run python -m tests.hostile.run "$@"

# How far honest variants and cheats are from the reference: `just calibrate [VARIANT ...] [--hparams FILE] [--out FILE]`
[group('check')]
[no-exit-message]
calibrate *arguments:
    uv run python -m tests.calibration.calibrate "$@"

# What the sandbox costs against the same loop without it: `just bench [--pairs N] [--hparams FILE] [--json]`
[group('check')]
[no-exit-message]
bench *arguments:
    uv run python -m tests.benchmarks.overhead "$@"

# Coverage-guided fuzzing of the run protocol, until Ctrl-C; `-max_total_time=300` ends it after so many seconds
[group('check')]
fuzz *arguments:
    # Not in the lock, because atheris has no wheel for every Python that this project runs on.
    uv run --no-project --python 3.11 --with atheris --with numpy --with msgspec --with structlog --with nats-py python -m tests.fuzz.coverage_guided -max_len=9000 "$@"

# Lint, format, strict types, import walls
[group('check')]
lint:
    uv run ruff check .
    uv run ruff format --check .
    uv run mypy
    uv run lint-imports

# Put the code into its one format
[group('check')]
format:
    uv run ruff check --fix .
    uv run ruff format .

# Real token shards from text files: `just shards OUT TEXT...`
[group('data')]
shards *arguments:
    uv run python -m sandbox.benchmark.make_shards "$@"
