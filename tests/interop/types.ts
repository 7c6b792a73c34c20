// Uses the types of the JavaScript client as a page would; `tsc` checks it, nobody runs it.
import { StreamError, fetchWithStream } from '../../clients/js/durable-client.js'
import type { Chunk, Metadata, StepEvent, StreamOptions } from '../../clients/js/durable-client.js'

const kept: unknown[] = []
const options: StreamOptions = {
  method: 'POST',
  headers: { 'content-type': 'application/json' },
  body: '{}',
  signal: AbortSignal.timeout(1_000),
  maxReconnects: 3,
  fetch: globalThis.fetch,
  onMetadata: async ({ runId }: Metadata) => runId.toUpperCase(),
  onData: ({ data, hashedStepId }: Chunk) => kept.push([data, hashedStepId?.length]),
  onCommit: (event: StepEvent) => event.hashedStepId,
  onRollback: () => {},
}

export async function call(): Promise<number> {
  try {
    const response: Response = await fetchWithStream(new URL('https://example.com/chat'), options)
    return response.status
  } catch (error) {
    if (error instanceof StreamError) return error.message.length
    throw error
  }
}

// @ts-expect-error a URL is needed
fetchWithStream()
// @ts-expect-error there is no such option
fetchWithStream('/chat', { onChunk: () => {} })
// @ts-expect-error a callback is a function
fetchWithStream('/chat', { onData: 1 })
