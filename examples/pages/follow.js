// Follows a run of a durable endpoint from a page, until its response is there.

const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds))

/**
 * Sends a request, with one Idempotency-Key, until it has been answered; so one run comes of it.
 *
 * `onRestart(n)` is called before each connection, as each begins with the first event of the run.
 * `onChunk(data, step)`, `onCommit(step)` and `onRollback(step)` are called for what the run streams.
 * Returns the status and the text of the response.
 */
export async function follow(url, body, { onRestart, onChunk, onCommit, onRollback }) {
  const headers = {
    'content-type': 'application/json',
    'accept': 'text/event-stream',
    'idempotency-key': crypto.randomUUID(),
  }
  for (let restarts = 0; ; restarts++) {
    onRestart(restarts)
    try {
      const response = await fetch(url, { method: 'POST', headers, body: JSON.stringify(body) })
      if (!response.headers.get('content-type')?.startsWith('text/event-stream')) {
        return { status: response.status, text: await response.text() }
      }
      for await (const [kind, data] of events(response.body)) {
        if (kind === 'inngest.stream') onChunk(data.data, data.hashedStepId)
        if (kind === 'inngest.commit') onCommit(data.hashedStepId)
        if (kind === 'inngest.rollback') onRollback(data.hashedStepId)
        if (kind === 'inngest.response') {
          return { status: data.response.statusCode, text: data.response.body }
        }
      }
    } catch (error) {
      if (!(error instanceof TypeError)) throw error  // fetch says so when the connection breaks
    }
    await pause(500)
  }
}

/** Yields the type and the data of each event of a stream. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader()
  let text = ''
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const blocks = (text + part.value).split('\n\n')
    text = blocks.pop()
    for (const block of blocks) {
      const field = name => block.match(new RegExp(`^${name}: ?(.*)$`, 'm'))?.[1]
      if (field('event')) yield [field('event'), JSON.parse(field('data'))]
    }
  }
}
