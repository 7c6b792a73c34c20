// node --test clients/js
import assert from 'node:assert/strict'
import test from 'node:test'

import { StreamError, fetchWithStream } from './durable-client.js'

const STREAM = { headers: { 'content-type': 'text/event-stream' } }
const END = 'event: inngest.response\ndata: {"response":{"statusCode":201,"headers":{"x-own":"1"},"body":"done"}}\n\n'

/** Return a fetch that answers by functions of the request, one after the other. */
function server(...answers) {
  const asked = []
  const fetch = async (url, init) => {
    const request = new Request(url, init)
    asked.push(request)
    init.signal?.throwIfAborted()
    const response = await answers.shift()(request)
    Object.defineProperty(response, 'url', { value: request.url })
    return response
  }
  return { fetch, asked }
}

/** Return a stream of texts; with `breaks`, the connection breaks after them. */
function stream(texts, { breaks = false } = {}) {
  const body = new ReadableStream({
    start(controller) {
      for (const text of texts) controller.enqueue(new TextEncoder().encode(text))
      if (!breaks) controller.close()
    },
    pull(controller) {
      if (breaks) controller.error(new TypeError('terminated'))
    },
  })
  return new Response(body, STREAM)
}

const redirectTo = url => `event: inngest.redirect_info\nid: 1\ndata: {"runId":"r","url":"${url}"}\n\n`

test('events may be cut anywhere, and lines end as they like', async () => {
  for (const end of ['\n', '\r\n', '\r']) {
    const text = ['event: inngest.stream', 'data: {"data":', 'data: "é"}', ': a comment', '', '']
    const octets = [...(text.join(end) + END)]
    const { fetch } = server(() => stream(octets))
    const told = []
    const response = await fetchWithStream('http://a/', { fetch, onData: event => told.push(event) })
    assert.deepEqual([{ data: 'é' }], told)
    assert.equal(201, response.status)
    assert.equal('1', response.headers.get('x-own'))
    assert.equal('done', await response.text())
  }
})

test('a broken stream is resumed after its last event, and the body is not sent again', async () => {
  const { fetch, asked } = server(
    () => stream([redirectTo('?durable-run=r&durable-token=t')], { breaks: true }),
    () => new Response('', { status: 503, headers: { 'retry-after': '0' } }),
    () => stream([END]),
  )
  const headers = { 'x-mine': '1', 'content-type': 'text/plain' }
  const request = { method: 'POST', body: 'hello', headers, fetch }
  assert.equal(201, (await fetchWithStream('http://a/b', request)).status)
  const last = asked.at(-1)
  assert.equal('GET http://a/b?durable-run=r&durable-token=t', `${last.method} ${last.url}`)
  assert.equal('1', last.headers.get('last-event-id'))
  assert.equal('1', last.headers.get('x-mine'))
  assert.equal(null, last.headers.get('content-type'))
})

test('another origin gets none of the headers', async () => {
  const { fetch, asked } = server(() => stream([redirectTo('http://b/?x=1')]), () => stream([END]))
  await fetchWithStream('http://a/', { headers: { authorization: 'mine' }, fetch })
  assert.deepEqual(['http://b/?x=1', null], [asked[1].url, asked[1].headers.get('authorization')])
})

test('a token is not sent in clear text', async () => {
  const { fetch } = server(() => stream([redirectTo('http://a/?x=1')]))
  await assert.rejects(fetchWithStream('https://a/', { fetch }), StreamError)
})

test('a run that goes on is asked for again at its location', async () => {
  const { fetch, asked } = server(
    () => new Response('', { status: 202, headers: { location: '?wait', 'retry-after': '0' } }),
    () => new Response('there', { status: 200 }),
  )
  assert.equal('there', await (await fetchWithStream('http://a/b', { fetch })).text())
  assert.equal('http://a/b?wait', asked[1].url)
})

test('a connection that breaks before the handoff is an error', async () => {
  const { fetch, asked } = server(() => stream(['event: inngest.metadata\ndata: {}\n\n'], { breaks: true }))
  await assert.rejects(fetchWithStream('http://a/', { fetch }), /before the server said/)
  assert.equal(1, asked.length)
})

test('a stream that has ended without a response is an error', async () => {
  const { fetch } = server(() => stream([redirectTo('?x')]), () => new Response(null, { status: 204 }))
  await assert.rejects(fetchWithStream('http://a/', { fetch }), /ended without a response/)
})

test('an abort ends a pause', async () => {
  const abort = new AbortController()
  const { fetch } = server(() => {
    setTimeout(() => abort.abort(new Error('enough')))
    return new Response('', { status: 202, headers: { location: '?wait', 'retry-after': '60' } })
  })
  await assert.rejects(fetchWithStream('http://a/', { fetch, signal: abort.signal }), /enough/)
})

test('a callback that throws ends the call', async () => {
  const { fetch } = server(() => stream(['event: inngest.stream\ndata: {"data":1}\n\n', END]))
  const onData = () => Promise.reject(new TypeError('mine'))
  await assert.rejects(fetchWithStream('http://a/', { fetch, onData }), /mine/)
})

test('a body that is no text comes in base64', async () => {
  const final = '{"response":{"statusCode":200,"headers":{},"body":"AP8=","encoding":"base64"}}'
  const { fetch } = server(() => stream([`event: inngest.response\ndata: ${final}\n\n`]))
  const response = await fetchWithStream('http://a/', { fetch })
  assert.deepEqual([0, 255], [...new Uint8Array(await response.arrayBuffer())])
})

test('fetch is called as a function, which browsers insist on', async () => {
  const { fetch } = server(() => stream([END]))
  function own(...args) {
    assert.equal(undefined, this)
    return fetch(...args)
  }
  assert.equal(201, (await fetchWithStream('http://a/', { fetch: own })).status)
})
