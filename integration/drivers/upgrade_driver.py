"""Clients of HTTP/1, 2 and 3 that ask without a pause and count what fails.

Arguments: the HTTPS port and the plain port of a balancer on 127.0.0.1 whose
node answers each request with its method and the length of its body, /slow
after a while. They ask until standard input ends; then one line of JSON says
how many requests of each kind succeeded, how many were sent again, and what
failed.

With a third argument there is one request over HTTP/3 alone. Its body begins,
which is told, ends when a line comes in, and its answer is told.

The clients are as polite as the protocols want them. What a GOAWAY or a
rejection says was not processed is sent again, and a GET whose kept connection
turns out to be closed before any answer (RFC 9110, 9.2.2). Everything else that
is not the right answer is a failure.
"""

import asyncio
import collections
import json
import random
import ssl
import struct
import sys

import hpack
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.buffer import Buffer, BufferReadError
from aioquic.h3.connection import H3_ALPN, FrameType, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StopSendingReceived, StreamDataReceived, StreamReset

HTTPS, PLAIN = int(sys.argv[1]), int(sys.argv[2])
HOST = f"127.0.0.1:{HTTPS}"
# A machine that is busy, or stands still for a while, is not a defect.
TIMEOUT = 600
REJECTED = 0x10B

done = asyncio.Event()
succeeded, again, failures = collections.Counter(), collections.Counter(), []


class Again(Exception):
    """It was not processed: it may be sent again."""


class Failed(Exception):
    """It may not."""


def tls(*protocols):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(protocols))
    return context


def requests():
    """Methods, paths, bodies; for ever."""
    while True:
        yield random.choices(
            [("GET", "/x", b""), ("POST", "/x", b"abc"), ("GET", "/slow", b"")], [6, 3, 1]
        )[0]


async def load(kind, client, pause):
    """Asks until the end, one thing after the other. A client is asked for
    each request whether it goes on or a new one has to be made."""
    for method, path, body in requests():
        if done.is_set():
            return
        for attempt in range(5):
            try:
                status, text = await asyncio.wait_for(client.ask(method, path, body), TIMEOUT)
            except Again:
                again[kind] += 1
                continue
            except (Failed, OSError, EOFError, asyncio.TimeoutError) as problem:
                failures.append(f"{kind} {method} {path}: {type(problem).__name__} {problem}")
            else:
                if (status, text) == (200, f"{method} {len(body)}".encode()):
                    succeeded[kind] += 1
                else:
                    failures.append(f"{kind} {method} {path}: {status} {text}")
            break
        else:
            failures.append(f"{kind} {method} {path}: sent too often")
        await asyncio.sleep(pause)


class Http1:
    def __init__(self, secure, keeps):
        self.secure, self.keeps, self.stream = secure, keeps, None

    async def ask(self, method, path, body):
        is_kept = self.stream is not None
        if not is_kept:
            port, context = (HTTPS, tls("http/1.1")) if self.secure else (PLAIN, None)
            self.stream = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        (reader, writer), self.stream = self.stream, None
        head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n\r\n"
        begun = b""
        try:
            writer.write(head.encode() + body)
            begun = await reader.readexactly(1)
            answer = begun + await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as problem:
            writer.close()
            if is_kept and not begun and method == "GET":
                raise Again from problem
            raise Failed(f"kept={is_kept} begun={begun} {problem!r}") from problem
        lines = answer.decode().lower().split("\r\n")
        length = next(int(it.split(": ")[1]) for it in lines if it.startswith("content-length: "))
        text = await reader.readexactly(length)
        if self.keeps and "connection: close" not in lines:
            self.stream = (reader, writer)
        else:
            writer.close()
        return int(lines[0].split()[1]), text


class Http2Connection:
    """Only what a polite client needs (RFC 9113): the h2 package takes a GOAWAY
    for the end of the connection."""

    async def open(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", HTTPS, ssl=tls("h2"))
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.streams, self.next, self.parts = {}, 1, False
        self.writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0))
        self.reading = asyncio.ensure_future(self.read())
        return self

    async def ask(self, method, path, body):
        number, self.next = self.next, self.next + 2
        stream = {"status": None, "text": b"", "end": asyncio.get_running_loop().create_future()}
        self.streams[number] = stream
        fields = [(":method", method), (":scheme", "https"), (":authority", HOST), (":path", path)]
        self.writer.write(frame(1, 4 if body else 5, number, self.encoder.encode(fields)))
        if body:
            self.writer.write(frame(0, 1, number, body))
        return await stream["end"]

    async def read(self):
        try:
            while True:
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
                self.take(head[3], head[4], int.from_bytes(head[5:], "big"), payload)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError) as problem:
            for number in list(self.streams):
                self.end(number, Failed(f"the connection ended: {problem!r}"))
        self.parts = True
        self.writer.close()

    def take(self, kind, flags, number, payload):
        stream = self.streams.get(number)
        if kind == 4 and not flags & 1:
            self.writer.write(frame(4, 1, 0))
        elif kind == 6 and not flags & 1:
            self.writer.write(frame(6, 1, 0, payload))
        elif kind == 1:
            fields = dict(self.decoder.decode(payload))
            if stream:
                stream["status"] = int(fields[":status"])
        elif kind == 0:
            if stream:
                stream["text"] += payload
            if payload:
                self.writer.write(frame(8, 0, 0, struct.pack(">I", len(payload))))
        elif kind == 3:
            code = struct.unpack(">I", payload)[0]
            # REFUSED_STREAM says that it was not processed (8.7).
            self.end(number, Again() if code == 7 else Failed(f"reset: {code}"))
        elif kind == 7:
            last, code = struct.unpack(">II", payload[:8])
            # Others go on on another connection, these to their ends here.
            self.parts = True
            for later in [it for it in self.streams if it > last]:
                self.end(later, Again())
            if code:
                failures.append(f"h2: GOAWAY with the code {code}")
        if kind in (0, 1) and flags & 1 and stream:
            self.end(number, None)

    def end(self, number, problem):
        stream = self.streams.pop(number, None)
        if stream is None or stream["end"].done():
            return
        if problem:
            stream["end"].set_exception(problem)
        else:
            stream["end"].set_result((stream["status"], stream["text"]))


class Http2:
    def __init__(self):
        self.connection, self.opening = None, asyncio.Lock()

    async def ask(self, method, path, body):
        async with self.opening:
            if self.connection is None or self.connection.parts:
                self.connection = await Http2Connection().open()
                succeeded["h2 connections"] += 1
        return await self.connection.ask(method, path, body)


def frame(kind, flags, number, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", number) + payload


class Control:
    """The server's control stream (RFC 9114, 6.2.1), of which aioquic passes
    GOAWAY over."""

    def __init__(self):
        self.streams, self.goaway = {}, None

    def take(self, number, data):
        data = self.streams.get(number, b"") + data
        self.streams[number] = data
        if data[:1] != b"\x00":
            return
        buffer = Buffer(data=data[1:])
        try:
            while not buffer.eof():
                kind, length = buffer.pull_uint_var(), buffer.pull_uint_var()
                payload = Buffer(data=buffer.pull_bytes(length))
                if kind == FrameType.GOAWAY:
                    self.goaway = payload.pull_uint_var()
        except BufferReadError:
            # The rest is still to come.
            pass


class Connection(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http, self.control = H3Connection(self._quic), Control()
        self.streams, self.parts = {}, False

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            self.parts = True
            for number in list(self.streams):
                goaway = self.control.goaway
                unseen = goaway is not None and number >= goaway
                problem = Again() if unseen else Failed(f"the connection ended: {event}")
                self.fail(number, problem)
            return
        if isinstance(event, (StreamReset, StopSendingReceived)) and event.stream_id in self.streams:
            code = event.error_code
            if code == REJECTED:
                self.fail(event.stream_id, Again())
            elif isinstance(event, StreamReset):
                self.fail(event.stream_id, Failed(f"reset: {code:#x}"))
        if isinstance(event, StreamDataReceived) and event.stream_id % 4 == 3:
            self.control.take(event.stream_id, event.data)
        for found in self.http.handle_event(event):
            stream = self.streams.get(getattr(found, "stream_id", None))
            if stream is None:
                continue
            if isinstance(found, HeadersReceived):
                stream["status"] = int(dict(found.headers)[b":status"])
            elif isinstance(found, DataReceived):
                stream["text"] += found.data
            if found.stream_ended:
                end = self.streams.pop(found.stream_id)["end"]
                if not end.done():
                    end.set_result((stream["status"], stream["text"]))
        if self.control.goaway is not None:
            self.parts = True
            for number in [it for it in self.streams if it >= self.control.goaway]:
                self.fail(number, Again())

    def fail(self, number, problem):
        end = self.streams.pop(number)["end"]
        if not end.done():
            end.set_exception(problem)

    async def ask(self, method, path, body, more=None):
        number = self._quic.get_next_available_stream_id()
        stream = {"status": None, "text": b"", "end": self._loop.create_future()}
        self.streams[number] = stream
        fields = [(":method", method), (":scheme", "https"), (":authority", HOST), (":path", path)]
        fields = [(name.encode(), value.encode()) for name, value in fields]
        self.http.send_headers(number, fields, end_stream=not body)
        if body:
            self.http.send_data(number, body, end_stream=more is None)
        self.transmit()
        if more:
            print("begun", flush=True)
            await self._loop.run_in_executor(None, sys.stdin.readline)
            self.http.send_data(number, more, end_stream=True)
            self.transmit()
        return await stream["end"]


class Http3:
    def __init__(self, keeps=True):
        self.keeps, self.connection, self.opening = keeps, None, asyncio.Lock()

    async def ask(self, method, path, body):
        async with self.opening:
            if self.connection is None or self.connection.parts:
                context = http3()
                self.connection = await context.__aenter__()
                self.connection.context = context
                succeeded["h3 connections"] += 1
        connection = self.connection
        try:
            return await connection.ask(method, path, body)
        finally:
            if (connection.parts or not self.keeps) and not connection.streams:
                connection.parts = True
                self.close(connection)

    @staticmethod
    def close(connection):
        context, connection.context = connection.context, None
        if context:
            asyncio.ensure_future(context.__aexit__(None, None, None))


def http3():
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE, server_name="localhost"
    )
    return connect("127.0.0.1", HTTPS, configuration=configuration, create_protocol=Connection)


async def in_two_pieces():
    async with http3() as connection:
        status, text = await connection.ask("POST", "/x", b"abc", b"def")
        print(status, text.decode())


async def main():
    loop = asyncio.get_running_loop()
    loop.run_in_executor(None, sys.stdin.read).add_done_callback(lambda _: done.set())
    http2, http3 = Http2(), Http3()
    await asyncio.gather(
        *(load("h1 kept", Http1(False, True), 0.01) for _ in range(3)),
        *(load("h1 kept over tls", Http1(True, True), 0.02) for _ in range(2)),
        # Its connection lies idle for a while each time.
        load("h1 idle", Http1(False, True), 1.5),
        load("h1 new", Http1(False, False), 0.02),
        load("h1 new over tls", Http1(True, False), 0.05),
        *(load("h2", http2, 0.01) for _ in range(4)),
        load("h2 alone", Http2(), 0.1),
        *(load("h3", http3, 0.02) for _ in range(3)),
        load("h3 seldom", Http3(), 0.7),
        load("h3 new", Http3(False), 0.2),
    )
    print(json.dumps({"succeeded": succeeded, "again": again, "failures": failures[:20], "failed": len(failures)}))


asyncio.run(in_two_pieces() if len(sys.argv) > 3 else main())
