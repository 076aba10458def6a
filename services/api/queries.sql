-- Every statement of the service, by name. The projection's come first; the routes' only read.

-- name: position
SELECT sequence FROM position;

-- name: move_position
UPDATE position SET sequence = $2 WHERE sequence = $1;

-- name: states
SELECT state FROM submissions WHERE submission_id = ANY($1::text[]);

-- name: save_submissions
INSERT INTO submissions (submission_id, status, final_score, created_at, updated_at, state)
SELECT * FROM unnest($1::text[], $2::text[], $3::float8[], $4::timestamptz[], $5::timestamptz[], $6::json[])
ON CONFLICT (submission_id) DO UPDATE SET
    status = excluded.status,
    final_score = excluded.final_score,
    created_at = excluded.created_at,
    updated_at = excluded.updated_at,
    state = excluded.state;

-- name: save_runs
INSERT INTO evaluations (
    submission_id, run_id, evaluation_id, sequence, created_at, completed, verified_sequence, verified
)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::bigint[], $5::timestamptz[], $6::json[], $7::bigint[], $8::json[]
)
ON CONFLICT (submission_id, run_id) DO UPDATE SET
    evaluation_id = excluded.evaluation_id,
    sequence = excluded.sequence,
    created_at = excluded.created_at,
    completed = excluded.completed,
    verified_sequence = excluded.verified_sequence,
    verified = excluded.verified;

-- name: save_verdicts
UPDATE evaluations SET verified_sequence = verdict.sequence, verified = verdict.event
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::json[]) AS verdict (submission_id, run_id, sequence, event)
WHERE evaluations.submission_id = verdict.submission_id AND evaluations.run_id = verdict.run_id;

-- name: save_standings
-- A score is the mean of the runs of the evaluation whose last verdict caused the entry.
INSERT INTO standings (
    competition, submission_id, miner_hotkey, miner_uid, score, submitted_sequence, num_evaluations, created_at
)
SELECT
    entry.competition,
    entry.submission_id,
    entry.miner_hotkey,
    entry.miner_uid,
    entry.score,
    entry.submitted_sequence,
    (
        SELECT count(*)
        FROM evaluations AS cause
        JOIN evaluations AS run USING (submission_id, evaluation_id)
        WHERE cause.submission_id = entry.submission_id AND cause.verified_sequence = entry.cause_sequence
    ),
    submissions.created_at
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::integer[], $5::float8[], $6::bigint[], $7::bigint[]
) AS entry (competition, submission_id, miner_hotkey, miner_uid, score, submitted_sequence, cause_sequence)
JOIN submissions USING (submission_id)
ON CONFLICT (competition, submission_id) DO UPDATE SET
    miner_hotkey = excluded.miner_hotkey,
    miner_uid = excluded.miner_uid,
    score = excluded.score,
    submitted_sequence = excluded.submitted_sequence,
    num_evaluations = excluded.num_evaluations,
    created_at = excluded.created_at;

-- name: save_weights
INSERT INTO weights (sequence, created_at, event)
SELECT * FROM unnest($1::bigint[], $2::timestamptz[], $3::json[]);

-- name: save_dead_letters
INSERT INTO dead_letters (sequence, created_at, event)
SELECT * FROM unnest($1::bigint[], $2::timestamptz[], $3::json[]);

-- name: health
SELECT
    sequence,
    (SELECT count(*) FROM (SELECT FROM dead_letters LIMIT 1000) AS counted) AS dead_letters
FROM position;

-- name: leaderboard
SELECT submission_id, miner_hotkey, miner_uid, score, num_evaluations, created_at
FROM standings
WHERE competition = $1
ORDER BY score DESC, submitted_sequence
LIMIT $2;

-- name: submission
SELECT state FROM submissions WHERE submission_id = $1;

-- name: evaluations
-- The newest, oldest first. One row without a run when the submission is known and has none.
SELECT latest.created_at, latest.completed, latest.verified
FROM submissions
LEFT JOIN LATERAL (
    SELECT * FROM evaluations WHERE submission_id = $1 ORDER BY sequence DESC LIMIT $2
) AS latest ON true
WHERE submissions.submission_id = $1
ORDER BY latest.sequence;

-- name: weights
SELECT created_at, event FROM weights ORDER BY sequence DESC LIMIT $1;
