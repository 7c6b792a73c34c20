/** What a run is called. */
export interface Metadata {
  runId: string
}

/** A chunk that a run has pushed. */
export interface Chunk {
  data: unknown
  /** The step that has pushed it; undefined outside of steps, where chunks count at once. */
  hashedStepId?: string
}

/** The chunks of a step count, or are void. */
export interface StepEvent {
  hashedStepId?: string
}

type Callback<T> = (event: T) => unknown

export interface StreamOptions extends RequestInit {
  onMetadata?: Callback<Metadata>
  onData?: Callback<Chunk>
  onCommit?: Callback<StepEvent>
  onRollback?: Callback<StepEvent>
  /** How often in a row to connect again without progress; 10 by default. */
  maxReconnects?: number
  /** What sends requests; the global `fetch` by default. */
  fetch?: typeof fetch
}

/** The run's response did not come: the stream ended, or broke too often. */
export class StreamError extends Error {
  name: 'StreamError'
}

/**
 * Call an endpoint; return the response of its run, or what the server answered instead.
 *
 * The callbacks are called in the order of the events, and each is awaited before the next. Chunks of
 * a step count when its `onCommit` comes, and are void when its `onRollback` comes.
 *
 * @throws StreamError no response came. TypeError: the server cannot be reached. DOMException: the
 *   signal was aborted.
 */
export function fetchWithStream(url: string | URL, options?: StreamOptions): Promise<Response>
