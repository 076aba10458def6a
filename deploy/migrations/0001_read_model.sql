-- The read model: what the API answers from. Nothing here is a source of truth: drop it all, migrate again, and the
-- service rebuilds it from the stream. A release that folds differently, or stores another shape of state, brings a
-- migration that empties these tables and sets the position to 0.

-- How far the stream is projected. Moved in the same transaction as the rows, and only from where its writer was.
CREATE TABLE position (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    sequence bigint NOT NULL
);
INSERT INTO position (sequence) VALUES (0);

-- The state is shared.submission.Submission as JSON, without logs. What the fold computes from it is beside it, so
-- that no SQL ever has to.
CREATE TABLE submissions (
    submission_id text PRIMARY KEY,
    status text NOT NULL,
    final_score double precision,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    state json NOT NULL
);

-- One row for each run that counted when it ended, those of older evaluations too.
CREATE TABLE evaluations (
    submission_id text,
    run_id text,
    evaluation_id text NOT NULL,
    sequence bigint NOT NULL, -- of RunCompleted
    created_at timestamptz NOT NULL,
    completed json NOT NULL, -- RunCompleted, without its log
    verified_sequence bigint, -- of Verified
    verified json,
    PRIMARY KEY (submission_id, run_id)
);

-- The latest entry of a submission in a competition. Its rank is its place in the order of the index, and all that a
-- row of the leaderboard shows is here, so that reading one joins nothing.
CREATE TABLE standings (
    competition text,
    submission_id text,
    miner_hotkey text NOT NULL,
    miner_uid integer,
    score double precision NOT NULL,
    submitted_sequence bigint NOT NULL,
    num_evaluations integer NOT NULL, -- runs that the score is the mean of
    created_at timestamptz NOT NULL, -- of the submission
    PRIMARY KEY (competition, submission_id)
);
CREATE INDEX standings_by_rank ON standings (competition, score DESC, submitted_sequence);

CREATE TABLE weights (
    sequence bigint PRIMARY KEY,
    created_at timestamptz NOT NULL,
    event json NOT NULL -- WeightsSet
);

CREATE TABLE dead_letters (
    sequence bigint PRIMARY KEY,
    created_at timestamptz NOT NULL,
    event json NOT NULL -- MessageDeadLettered
);
