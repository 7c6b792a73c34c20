-- Every statement the store runs on its tables, by name. The first line of each is `-- name --`.
-- What several have in common is a part: `-- {name} --`, and `{name}` where it stands.

-- {run-columns} --
run.id, run.app, run.endpoint_key, run.function_id, run.phase, run.retries, run.created_at,
run.event_seq, run.failures, run.crash_count, run.epoch, run.key, run.parent, run.traceparent,
run.labels, run.version, run.principal, run.undoable, run.cancel_reason, run.timeout,
run.deadline, run.slot_key, run.singleton_key, run.client, run.depth, run.retry_count

-- {step-columns} --
step.op_id, step.name, step.kind, step.key & 0xFFFFFF, step.ok, step.value, step.event_seq,
step.attempts, step.ended_at, step.started_at, step.arguments

-- {pending-columns} --
op_id, name, kind, due_at, failures, error, rule, event, match_path, match_key, event_seq,
consumed_seqs, address, started_at, matched

-- {filters} --
run.app = :app AND (:key IS NULL OR run.key = :key) AND run.id >= :since AND run.id < :before
AND run.phase IN (SELECT value FROM json_each(:phases))
AND (:endpoint_key IS NULL OR run.endpoint_key = :endpoint_key)

-- {principal-and-label} --
(:principal IS NULL OR run.principal = :principal)
AND (:label IS NULL OR EXISTS (
    SELECT 1 FROM label
    WHERE label.app = :app AND label.name = :label AND label.value = :label_value
      AND label.run_id = run.id
))

-- {abandoned} --
run.app = :app AND run.ended_at IS NULL AND run.cancel_reason IS NULL
AND (
    parent.id IS NULL OR parent.ended_at IS NOT NULL OR parent.cancel_reason IS NOT NULL
    OR NOT EXISTS (
        SELECT 1 FROM pending INDEXED BY pending_address
        WHERE pending.app = run.app AND pending.address = 'child:' || run.id
          AND pending.address <> '' AND pending.matched IS NULL
    )
)

-- insert-step --
-- The guard makes one statement of "is the run still ours" and "take the checkpoint".
INSERT INTO step (key, op_id, name, kind, ok, value, event_seq, attempts, ended_at, started_at,
                  arguments)
SELECT seq << 24 | ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, nullif(?, 0)
FROM run
WHERE id = ? AND owner IS ? AND epoch = ?

-- delete-pending --
DELETE FROM pending WHERE run_id = ? AND op_id = ?

-- insert-run --
INSERT INTO run (seq, id, app, endpoint_key, function_id, phase, retries, created_at, event_seq,
                 failures, crash_count, epoch, undoable, depth, size, owner, due_at, ended_at,
                 labels, key, parent, traceparent, version, principal, timeout, deadline, slot_key,
                 singleton_key, client)
VALUES ((SELECT coalesce(max(seq), 0) + 1 FROM run), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
        ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING

-- insert-plain-run --
-- One that has nothing in the last columns.
INSERT INTO run (seq, id, app, endpoint_key, function_id, phase, retries, created_at, event_seq,
                 failures, crash_count, epoch, undoable, depth, size, owner, due_at, ended_at)
VALUES ((SELECT coalesce(max(seq), 0) + 1 FROM run), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
        ?, ?)
ON CONFLICT DO NOTHING

-- idempotency-key --
-- A key that may not be taken yet: its run has not ended, or it has not expired.
SELECT idempotency_key.run_id, idempotency_key.fingerprint
FROM idempotency_key
CROSS JOIN run ON run.id = idempotency_key.run_id
WHERE idempotency_key.app = :app AND idempotency_key.scope = :scope AND idempotency_key.key = :key
  AND (run.ended_at IS NULL OR idempotency_key.expires_at > :now)

-- put-idempotency-key --
INSERT OR REPLACE INTO idempotency_key (app, scope, key, run_id, fingerprint, expires_at)
VALUES (:app, :scope, :key, :run_id, :fingerprint, :expires_at)

-- delete-idempotency-keys --
DELETE FROM idempotency_key WHERE run_id = ?

-- insert-labels --
INSERT INTO label (app, name, value, run_id)
SELECT run.app, each.key, each.value, run.id
FROM run
CROSS JOIN json_each(run.labels) AS each
WHERE run.id = ?

-- insert-failed-attempt --
INSERT OR REPLACE INTO failed_attempt (run_id, op_id, number, started_at, ended_at, error_name,
                                       error_message, retry_at, caused_by)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)

-- insert-request --
INSERT INTO request (seq, head, body) VALUES ((SELECT seq FROM run WHERE id = ?), ?, ?)

-- update-run --
-- A run that is given up is due at once when one of its waits has been answered meanwhile, or when
-- it was cancelled and its owner does not know it.
UPDATE run
SET phase = coalesce(:phase, phase), failures = coalesce(:failures, failures),
    crash_count = coalesce(:crash_count, crash_count), owner = :holder,
    handoff = coalesce(:handoff, handoff), undoable = max(undoable, :undoable),
    endpoint_key = coalesce(:endpoint_key, endpoint_key),
    claimed_ahead = iif(:due_at IS NULL, claimed_ahead, 0),
    due_at = CASE
        WHEN :due_at IS NULL THEN NULL
        WHEN cancel_reason IS NOT NULL AND NOT :is_undoing THEN min(:due_at, :now)
        WHEN EXISTS (
            SELECT 1 FROM pending
            WHERE run_id = :id AND matched IS NOT NULL
              AND (:awaited IS NULL OR op_id IN (SELECT value FROM json_each(:awaited)))
        )
        THEN min(:due_at, :now)
        ELSE :due_at
    END
WHERE id = :id AND owner = :owner AND epoch = :epoch

-- end-run --
UPDATE run
SET phase = ?, failures = coalesce(?, failures), crash_count = coalesce(?, crash_count),
    undoable = max(undoable, ?), owner = NULL, due_at = NULL, ended_at = ?,
    handoff = coalesce(?, handoff), size = size + ?
WHERE id = ? AND owner = ? AND epoch = ? AND (? OR cancel_reason IS NULL)

-- is-cancelled --
SELECT 1 FROM run WHERE id = ? AND cancel_reason IS NOT NULL

-- release-cancelled --
UPDATE run SET phase = 'suspended', owner = NULL, due_at = ?
WHERE id = ? AND owner = ? AND epoch = ? AND cancel_reason IS NOT NULL

-- held-app --
SELECT app, cancel_reason IS NOT NULL FROM run WHERE id = ? AND owner = ? AND epoch = ?

-- put-pending --
INSERT OR REPLACE INTO pending (run_id, op_id, name, kind, due_at, failures, error, rule, app,
                                event, match_path, match_key, event_seq, consumed_seqs, address,
                                started_at, matched, scanned)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- insert-result --
INSERT INTO result (seq, head, body) VALUES ((SELECT seq FROM run WHERE id = ?), ?, ?)

-- count-descendant --
-- It is counted at the topmost run that is stored.
UPDATE run SET descendants = descendants + 1
WHERE descendants < :most AND id = (
    WITH RECURSIVE above (id, parent, level) AS (
        SELECT id, parent, 0 FROM run WHERE id = :parent
        UNION ALL
        SELECT run.id, run.parent, above.level + 1
        FROM above
        CROSS JOIN run ON run.id = above.parent
    )
    SELECT id FROM above ORDER BY level DESC LIMIT 1
)

-- delete-all-pending --
DELETE FROM pending WHERE run_id = ?

-- seq-of-event --
SELECT seq FROM event WHERE app = ? AND source = ? AND id = ?

-- insert-event --
INSERT INTO event (app, source, id, name, data, ts, received_at) VALUES (?, ?, ?, ?, ?, ?, ?)

-- events-after --
-- Each event, with its data only if one of the texts is in it. Id and data as bytes: text that is
-- no UTF-8 would end the query.
SELECT seq, CAST(id AS BLOB),
       CASE WHEN instr(data, ?) OR instr(data, ?) OR instr(data, ?) THEN CAST(data AS BLOB) END,
       ts, received_at, length(data)
FROM event
WHERE app = ? AND name = ? AND seq > ?
ORDER BY seq

-- unscanned-wait --
SELECT run_id, op_id, app, event, CAST(rule AS BLOB), event_seq, CAST(consumed_seqs AS BLOB), scanned
FROM pending
WHERE scanned IS NOT NULL
ORDER BY run_id, op_id
LIMIT 1

-- is-unscanned --
SELECT 1 FROM pending WHERE run_id = ? AND op_id = ? AND scanned = ?

-- set-scanned --
UPDATE pending SET matched = ?, scanned = ? WHERE run_id = ? AND op_id = ?

-- wait-paths --
WITH RECURSIVE path (value) AS (
    SELECT min(match_path) FROM pending
    WHERE app = :app AND event = :event AND event <> '' AND matched IS NULL AND scanned IS NULL
    UNION ALL
    SELECT (
        SELECT min(match_path) FROM pending
        WHERE app = :app AND event = :event AND event <> '' AND matched IS NULL AND scanned IS NULL
          AND match_path > path.value
    )
    FROM path
    WHERE path.value IS NOT NULL
)
SELECT value FROM path WHERE value IS NOT NULL

-- waits --
-- Rule and consumed_seqs as bytes: text that is no UTF-8 would fail the whole query.
SELECT pending.run_id, pending.op_id, CAST(pending.rule AS BLOB), pending.event_seq,
       CAST(pending.consumed_seqs AS BLOB), run.owner
FROM pending
CROSS JOIN run ON run.id = pending.run_id
WHERE pending.app = ? AND pending.event = ? AND pending.event <> ''
  AND pending.match_path = ? AND pending.match_key = ? AND pending.matched IS NULL
  AND pending.scanned IS NULL AND (pending.run_id, pending.op_id) > (?, ?)
ORDER BY pending.run_id, pending.op_id
LIMIT ?

-- is-spreading --
SELECT 1 FROM spread WHERE app = ? AND name = ? LIMIT 1

-- put-spread --
INSERT OR REPLACE INTO spread (seq, app, name, match_path, match_key, run_id, op_id)
VALUES (?, ?, ?, ?, ?, ?, ?)

-- next-spread --
SELECT spread.app, spread.name, spread.match_path, spread.match_key, spread.run_id, spread.op_id,
       spread.seq, CAST(event.id AS BLOB), CAST(event.data AS BLOB), event.ts, event.received_at
FROM spread
LEFT JOIN event ON event.seq = spread.seq
WHERE spread.seq > 0
ORDER BY spread.seq
LIMIT 1

-- has-spread --
SELECT 1 FROM spread WHERE seq > 0 LIMIT 1

-- delete-spread --
DELETE FROM spread WHERE seq = ?

-- match-wait --
UPDATE pending SET matched = ? WHERE run_id = ? AND op_id = ?

-- delivery --
SELECT run_id FROM delivery WHERE app = ? AND address = ? AND id = ?

-- is-used --
SELECT 1 FROM delivery WHERE app = ? AND address = ? LIMIT 1

-- insert-delivery --
INSERT INTO delivery (app, address, id, run_id, event) VALUES (?, ?, ?, ?, ?)

-- waiter --
SELECT pending.run_id, pending.op_id, run.owner
FROM pending
CROSS JOIN run ON run.id = pending.run_id
WHERE pending.app = ? AND pending.address = ? AND pending.address <> '' AND pending.matched IS NULL

-- delivered-to --
-- What a stored op has got; else what is kept for it.
SELECT coalesce(
    (SELECT matched FROM pending WHERE run_id = :run_id AND op_id = :op_id AND address = :address),
    (
        SELECT event FROM delivery
        WHERE app = :app AND address = :address AND run_id = :run_id AND event IS NOT NULL
    )
)

-- take-address --
UPDATE pending SET address = '' WHERE run_id = ? AND op_id = ?

-- close-address --
UPDATE pending SET address = '' WHERE run_id = ? AND op_id = ? AND matched IS NULL

-- match-of --
SELECT matched FROM pending WHERE run_id = ? AND op_id = ?

-- delete-deliveries --
DELETE FROM delivery WHERE run_id = ?

-- wake-run --
UPDATE run SET due_at = min(due_at, :now) WHERE id = :id AND due_at IS NOT NULL

-- due-runs --
SELECT run.due_at, run.id, run.crash_count OR run.claimed_ahead
FROM json_each(:keys) AS handler
CROSS JOIN run ON run.id IN (
    SELECT due.id FROM run AS due
    WHERE due.app = :app AND due.endpoint_key = handler.value AND due.due_at <= :now
      AND due.phase <> 'queued'
    ORDER BY due.due_at, due.id
    LIMIT :limit
)
ORDER BY run.due_at, run.id
LIMIT :limit

-- due-of --
SELECT run.due_at, run.id
FROM json_each(:run_ids) AS wanted
CROSS JOIN run ON run.id = wanted.value
WHERE run.app = :app AND run.due_at <= :now AND run.phase <> 'queued'
  AND run.endpoint_key IN (SELECT value FROM json_each(:keys))
ORDER BY run.due_at, run.id
LIMIT :limit

-- claim-runs --
UPDATE run
SET owner = :owner, epoch = epoch + 1, due_at = NULL,
    phase = CASE phase WHEN 'queued' THEN 'suspended' ELSE phase END,
    claimed_ahead = id IN (SELECT value FROM json_each(:ids) WHERE key >= :at_once)
WHERE id IN (SELECT value FROM json_each(:ids))

-- claimed-runs --
SELECT {run-columns},
       request.head, request.body,
       (SELECT coalesce(sum(size), 0) FROM chunk_batch WHERE run_id = run.id),
       (SELECT coalesce(sum(count), 0) FROM chunk_batch WHERE run_id = run.id AND outside)
FROM json_each(:ids) AS wanted
CROSS JOIN run ON run.id = wanted.value
CROSS JOIN request ON request.seq = run.seq

-- claimed-steps --
-- In no order: SQLite would sort copies of all values.
SELECT run.id, {step-columns}
FROM json_each(:ids) AS wanted
CROSS JOIN run ON run.id = wanted.value
CROSS JOIN step ON step.key BETWEEN run.seq << 24 AND run.seq << 24 | 0xFFFFFF

-- claimed-pending --
SELECT run_id, {pending-columns}
FROM json_each(:ids) AS wanted
CROSS JOIN pending ON pending.run_id = wanted.value

-- enqueue --
-- A run whose response was being sent cannot go on: it fails when it is claimed, and needs no slot.
UPDATE run SET phase = 'queued', slot_key = coalesce(slot_key, '')
WHERE id IN (
    SELECT id FROM run
    WHERE app = :app AND endpoint_key = :endpoint_key AND due_at <= :now
      AND phase <> 'queued' AND phase <> 'responding'
    ORDER BY due_at, id
    LIMIT 1000
)

-- due-broken --
SELECT due_at, id, crash_count OR claimed_ahead FROM run
WHERE app = :app AND endpoint_key = :endpoint_key AND due_at <= :now
  AND phase <> 'queued' AND phase = 'responding'
ORDER BY due_at, id
LIMIT :limit

-- leave-queue --
UPDATE run SET phase = 'suspended'
WHERE id IN (
    WITH RECURSIVE handler (name) AS (
        SELECT min(endpoint_key) FROM run INDEXED BY run_queued
        WHERE app = :app AND phase = 'queued'
        UNION ALL
        SELECT (
            SELECT min(endpoint_key) FROM run INDEXED BY run_queued
            WHERE app = :app AND phase = 'queued' AND endpoint_key > handler.name
        )
        FROM handler
        WHERE handler.name IS NOT NULL
    )
    SELECT queued.id
    FROM handler
    CROSS JOIN run AS queued INDEXED BY run_queued
        ON queued.app = :app AND queued.endpoint_key = handler.name AND queued.phase = 'queued'
    WHERE handler.name NOT IN (SELECT value FROM json_each(:limited))
      AND (
          handler.name IN (SELECT value FROM json_each(:unlimited)) OR queued.due_at < :before
      )
    LIMIT :limit
)

-- put-in-queue --
UPDATE run SET phase = 'queued', owner = NULL, due_at = ? WHERE id = ?

-- slots-in-use --
SELECT count(*) FROM (
    SELECT 1 FROM run INDEXED BY run_slot
    WHERE app = :app AND endpoint_key = :endpoint_key
      AND owner IS NOT NULL AND slot_key IS NOT NULL
    LIMIT :most
)

-- slots-in-use-of-key --
SELECT count(*) FROM (
    SELECT 1 FROM run INDEXED BY run_slot
    WHERE app = :app AND endpoint_key = :endpoint_key AND slot_key = :slot_key
      AND owner IS NOT NULL
    LIMIT :most
)

-- next-free-key --
-- The first slot key of queued runs, after one and up to another one, that has a free slot.
WITH RECURSIVE line (slot_key) AS (
    SELECT min(slot_key) FROM run INDEXED BY run_queued
    WHERE app = :app AND endpoint_key = :endpoint_key AND phase = 'queued' AND slot_key > :after
    UNION ALL
    SELECT (
        SELECT min(slot_key) FROM run INDEXED BY run_queued
        WHERE app = :app AND endpoint_key = :endpoint_key AND phase = 'queued'
          AND slot_key > line.slot_key
    )
    FROM line
    WHERE line.slot_key IS NOT NULL AND (:last IS NULL OR line.slot_key < :last)
)
SELECT slot_key FROM line
WHERE slot_key IS NOT NULL AND (:last IS NULL OR slot_key <= :last)
  AND (
      :most IS NULL
      OR :most > (
          SELECT count(*) FROM (
              SELECT 1 FROM run INDEXED BY run_slot
              WHERE app = :app AND endpoint_key = :endpoint_key AND slot_key = line.slot_key
                AND owner IS NOT NULL
              LIMIT coalesce(:most, 0)
          )
      )
  )
LIMIT 1

-- first-of-key --
SELECT due_at, id FROM run INDEXED BY run_queued
WHERE app = :app AND endpoint_key = :endpoint_key AND phase = 'queued' AND slot_key = :slot_key
ORDER BY due_at, id
LIMIT 1

-- count-queued --
SELECT count(*) FROM (
    SELECT 1 FROM run INDEXED BY run_queued
    WHERE app = :app AND endpoint_key = :endpoint_key AND phase = 'queued'
    LIMIT :most
)

-- slot-turn --
SELECT slot_key FROM slot_turn WHERE app = :app AND endpoint_key = :endpoint_key

-- put-slot-turn --
INSERT OR REPLACE INTO slot_turn (app, endpoint_key, slot_key)
VALUES (:app, :endpoint_key, :slot_key)

-- rate --
SELECT full_at FROM rate WHERE app = :app AND endpoint_key = :endpoint_key AND key = :key

-- put-rate --
INSERT OR REPLACE INTO rate (app, endpoint_key, key, full_at)
VALUES (:app, :endpoint_key, :key, :full_at)

-- delete-rates --
DELETE FROM rate WHERE (app, endpoint_key, key) IN (
    SELECT app, endpoint_key, key FROM rate WHERE app = ? AND full_at < ? LIMIT ?
)

-- singleton-run --
SELECT id, client FROM run INDEXED BY run_singleton
WHERE app = :app AND endpoint_key = :endpoint_key AND singleton_key = :singleton_key
  AND ended_at IS NULL

-- singleton-of --
-- The other run that has the singleton key of this one.
SELECT other.id
FROM run
CROSS JOIN run AS other INDEXED BY run_singleton
    ON other.app = run.app AND other.endpoint_key = run.endpoint_key
    AND other.singleton_key = run.singleton_key AND other.ended_at IS NULL
    AND other.id <> run.id
WHERE run.id = ?

-- run-holder --
SELECT owner, epoch FROM run WHERE id = ?

-- epoch --
SELECT epoch, parent FROM run WHERE id = ?

-- request --
SELECT request.head, request.body
FROM run
CROSS JOIN request ON request.seq = run.seq
WHERE run.id = ? AND run.app = ?

-- steps --
SELECT {step-columns}
FROM run
CROSS JOIN step ON step.key BETWEEN run.seq << 24 AND run.seq << 24 | 0xFFFFFF
WHERE run.id = ?
ORDER BY step.key

-- count-steps --
SELECT count(*)
FROM run
CROSS JOIN step ON step.key BETWEEN run.seq << 24 AND run.seq << 24 | 0xFFFFFF
WHERE run.id = ?

-- pending --
SELECT {pending-columns}
FROM pending
WHERE run_id = ?
ORDER BY op_id

-- failed-attempts --
SELECT op_id, number, started_at, ended_at, error_name, error_message, retry_at, caused_by
FROM failed_attempt
WHERE run_id = ?
ORDER BY op_id, number

-- insert-chunk-batch --
INSERT INTO chunk_batch (run_id, number, outside, start, epoch, attempt, last, count, size, texts)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- stream-run --
SELECT phase, epoch, owner IS NOT NULL, handoff FROM run WHERE id = ? AND app = ?

-- batches-of-steps --
-- A step that has pushed nothing is a row without texts. Rows come in order, without a sort: a
-- reader stops when it has enough, and no text of a later batch was read.
SELECT step.key & 0xFFFFFF, 0, coalesce(chunk_batch.start, 0), step.op_id, chunk_batch.epoch,
       chunk_batch.attempt, coalesce(chunk_batch.last, 1), chunk_batch.texts
FROM run
CROSS JOIN step
    ON step.key BETWEEN (run.seq << 24) + max(:done + 1, :number) AND run.seq << 24 | 0xFFFFFF
    AND step.ok AND step.kind IN ('run', 'send')
LEFT JOIN chunk_batch
    ON chunk_batch.run_id = run.id AND chunk_batch.number = step.key & 0xFFFFFF
    AND chunk_batch.outside = 0
WHERE run.id = :id
  AND (step.key & 0xFFFFFF, 0, coalesce(chunk_batch.start, 0)) >= (:number, :is_outside, :start)
ORDER BY step.key, chunk_batch.start

-- batches-outside-steps --
SELECT number, 1, start, NULL, NULL, NULL, 1, texts
FROM chunk_batch
WHERE run_id = :id AND number >= max(:done, :number) AND outside AND start + count > :outside
  AND (number, 1, start) >= (:number, :is_outside, :start)
ORDER BY number, outside, start

-- stream-versions --
SELECT run.id, run.epoch, run.owner IS NOT NULL, run.ended_at IS NOT NULL,
       run.handoff IS NOT NULL, (SELECT count(*) FROM chunk_batch WHERE chunk_batch.run_id = run.id),
       coalesce((
           SELECT max(key) & 0xFFFFFF FROM step
           WHERE key BETWEEN run.seq << 24 AND run.seq << 24 | 0xFFFFFF
       ), 0)
FROM json_each(:ids) AS wanted
CROSS JOIN run ON run.id = wanted.value
WHERE run.app = :app

-- put-worker --
INSERT OR REPLACE INTO worker (id, host, pid, expires_at, app) VALUES (?, ?, ?, ?, ?)

-- heartbeat --
UPDATE worker SET expires_at = :expires_at WHERE id = :id

-- delete-worker --
DELETE FROM worker WHERE id = :id AND (:skip_if_renewed_after IS NULL OR expires_at <= :skip_if_renewed_after)

-- worker --
SELECT 1 FROM worker WHERE id = ?

-- workers --
SELECT id, host, pid, expires_at, app FROM worker ORDER BY id

-- free-runs --
-- One that was claimed ahead may not have begun. It is not claimed so again: its next crash counts.
UPDATE run
SET owner = NULL, due_at = :now, epoch = epoch + :crashed,
    crash_count = crash_count + :crashed * (1 - claimed_ahead),
    claimed_ahead = claimed_ahead * :crashed
WHERE owner = :owner
RETURNING id

-- unknown-owners --
WITH RECURSIVE holder (id) AS (
    SELECT min(owner) FROM run WHERE owner IS NOT NULL
    UNION ALL
    SELECT (SELECT min(owner) FROM run WHERE owner > holder.id)
    FROM holder
    WHERE holder.id IS NOT NULL
)
SELECT id FROM holder
WHERE id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM worker WHERE worker.id = holder.id)

-- cancel-run --
UPDATE run
SET phase = :phase, owner = NULL, due_at = NULL, ended_at = :ended_at, cancel_reason = :reason
WHERE id = :id AND app = :app AND ended_at IS NULL AND NOT undoable

-- cancel-undoable-run --
-- One that a process holds goes on until that process releases it.
UPDATE run
SET cancel_reason = :reason, phase = iif(owner IS NULL, 'suspended', phase),
    due_at = iif(owner IS NULL, :now, NULL)
WHERE id = :id AND app = :app AND ended_at IS NULL AND undoable AND cancel_reason IS NULL

-- close-waits --
UPDATE pending SET event = '', address = '', scanned = NULL WHERE run_id = ? AND matched IS NULL

-- cancelled-runs --
SELECT id FROM run
WHERE owner = ? AND cancel_reason IS NOT NULL AND ended_at IS NULL
ORDER BY id

-- run-exists --
SELECT 1 FROM run WHERE id = ? AND app = ?

-- run-ended --
SELECT ended_at IS NOT NULL FROM run WHERE id = ? AND app = ?

-- takes-deliveries --
SELECT 1 FROM run WHERE id = ? AND app = ? AND ended_at IS NULL AND cancel_reason IS NULL

-- retry-run --
UPDATE run
SET phase = 'suspended', due_at = :now, ended_at = NULL, failures = 0, crash_count = 0,
    epoch = epoch + 1, deadline = :now + timeout, descendants = 0, retry_count = retry_count + 1,
    size = size - coalesce((
        SELECT length(head) + coalesce(length(body), 0) FROM result WHERE result.seq = run.seq
    ), 0)
WHERE id = :id AND app = :app AND phase = 'failed'

-- steps-to-retry --
SELECT step.key, step.key & 0xFFFFFF
FROM run
CROSS JOIN step ON step.key BETWEEN run.seq << 24 AND run.seq << 24 | 0xFFFFFF
WHERE run.id = :id AND op_id IN (SELECT value FROM json_each(:steps))
ORDER BY step.key

-- delete-step --
DELETE FROM step WHERE key = ?

-- delete-chunks-of-retried --
-- Those from outside steps have the number of the last step before them.
DELETE FROM chunk_batch
WHERE run_id = :id AND (
    outside AND number >= :first
    OR NOT outside AND number IN (SELECT value FROM json_each(:numbers))
)

-- number-of-step --
-- A step that has not finished comes after all that have.
SELECT coalesce(
    (
        SELECT step.key & 0xFFFFFF
        FROM run
        CROSS JOIN step ON step.key BETWEEN run.seq << 24 AND run.seq << 24 | 0xFFFFFF
        WHERE run.id = :id AND step.op_id = :op_id
    ),
    (SELECT 1 << 24 FROM pending WHERE run_id = :id AND op_id = :op_id)
)

-- copy-steps --
INSERT INTO step (key, op_id, name, kind, ok, value, event_seq, attempts, ended_at, started_at,
                  arguments)
SELECT copy.seq << 24 | (step.key & 0xFFFFFF), op_id, name, kind, ok, value, step.event_seq, attempts,
       step.ended_at, started_at, arguments
FROM run AS copy
CROSS JOIN run AS old ON old.id = :id
CROSS JOIN step ON step.key BETWEEN old.seq << 24 AND (old.seq << 24) + :number - 1
WHERE copy.id = :copy

-- copy-chunk-batches --
INSERT INTO chunk_batch (run_id, number, outside, start, epoch, attempt, last, count, size, texts)
SELECT :copy, number, outside, start, epoch, attempt, last, count, size, texts
FROM chunk_batch
WHERE run_id = :id AND number < :number

-- ended-before --
SELECT id FROM run
WHERE app = ? AND ended_at < ?
ORDER BY ended_at, id
LIMIT ?

-- delete-run --
DELETE FROM run WHERE id = ?

-- delete-request --
DELETE FROM request WHERE seq = (SELECT seq FROM run WHERE id = ?)

-- delete-result --
DELETE FROM result WHERE seq = (SELECT seq FROM run WHERE id = ?)

-- delete-steps --
DELETE FROM step
WHERE key IN (
    SELECT step.key
    FROM run
    CROSS JOIN step ON step.key BETWEEN run.seq << 24 AND run.seq << 24 | 0xFFFFFF
    WHERE run.id = ?
)

-- delete-failed-attempts --
DELETE FROM failed_attempt WHERE run_id = ?

-- delete-labels --
DELETE FROM label
WHERE (app, name, value, run_id) IN (
    SELECT run.app, each.key, each.value, run.id
    FROM run
    CROSS JOIN json_each(run.labels) AS each
    WHERE run.id = ?
)

-- delete-chunk-batches --
DELETE FROM chunk_batch WHERE run_id = ?

-- delete-events --
DELETE FROM event WHERE seq IN (
    SELECT seq FROM event WHERE app = ? AND received_at < ? ORDER BY received_at, seq LIMIT ?
)

-- event-seq --
SELECT coalesce(max(seq), 0) FROM event

-- result --
SELECT run.phase, run.ended_at, result.head, result.body
FROM run
LEFT JOIN result ON result.seq = run.seq
WHERE run.id = ? AND run.app = ?

-- which-ended --
SELECT run.id
FROM json_each(:ids) AS wanted
CROSS JOIN run ON run.id = wanted.value
WHERE run.app = :app AND run.ended_at IS NOT NULL

-- next-due --
SELECT min(due) FROM (
    SELECT (
        SELECT min(due_at) FROM run
        WHERE app = :app AND endpoint_key = handler.value AND due_at IS NOT NULL
          AND phase <> 'queued'
    ) AS due
    FROM json_each(:keys) AS handler
)

-- unclaimable --
WITH RECURSIVE handler (name) AS (
    SELECT min(endpoint_key) FROM run WHERE app = :app AND due_at IS NOT NULL AND phase <> 'queued'
    UNION ALL
    SELECT (
        SELECT min(endpoint_key) FROM run
        WHERE app = :app AND due_at IS NOT NULL AND phase <> 'queued'
          AND endpoint_key > handler.name
    )
    FROM handler
    WHERE handler.name IS NOT NULL
)
SELECT {run-columns}, run.owner, run.due_at, run.ended_at
FROM handler
CROSS JOIN run ON run.id IN (
    SELECT due.id FROM run AS due
    WHERE due.app = :app AND due.endpoint_key = handler.name AND due.due_at <= :now
      AND due.phase <> 'queued'
    ORDER BY due.due_at, due.id
    LIMIT 100
)
WHERE handler.name NOT IN (SELECT value FROM json_each(:keys))
ORDER BY run.due_at, run.id
LIMIT 100

-- abandoned-children --
SELECT {run-columns}, run.owner, run.due_at, run.ended_at
FROM run INDEXED BY run_child
LEFT JOIN run AS parent ON parent.id = run.parent
WHERE run.parent IS NOT NULL AND {abandoned}
ORDER BY run.id
LIMIT 100

-- abandoned-children-of --
SELECT {run-columns}, run.owner, run.due_at, run.ended_at
FROM json_each(:parents) AS wanted
CROSS JOIN run INDEXED BY run_child ON run.parent = wanted.value
LEFT JOIN run AS parent ON parent.id = run.parent
WHERE {abandoned}
ORDER BY run.id
LIMIT 100

-- held --
SELECT id, epoch FROM run WHERE owner = ? ORDER BY id

-- matched-waits --
-- The event as bytes: text that is no UTF-8 would fail the whole query.
SELECT run.id, pending.op_id, CAST(pending.matched AS BLOB)
FROM run
CROSS JOIN pending ON pending.run_id = run.id AND pending.matched IS NOT NULL
WHERE run.owner = ?
ORDER BY run.id, pending.op_id

-- run --
SELECT {run-columns}, run.owner, run.due_at, run.ended_at
FROM run
WHERE id = ? AND app = ?

-- count-labelled --
SELECT count(*) FROM (
    SELECT 1 FROM label WHERE app = :app AND name = :label AND value = :label_value LIMIT :most
)

-- apps --
-- A search in the index for each application, however many runs they have.
WITH RECURSIVE found (app) AS (
    SELECT min(app) FROM run
    UNION ALL
    SELECT (SELECT min(app) FROM run WHERE app > found.app) FROM found WHERE found.app IS NOT NULL
)
SELECT app FROM found WHERE app IS NOT NULL

-- recent-events --
-- Texts as bytes: one that is no UTF-8 would end the query.
SELECT seq, CAST(id AS BLOB), CAST(name AS BLOB), CAST(data AS BLOB), ts, received_at
FROM event
WHERE app = ?
ORDER BY received_at DESC, seq DESC
LIMIT ?

-- ended-waits --
-- A value is read only if it is short: all others are events.
SELECT ended.event_seq, run.id,
       CASE WHEN length(ended.value) <= :longest THEN CAST(ended.value AS BLOB) END
FROM (
    SELECT key, event_seq, value, ended_at FROM step INDEXED BY step_wait
    WHERE kind = 'wait' AND ended_at >= :since
    ORDER BY ended_at DESC
    LIMIT :most
) AS ended
CROSS JOIN run ON run.seq = ended.key >> 24
WHERE run.app = :app AND ended.event_seq >= :first
ORDER BY ended.ended_at DESC, run.id DESC

-- list-by-phase --
-- Of each phase the newest ones; then the newest of those.
SELECT {run-columns}, run.owner, run.due_at, run.ended_at
FROM run
WHERE id IN (
    SELECT found.id
    FROM json_each(:phases) AS wanted
    CROSS JOIN run AS found ON found.id IN (
        SELECT id FROM run
        WHERE app = :app AND phase = wanted.value AND id >= :since AND id < :before
          AND {principal-and-label}
        ORDER BY id DESC
        LIMIT :limit
    )
)
ORDER BY id DESC
LIMIT :limit

-- list-by-endpoint --
SELECT {run-columns}, run.owner, run.due_at, run.ended_at
FROM run
WHERE id IN (
    SELECT found.id
    FROM json_each(:phases) AS wanted
    CROSS JOIN run AS found ON found.id IN (
        SELECT id FROM run
        WHERE app = :app AND endpoint_key = :endpoint_key AND phase = wanted.value
          AND id >= :since AND id < :before
          AND {principal-and-label}
        ORDER BY id DESC
        LIMIT :limit
    )
)
ORDER BY id DESC
LIMIT :limit

-- list-by-key --
SELECT {run-columns}, run.owner, run.due_at, run.ended_at
FROM run
WHERE key = :key AND {filters}
  AND {principal-and-label}
ORDER BY id DESC
LIMIT :limit

-- list-held --
-- A process holds no more runs than it executes, so these are sorted.
SELECT {run-columns}, run.owner, run.due_at, run.ended_at
FROM run INDEXED BY run_owner
WHERE owner IS NOT NULL AND (NOT :cancelled OR (cancel_reason IS NOT NULL AND ended_at IS NULL))
  AND {filters}
  AND {principal-and-label}
ORDER BY id DESC
LIMIT :limit

-- list-cancelled --
-- The index has no other runs.
SELECT {run-columns}, run.owner, run.due_at, run.ended_at
FROM run INDEXED BY run_cancelled
WHERE cancel_reason IS NOT NULL AND ended_at IS NULL
  AND {filters}
  AND {principal-and-label}
ORDER BY id DESC
LIMIT :limit

-- list-by-label --
SELECT {run-columns}, run.owner, run.due_at, run.ended_at
FROM label
CROSS JOIN run ON run.id = label.run_id
WHERE label.app = :app AND label.name = :label AND label.value = :label_value
  AND label.run_id >= :since AND label.run_id < :before
  AND phase IN (SELECT value FROM json_each(:phases))
  AND (:endpoint_key IS NULL OR endpoint_key = :endpoint_key)
  AND (:principal IS NULL OR principal = :principal)
ORDER BY label.run_id DESC
LIMIT :limit

-- list-by-label-and-phase --
-- Whether a run is in a phase is found out in an index: the runs with a label are all over the table
-- of runs, whose rows are large.
SELECT {run-columns}, run.owner, run.due_at, run.ended_at
FROM run
WHERE id IN (
    SELECT label.run_id
    FROM label
    WHERE label.app = :app AND label.name = :label AND label.value = :label_value
      AND label.run_id >= :since AND label.run_id < :before
      AND CASE WHEN :endpoint_key IS NULL THEN EXISTS (
          SELECT 1 FROM run AS found INDEXED BY run_phase
          WHERE found.app = :app AND found.phase IN (SELECT value FROM json_each(:phases))
            AND found.id = label.run_id
      ) ELSE EXISTS (
          SELECT 1 FROM run AS found INDEXED BY run_endpoint
          WHERE found.app = :app AND found.endpoint_key = :endpoint_key
            AND found.phase IN (SELECT value FROM json_each(:phases)) AND found.id = label.run_id
      ) END
    ORDER BY label.run_id DESC
    LIMIT iif(:principal IS NULL, :limit, -1)
)
AND (:principal IS NULL OR principal = :principal)
ORDER BY id DESC
LIMIT :limit

-- count-live --
-- No more than :most are counted.
SELECT count(*) FROM (
    SELECT 1
    FROM json_each('["sync", "async", "suspended", "queued", "responding"]') AS live
    CROSS JOIN run ON run.app = :app AND run.phase = live.value
    LIMIT :most
)

-- used-bytes --
SELECT (pages.page_count - free.freelist_count) * size.page_size
FROM pragma_page_count() AS pages, pragma_freelist_count() AS free, pragma_page_size() AS size

-- usage-of-principal --
SELECT coalesce(sum(live), 0), coalesce(sum(size), 0)
FROM (
    SELECT phase IN ('sync', 'async', 'suspended', 'queued', 'responding') AS live, size
    FROM run
    WHERE app = :app AND principal = :principal
    LIMIT :most
)

-- secrets --
SELECT value, created_at FROM secret ORDER BY number DESC

-- insert-secret --
INSERT INTO secret (value, created_at) VALUES (?, ?) ON CONFLICT DO NOTHING

-- delete-secrets --
-- A secret was replaced when the next one was made.
DELETE FROM secret
WHERE (SELECT min(next.created_at) FROM secret AS next WHERE next.number > secret.number) < ?
