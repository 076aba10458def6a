-- Every statement of the service, by name. The projection's come first; the routes' only read.

-- name: position
SELECT sequence FROM position;

-- name: move_position
UPDATE position SET sequence = $2 WHERE sequence = $1;

-- name: states
SELECT state FROM submissions WHERE submission_id = ANY($1::text[]);

-- name: save_submissions
INSERT INTO submissions (
    submission_id, status, final_score, created_at, updated_at, state, submitted_sequence, miner_hotkey, code_sha256
)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::float8[], $4::timestamptz[], $5::timestamptz[], $6::json[], $7::bigint[], $8::text[],
    $9::text[]
)
ON CONFLICT (submission_id) DO UPDATE SET
    status = excluded.status,
    final_score = excluded.final_score,
    created_at = excluded.created_at,
    updated_at = excluded.updated_at,
    state = excluded.state;

-- name: save_claims
INSERT INTO claims (claim_id, reference, sequence, created_at, updated_at, claimed, refused, paid)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::timestamptz[], $6::json[], $7::json[], $8::json[]
)
ON CONFLICT (claim_id) DO UPDATE SET
    updated_at = excluded.updated_at,
    claimed = coalesce(excluded.claimed, claims.claimed),
    refused = coalesce(excluded.refused, claims.refused),
    paid = coalesce(excluded.paid, claims.paid);

-- name: save_credits
INSERT INTO credits (credit_id, sequence, created_at, miner_hotkey, submission_id, buys, event)
SELECT * FROM unnest(
    $1::text[], $2::bigint[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::json[]
)
ON CONFLICT (credit_id) DO NOTHING;

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

-- name: save_finishes
INSERT INTO finishes (submission_id, sequence, competition, runs)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::integer[]);

-- name: remove_standings
DELETE FROM standings
USING unnest($1::text[], $2::text[]) AS gone (competition, submission_id)
WHERE standings.competition = gone.competition AND standings.submission_id = gone.submission_id;

-- name: save_standings
-- A score is the mean of the runs of the latest evaluation that was passed when the entry was caused: by its last
-- verdict, or by a later return to the ranking.
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
    coalesce(
        (
            SELECT runs
            FROM finishes
            WHERE submission_id = entry.submission_id
                AND competition = entry.competition
                AND sequence <= entry.cause_sequence
            ORDER BY sequence DESC
            LIMIT 1
        ),
        0
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
SELECT
    state,
    (
        SELECT credit_id FROM credits WHERE credits.submission_id = submissions.submission_id ORDER BY sequence LIMIT 1
    ) AS credit_id
FROM submissions
WHERE submission_id = $1;

-- name: submissions
-- The newest first. A filter that is null lets all pass.
SELECT
    state,
    (
        SELECT credit_id FROM credits WHERE credits.submission_id = submissions.submission_id ORDER BY sequence LIMIT 1
    ) AS credit_id
FROM submissions
WHERE ($1::text IS NULL OR miner_hotkey = $1) AND ($2::text IS NULL OR code_sha256 = $2)
ORDER BY submitted_sequence DESC
LIMIT $3;

-- name: payment
-- What was accepted first, so that no crowd of others can hide it.
SELECT claim_id, created_at, updated_at, claimed, refused, paid
FROM claims
WHERE reference = $1
ORDER BY paid IS NULL, sequence
LIMIT $2;

-- name: credits
-- The newest first. A filter that is null lets all pass.
SELECT event, created_at, (SELECT submission_id FROM submissions WHERE submission_id = credits.buys) AS spent_by
FROM credits
WHERE $1::text IS NULL OR miner_hotkey = $1
ORDER BY sequence DESC
LIMIT $2;

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
SELECT sequence, created_at, event FROM weights ORDER BY sequence DESC LIMIT $1;
