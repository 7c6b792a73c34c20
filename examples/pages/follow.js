// Follows a run of a durable endpoint from a page, until its response is there.
import { StreamError, fetchWithStream } from '/clients/durable-client.js'

/**
 * Sends a request, with one Idempotency-Key, until it has been answered; so one run comes of it.
 *
 * The client reads on by itself after a handoff, and when the server is killed. It cannot where the
 * run is not stored yet: then the request is sent again, which begins with the first event of the run.
 * `onRestart(n)` is called before each request. `onChunk(data, step)`, `onCommit(step)` and
 * `onRollback(step)` are called for what the run streams. Returns the status and the text of the
 * response.
 */
export async function follow(url, body, { onRestart, onChunk, onCommit, onRollback }) {
  const headers = {
    'content-type': 'application/json',
    'idempotency-key': crypto.randomUUID(),
  }
  for (let restarts = 0; ; restarts++) {
    onRestart(restarts)
    try {
      const response = await fetchWithStream(url, {
        method: 'POST',
        headers,
        body: JSON.stringify(body),
        onData: ({ data, hashedStepId }) => onChunk(data, hashedStepId),
        onCommit: ({ hashedStepId }) => onCommit(hashedStepId),
        onRollback: ({ hashedStepId }) => onRollback(hashedStepId),
      })
      return { status: response.status, text: await response.text() }
    } catch (error) {
      // The connection broke before the run was stored, or the server stayed away.
      if (!(error instanceof TypeError || error instanceof StreamError)) throw error
    }
    await new Promise(resolve => setTimeout(resolve, 500))
  }
}
