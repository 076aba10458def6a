-- Payments, credits, and rankings that can be left. What this release reads of old events is more than the rows that are
-- here say of them, so they are rebuilt from the stream. The new columns of submissions have no defaults: an API of the
-- release before, if it still runs, can write none of them.

TRUNCATE submissions, evaluations, standings, weights, dead_letters;
UPDATE position SET sequence = 0;

ALTER TABLE submissions
    ADD COLUMN submitted_sequence bigint NOT NULL, -- of SubmissionPaid
    ADD COLUMN miner_hotkey text NOT NULL,
    ADD COLUMN code_sha256 text NOT NULL;
CREATE UNIQUE INDEX submissions_by_age ON submissions (submitted_sequence);
CREATE INDEX submissions_by_miner ON submissions (miner_hotkey, submitted_sequence);
CREATE INDEX submissions_by_code ON submissions (code_sha256, submitted_sequence);

-- One row for each payment, hotkey and code that belong together. No status is here: it follows from which of the events
-- there are.
CREATE TABLE claims (
    claim_id text PRIMARY KEY,
    reference text NOT NULL, -- of the payment
    sequence bigint NOT NULL, -- of the first event
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    claimed json, -- PaymentClaimed
    refused json, -- PaymentRefused
    paid json -- SubmissionPaid
);
CREATE INDEX claims_by_payment ON claims (reference, sequence);

CREATE TABLE credits (
    credit_id text PRIMARY KEY,
    sequence bigint NOT NULL,
    created_at timestamptz NOT NULL,
    miner_hotkey text NOT NULL,
    submission_id text NOT NULL, -- that could not be evaluated
    buys text NOT NULL, -- the submission that it pays for, whether that is there or not
    event json NOT NULL -- CreditGranted
);
CREATE INDEX credits_by_age ON credits (sequence);
CREATE INDEX credits_by_miner ON credits (miner_hotkey, sequence);
CREATE INDEX credits_by_submission ON credits (submission_id, sequence);

-- Each evaluation that was passed, by the verdict that finished it.
CREATE TABLE finishes (
    submission_id text,
    sequence bigint,
    competition text NOT NULL,
    runs integer NOT NULL,
    PRIMARY KEY (submission_id, sequence)
);
