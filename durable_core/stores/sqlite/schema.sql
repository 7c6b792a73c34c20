-- Version 1. Times are epoch milliseconds. Run ids are ULIDs, so new rows go to the right-hand
-- edge of every tree that is keyed by them.

-- The keys that sign tokens: the last one signs, all verify. The first is made with the store.
CREATE TABLE secret (
    number     INTEGER PRIMARY KEY,
    value      BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

-- The processes that share this file.
CREATE TABLE worker (
    id         TEXT PRIMARY KEY,
    host       TEXT NOT NULL,
    pid        INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    app        TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- `seq` is short for `id`: what belongs to a run has it as its key.
-- A run has an owner, or a due time, or has ended: exactly one of the three is not null.
-- A queued run (phase 'queued') waits for a slot of its endpoint, since `due_at`. `slot_key` is null
-- where the endpoint has no slots, and '' where they have no key.
-- `labels` is a JSON object of strings, null if there are none. `size` is that of its request and
-- its result, bytes. `cancel_reason` is '' for a run that was cancelled without a reason.
-- `claimed_ahead` is 1 from a claim on after which the run waits in the process, until it is
-- released or claimed to begin at once.
CREATE TABLE run (
    id            TEXT PRIMARY KEY,
    seq           INTEGER NOT NULL UNIQUE,
    app           TEXT NOT NULL,
    endpoint_key  TEXT NOT NULL,
    function_id   TEXT NOT NULL,
    phase         TEXT NOT NULL,
    retries       INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    event_seq     INTEGER NOT NULL,
    failures      INTEGER NOT NULL,
    crash_count   INTEGER NOT NULL,
    epoch         INTEGER NOT NULL,
    owner         TEXT,
    due_at        INTEGER,
    ended_at      INTEGER,
    handoff       TEXT,
    key           TEXT,
    parent        TEXT,
    traceparent   TEXT,
    labels        TEXT,
    version       TEXT,
    principal     TEXT,
    undoable      INTEGER NOT NULL,
    cancel_reason TEXT,
    depth         INTEGER NOT NULL,
    descendants   INTEGER NOT NULL DEFAULT 0,
    retry_count   INTEGER NOT NULL DEFAULT 0,
    claimed_ahead INTEGER NOT NULL DEFAULT 0,
    timeout       INTEGER,
    deadline      INTEGER,
    slot_key      TEXT,
    singleton_key TEXT,
    client        TEXT,
    size          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- By handler first: due runs whose handler nobody knows must not stand in the way of the others.
-- Nor must queued runs, which may wait for long.
CREATE INDEX run_due ON run (app, endpoint_key, due_at, id, phase)
    WHERE due_at IS NOT NULL AND phase <> 'queued';
CREATE INDEX run_queued ON run (app, endpoint_key, slot_key, due_at, id, phase)
    WHERE phase = 'queued';
CREATE INDEX run_slot ON run (app, endpoint_key, slot_key, owner)
    WHERE owner IS NOT NULL AND slot_key IS NOT NULL;
CREATE INDEX run_singleton ON run (app, endpoint_key, singleton_key)
    WHERE ended_at IS NULL AND singleton_key IS NOT NULL;
CREATE INDEX run_owner ON run (owner) WHERE owner IS NOT NULL;
CREATE INDEX run_cancelled ON run (owner) WHERE cancel_reason IS NOT NULL AND ended_at IS NULL;
CREATE INDEX run_ended ON run (app, ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX run_child ON run (parent)
    WHERE parent IS NOT NULL AND ended_at IS NULL AND cancel_reason IS NULL;
-- What people look for, by id, so that the newest come first. Nearly all runs have completed, but a
-- list of the completed ones must not search through a million others either.
CREATE INDEX run_phase ON run (app, phase, id);
CREATE INDEX run_endpoint ON run (app, endpoint_key, phase, id);
CREATE INDEX run_principal ON run (app, principal, phase, size) WHERE principal IS NOT NULL;
CREATE INDEX run_key ON run (app, key, id) WHERE key IS NOT NULL;

-- The labels of all runs, once more, to find the runs by them.
CREATE TABLE label (
    app    TEXT NOT NULL,
    name   TEXT NOT NULL,
    value  TEXT NOT NULL,
    run_id TEXT NOT NULL,
    PRIMARY KEY (app, name, value, run_id)
) STRICT, WITHOUT ROWID;

-- The keys by which repeated requests find the run of the first. They go with their run.
CREATE TABLE idempotency_key (
    app         TEXT NOT NULL,
    scope       TEXT NOT NULL,
    key         TEXT NOT NULL,
    run_id      TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    expires_at  INTEGER NOT NULL,
    PRIMARY KEY (app, scope, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_key_run ON idempotency_key (run_id);

-- The slot key that was claimed last, of endpoints whose slots have keys: the next one is after it.
CREATE TABLE slot_turn (
    app          TEXT NOT NULL,
    endpoint_key TEXT NOT NULL,
    slot_key     TEXT NOT NULL,
    PRIMARY KEY (app, endpoint_key)
) STRICT, WITHOUT ROWID;

-- When the token buckets of rate limits are full, epoch milliseconds.
CREATE TABLE rate (
    app          TEXT NOT NULL,
    endpoint_key TEXT NOT NULL,
    key          TEXT NOT NULL,
    full_at      REAL NOT NULL,
    PRIMARY KEY (app, endpoint_key, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX rate_full ON rate (app, full_at);

-- By the number of the run: a search in a table without rowids loads each large row that it
-- compares as a whole, so that the bodies of some clients would delay the commits of all.
CREATE TABLE request (
    seq  INTEGER PRIMARY KEY,
    head TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;

CREATE TABLE result (
    seq  INTEGER PRIMARY KEY,
    head TEXT NOT NULL,
    body BLOB
) STRICT;

-- The key is run.seq << 24 | number, so that the steps of a run lie together and a new step of
-- the newest run goes to the end of the table: that changes a single page, nearly always.
CREATE TABLE step (
    key        INTEGER PRIMARY KEY,
    op_id      TEXT NOT NULL,
    name       TEXT NOT NULL,
    kind       TEXT NOT NULL,
    ok         INTEGER NOT NULL,
    value      TEXT NOT NULL,
    event_seq  INTEGER NOT NULL,
    attempts   INTEGER NOT NULL,
    ended_at   INTEGER NOT NULL,
    started_at INTEGER,
    arguments  TEXT
) STRICT;

-- What events have woken lately. Only waits have rows in it.
CREATE INDEX step_wait ON step (ended_at) WHERE kind = 'wait';

-- One row for each call that failed; `op_id` is '' for the handler's own. An op that succeeds at
-- once has none. `caused_by` is a JSON array of the names of steps.
CREATE TABLE failed_attempt (
    run_id        TEXT NOT NULL,
    op_id         TEXT NOT NULL,
    number        INTEGER NOT NULL,
    started_at    INTEGER NOT NULL,
    ended_at      INTEGER NOT NULL,
    error_name    TEXT NOT NULL,
    error_message TEXT NOT NULL,
    retry_at      INTEGER,
    caused_by     TEXT NOT NULL,
    PRIMARY KEY (run_id, op_id, number)
) STRICT, WITHOUT ROWID;

-- Chunks that were streamed, in batches of at most 64 KiB, or a single chunk. Those of a step have
-- its number. Those from outside steps have the number of the last step before them. `start` is the
-- index of the first chunk, `last` is 0 while batches of the same step follow. `texts` has one JSON
-- text per line, `size` is in bytes. The table has rowids because its rows are large: a search in a
-- table without them loads each row that it compares as a whole.
CREATE TABLE chunk_batch (
    run_id  TEXT NOT NULL,
    number  INTEGER NOT NULL,
    outside INTEGER NOT NULL,
    start   INTEGER NOT NULL,
    epoch   INTEGER,
    attempt INTEGER,
    last    INTEGER NOT NULL,
    count   INTEGER NOT NULL,
    size    INTEGER NOT NULL,
    texts   TEXT NOT NULL,
    PRIMARY KEY (run_id, number, outside, start)
) STRICT;

-- The table has rowids because its rows may be large: with an event of 1 KB, ending a wait and
-- deleting it take 2.5 times as long without. `consumed_seqs` is a JSON array. `matched` is the whole event as JSON, for it outlives the event's row.
-- `scanned` is null once a wait has been compared with all events that were there before it; else
-- it is the number of the last one, and new events do not end the wait: an earlier one may do so.
CREATE TABLE pending (
    run_id        TEXT NOT NULL,
    op_id         TEXT NOT NULL,
    name          TEXT NOT NULL,
    kind          TEXT NOT NULL,
    due_at        INTEGER NOT NULL,
    failures      INTEGER NOT NULL,
    error         TEXT NOT NULL,
    rule          TEXT NOT NULL,
    app           TEXT NOT NULL,
    event         TEXT NOT NULL,
    match_path    TEXT NOT NULL,
    match_key     TEXT NOT NULL,
    event_seq     INTEGER NOT NULL,
    consumed_seqs TEXT NOT NULL,
    address       TEXT NOT NULL,
    started_at    INTEGER,
    matched       TEXT,
    scanned       INTEGER,
    PRIMARY KEY (run_id, op_id)
) STRICT;

CREATE INDEX pending_wait ON pending (app, event, match_path, match_key, run_id, op_id)
    WHERE event <> '' AND matched IS NULL AND scanned IS NULL;
CREATE INDEX pending_scan ON pending (run_id, op_id) WHERE scanned IS NOT NULL;
-- The op that waits at an address. Whatever ends it makes the address free.
CREATE UNIQUE INDEX pending_address ON pending (app, address)
    WHERE address <> '' AND matched IS NULL;

-- What was delivered to addresses, so that a repeated delivery is known. `event` is the whole event
-- as JSON if the address belongs to the run, which may come for it later; else null. The rows go
-- with their run. The table has rowids because its rows may be large.
CREATE TABLE delivery (
    app     TEXT NOT NULL,
    address TEXT NOT NULL,
    id      TEXT NOT NULL,
    run_id  TEXT NOT NULL,
    event   TEXT,
    PRIMARY KEY (app, address, id)
) STRICT;

CREATE INDEX delivery_run ON delivery (run_id);

-- AUTOINCREMENT: a number that was given out never comes again, even when all events are pruned.
CREATE TABLE event (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    app         TEXT NOT NULL,
    source      TEXT NOT NULL,
    id          TEXT NOT NULL,
    name        TEXT NOT NULL,
    data        TEXT NOT NULL,
    ts          INTEGER,
    received_at INTEGER NOT NULL,
    UNIQUE (app, source, id)
) STRICT;

-- Events that have not reached all waits for their name yet, and the last wait that they have
-- reached. Later events of the name follow them.
CREATE TABLE spread (
    seq        INTEGER PRIMARY KEY,
    app        TEXT NOT NULL,
    name       TEXT NOT NULL,
    match_path TEXT NOT NULL,
    match_key  TEXT NOT NULL,
    run_id     TEXT NOT NULL,
    op_id      TEXT NOT NULL
) STRICT;

CREATE INDEX spread_name ON spread (app, name);

CREATE INDEX event_name ON event (app, name);
CREATE INDEX event_received ON event (app, received_at);
