"""HTTP/2 and HTTP/3 clients that say whatever they like.

Arguments: the HTTPS port and the plain port of a balancer on 127.0.0.1 whose
node answers each request with its method and the length of its body. Targets
that begin with /refused must never reach a node: the caller looks.
"""

import asyncio
import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.errors
import h2.events
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamReset

HTTPS, PLAIN = int(sys.argv[1]), int(sys.argv[2])
HOST = f"127.0.0.1:{HTTPS}"
TIMEOUT = 20
RESET = "reset"
checks = 0


def head(method="POST", path="/refused", authority=HOST, scheme="https", more=()):
    fields = [(":method", method)]
    if scheme is not None:
        fields.append((":scheme", scheme))
    if authority is not None:
        fields.append((":authority", authority))
    if path is not None:
        fields.append((":path", path))
    return [(name.encode(), value.encode("latin-1")) for name, value in fields + list(more)]


# What is sent, with its body, and what comes back.
REFUSED = [
    ("a length that is too long", head(more=[("content-length", "5")]), b"abc", {400, RESET}),
    ("a length that is too short", head(more=[("content-length", "2")]), b"abc", {400, RESET}),
    ("a length with a sign", head(more=[("content-length", "+3")]), b"abc", {400, RESET}),
    ("two lengths", head(more=[("content-length", "3"), ("content-length", "4")]), b"abc", {400, RESET}),
    ("transfer-encoding", head(more=[("transfer-encoding", "chunked")]), b"0\r\n\r\n", {400, RESET}),
    ("connection", head(more=[("connection", "close")]), b"", {400, RESET}),
    ("upgrade", head(more=[("upgrade", "websocket")]), b"", {400, RESET}),
    ("te", head(more=[("te", "gzip")]), b"", {400, RESET}),
    ("another host", head(more=[("host", "other")]), b"", {400, RESET}),
    ("two hosts", head(more=[("host", HOST), ("host", HOST)]), b"", {400, RESET}),
    ("no host", head(authority=None), b"", {400, RESET}),
    ("a user in the authority", head(authority="user@a"), b"", {400, RESET}),
    ("no path", head(path=None), b"", {400, RESET}),
    ("a path without a slash", head(path="refused"), b"", {400, RESET}),
    ("an absolute path", head(path="ftp://a/refused"), b"", {400, RESET}),
    ("raw bytes in the path", head(path="/refused/\xc3\xa9"), b"", {400, RESET}),
    ("a space in the path", head(path="/refused x"), b"", {400, RESET}),
    ("half an encoding", head(path="/refused/%2"), b"", {400}),
    ("a long path", head(path="/refused/" + "a" * 9000), b"", {414}),
    ("another scheme", head(scheme="ftp"), b"", {400, RESET}),
    ("a name in capitals", head(more=[("X-Upper", "y")]), b"", {400, RESET}),
    ("a line feed in a value", head(more=[("x", "y\nz: 1")]), b"", {400, RESET}),
    ("a zero in a value", head(more=[("x", "y\0z")]), b"", {400, RESET}),
    ("a colon in a name", head(more=[("x:y", "z")]), b"", {400, RESET}),
    ("an unknown pseudo field", head(more=[(":x", "z")]), b"", {400, RESET}),
    ("TRACE", head("TRACE"), b"", {405}),
    ("CONNECT", head("CONNECT", path=None, scheme=None), b"", {501, RESET}),
    ("an expectation", head(more=[("expect", "magic")]), b"", {417}),
    ("too many fields", head(more=[(f"x-{n}", "y") for n in range(101)]), b"", {431, RESET}),
    ("a large field", head(more=[("x", "y" * 40_000)]), b"", {431, RESET}),
    ("a large body by its length", head(more=[("content-length", "99999999")]), b"", {413, RESET}),
    ("a large body", head(), b"x" * 1_100_000, {413, RESET}),
]

# The host of the handshake, that of the request, and what comes back.
MISDIRECTED = [
    ("front.test", "front.test", 200),
    ("front.test", "Front.Test:8443", 200),
    ("front.test", "localhost", 200),
    ("front.test", "127.0.0.1", 200),
    ("front.test", "other.test", 421),
    ("localhost", "other.test", 200),
]

SERVED = [
    ("GET", head("GET", "/served"), b"", (200, b"GET 0")),
    ("HEAD", head("HEAD", "/served"), b"", (200, b"")),
    ("POST without a length", head(path="/served"), b"abc", (200, b"POST 3")),
    ("POST with a length", head(path="/served", more=[("content-length", "3")]), b"abc", (200, b"POST 3")),
    ("POST of nothing", head(path="/served"), b"", (200, b"POST 0")),
    ("POST of much", head(path="/served"), b"x" * 300_000, (200, b"POST 300000")),
    ("POST of much with a length", head(path="/served", more=[("content-length", "300000")]), b"x" * 300_000, (200, b"POST 300000")),
    ("two cookies", head("GET", "/served", more=[("cookie", "a=1"), ("cookie", "b=2")]), b"", (200, b"GET 0")),
    ("trailers are welcome", head("GET", "/served", more=[("te", "trailers")]), b"", (200, b"GET 0")),
    ("a host as well", head("GET", "/served", more=[("host", HOST)]), b"", (200, b"GET 0")),
]


# The same for HTTP/1, byte by byte. {} is where every one of them has a Host.
REFUSED_1 = [
    ("a length and an encoding", "POST /refused HTTP/1.1\r\n{}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("an encoding and a length", "POST /refused HTTP/1.1\r\n{}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    ("two lengths", "POST /refused HTTP/1.1\r\n{}Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400),
    ("a list of lengths", "POST /refused HTTP/1.1\r\n{}Content-Length: 1, 1\r\n\r\nx", 400),
    ("a length with a sign", "POST /refused HTTP/1.1\r\n{}Content-Length: +2\r\n\r\nxx", 400),
    ("an encoding that does not end in chunked", "POST /refused HTTP/1.1\r\n{}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    ("identity, chunked", "POST /refused HTTP/1.1\r\n{}Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n", 400),
    ("xchunked", "POST /refused HTTP/1.1\r\n{}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    ("a space before the colon", "POST /refused HTTP/1.1\r\n{}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    ("a folded line", "GET /refused HTTP/1.1\r\n{}X: y\r\n z\r\n\r\n", 400),
    ("NUL", "GET /refused HTTP/1.1\r\n{}X: \0\r\n\r\n", 400),
    ("a bare carriage return", "GET /refused HTTP/1.1\r\n{}X: y\rz\r\n\r\n", 400),
    ("HTTP/1.0 with an encoding", "POST /refused HTTP/1.0\r\n{}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("bare line feeds", "GET /refused HTTP/1.1\nHost: a\n\n", 400),
    ("a bare line feed", "GET /refused HTTP/1.1\r\n{}X: y\nZ: z\r\n\r\n", 400),
    ("a line feed in a chunk extension", "POST /refused HTTP/1.1\r\n{}Transfer-Encoding: chunked\r\n\r\n1;a\nx\r\n0\r\n\r\n", 400),
    ("a bare line feed behind a chunk size", "POST /refused HTTP/1.1\r\n{}Transfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n", 400),
    ("0x1", "POST /refused HTTP/1.1\r\n{}Transfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n", 400),
    ("a chunk of many digits", "POST /refused HTTP/1.1\r\n{}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx\r\n0\r\n\r\n", 400),
    ("no Host", "GET /refused HTTP/1.1\r\n\r\n", 400),
    ("two Hosts", "GET /refused HTTP/1.1\r\n{}Host: b\r\n\r\n", 400),
    ("TRACE", "TRACE /refused HTTP/1.1\r\n{}\r\n", 405),
    ("CONNECT", "CONNECT refused:80 HTTP/1.1\r\n{}\r\n", 501),
    ("an expectation", "POST /refused HTTP/1.1\r\n{}Expect: magic\r\nContent-Length: 1\r\n\r\nx", 417),
    ("raw bytes in the target", "GET /refused/\xc3\xa9 HTTP/1.1\r\n{}\r\n", 400),
    ("another scheme", "GET ftp://a/refused HTTP/1.1\r\n{}\r\n", 400),
    ("a long target", "GET /refused/" + "a" * 9000 + " HTTP/1.1\r\n{}\r\n", 414),
    ("a large head", "GET /refused HTTP/1.1\r\n{}X: " + "a" * 40_000 + "\r\n\r\n", 431),
    ("too many fields", "GET /refused HTTP/1.1\r\n{}" + "X: y\r\n" * 101 + "\r\n", 431),
    ("a large body", "POST /refused HTTP/1.1\r\n{}Content-Length: 1048577\r\n\r\n", 413),
]

SERVED_1 = [
    ("two equal lengths", "POST /served HTTP/1.1\r\n{}Content-Length: 2\r\nContent-Length: 2\r\n\r\nxx", "POST 2"),
    ("an encoding in capitals", "POST /served HTTP/1.1\r\n{}Transfer-Encoding: CHUNKED\r\n\r\n02;a=b\r\nxx\r\n0\r\nX: y\r\n\r\n", "POST 2"),
    ("an absolute target", "GET http://authority.test/served HTTP/1.1\r\n{}\r\n", "GET 0"),
    ("fields that Connection names", "GET /served HTTP/1.1\r\n{}Connection: X-Secret, Host\r\nX-Secret: 1\r\n\r\n", "GET 0"),
    ("look-alikes", "POST /served HTTP/1.1\r\n{}Transfer_Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc", "POST 3"),
    ("dot segments", "GET /x/../served/./dots HTTP/1.1\r\n{}\r\n", "GET 0"),
    ("HTTP/1.0", "GET /served HTTP/1.0\r\n\r\n", "GET 0"),
]


def check(protocol, what, found, fits):
    global checks
    checks += 1
    if not fits:
        sys.exit(f"{protocol}: {what}: {found}")


def ask_http1(request, tls):
    """All that comes back to these bytes."""
    connection = socket.create_connection(("127.0.0.1", HTTPS if tls else PLAIN), TIMEOUT)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = context.wrap_socket(connection)
    connection.settimeout(TIMEOUT)
    connection.sendall(request.replace("{}", "Host: a\r\n").encode("latin-1"))
    answer = b""
    while not ends(answer):
        try:
            more = connection.recv(65536)
        except (ConnectionError, ssl.SSLError):
            break
        if not more:
            break
        answer += more
    connection.close()
    return answer.decode("latin-1")


def ends(answer):
    """Whether an answer is whole."""
    answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    head, gap, body = answer.partition(b"\r\n\r\n")
    length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")]
    return bool(gap and length) and len(body) >= int(length[0].split()[1])


def check_http1():
    for tls in (False, True):
        protocol = "HTTP/1 over TLS" if tls else "HTTP/1"
        for what, request, status in REFUSED_1:
            found = ask_http1(request, tls)
            fits = found.startswith(f"HTTP/1.1 {status} ") and "connection: close\r\n" in found
            check(protocol, what, found, fits or (found.startswith("HTTP/1.1 431 ") and status == 431))
        for what, request, text in SERVED_1:
            found = ask_http1(request, tls)
            check(protocol, what, found, " 200 OK\r\n" in found and found.endswith("\r\n\r\n" + text))
        expects = ask_http1("POST /served HTTP/1.1\r\n{}Expect: 100-continue\r\nContent-Length: 2\r\n\r\nxx", tls)
        check(protocol, "100-continue", expects, expects.endswith("POST 2"))
    garbage = ask_http1("INVALID CONNECTION PREFACE\r\n\r\n", True)
    check("HTTP/1 over TLS", "garbage", garbage, garbage == "" or garbage.startswith("HTTP/1.1 400 "))


class Http2:
    """One request on a connection of its own."""

    def __init__(self, tls=True):
        self.socket = socket.create_connection(("127.0.0.1", HTTPS if tls else PLAIN), TIMEOUT)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            self.socket = context.wrap_socket(self.socket)
        self.socket.settimeout(TIMEOUT)
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(10_000_000)
        self.status, self.body, self.ended, self.headers = None, b"", False, {}

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def read(self):
        data = self.socket.recv(65536)
        if not data:
            self.end()
            return
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                self.headers = dict(event.headers)
                self.status = int(self.headers[b":status"])
            elif isinstance(event, h2.events.DataReceived):
                self.body += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended = True
            elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                self.end()
        self.flush()

    def end(self):
        self.status = RESET if self.status is None else self.status
        self.ended = True

    def ask(self, fields, body):
        try:
            self.h2.send_headers(1, fields, end_stream=not body)
            self.flush()
            while body and not self.ended:
                room = min(self.h2.local_flow_control_window(1), self.h2.max_outbound_frame_size, len(body))
                if room == 0:
                    self.read()
                    continue
                piece, body = body[:room], body[room:]
                self.h2.send_data(1, piece, end_stream=not body)
                self.flush()
            while not self.ended:
                self.read()
        except (ConnectionError, ssl.SSLError, h2.exceptions.StreamClosedError):
            self.end()
        self.socket.close()
        return self.status, self.body


class Http3(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.streams = {}

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            for stream in self.streams.values():
                self.end(stream)
            return
        if isinstance(event, StreamReset) and event.stream_id in self.streams:
            self.end(self.streams[event.stream_id])
        for found in self.http.handle_event(event):
            stream = self.streams.get(getattr(found, "stream_id", None))
            if stream is None:
                continue
            if isinstance(found, HeadersReceived) and stream["status"] is None:
                stream["headers"] = dict(found.headers)
                stream["status"] = int(stream["headers"][b":status"])
            elif isinstance(found, DataReceived):
                stream["body"] += found.data
            if found.stream_ended:
                self.end(stream)

    def end(self, stream):
        if stream["status"] is None:
            stream["status"] = RESET
        if not stream["ended"].done():
            stream["ended"].set_result(None)

    async def ask(self, fields, body=b""):
        number = self._quic.get_next_available_stream_id()
        stream = {"status": None, "body": b"", "headers": {}, "ended": self._loop.create_future()}
        self.streams[number] = stream
        try:
            self.http.send_headers(number, fields, end_stream=not body)
            if body:
                self.http.send_data(number, body, end_stream=True)
        except AssertionError:
            self.end(stream)
        self.transmit()
        await asyncio.wait_for(stream["ended"], TIMEOUT)
        return stream["status"], stream["body"]


def http3(name="localhost"):
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE, server_name=name
    )
    return connect("127.0.0.1", HTTPS, configuration=configuration, create_protocol=Http3)


def check_http2():
    for what, fields, body, expected in SERVED:
        for tls in (True, False):
            found = Http2(tls).ask(fields, body)
            check("HTTP/2" if tls else "HTTP/2 in clear", what, found, found == expected)
    for what, fields, body, expected in REFUSED:
        status, text = Http2().ask(fields, body)
        check("HTTP/2", what, (status, text), status in expected)
    offer = Http2()
    offer.ask(head("GET", "/served"), b"")
    found = offer.headers.get(b"alt-svc")
    check("HTTP/2", "alt-svc", found, found == f'h3=":{HTTPS}"; ma=3600'.encode())


async def check_http3():
    async with http3() as client:
        for what, fields, body, expected in SERVED:
            if what == "HEAD":
                # aioquic takes the length in its answer for a promise.
                continue
            found = await client.ask(fields, body)
            check("HTTP/3", what, found, found == expected)
        many = await asyncio.gather(*(client.ask(head("GET", "/served")) for _ in range(300)))
        check("HTTP/3", "many at once", set(many), set(many) == {(200, b"GET 0")})
    for what, fields, body, expected in REFUSED:
        async with http3() as client:
            status, text = await client.ask(fields, body)
            check("HTTP/3", what, (status, text), status in expected)
    # The site is called front.test; who asked for it is held to it.
    for name, authority, expected in MISDIRECTED:
        async with http3(name) as client:
            status, text = await client.ask(head("GET", "/served", authority))
            check("HTTP/3", f"{authority} for {name}", (status, text), status == expected)
    # A frame that never ends, of a kind that is to be ignored, is not kept.
    async with http3() as client:
        number = client._quic.get_next_available_stream_id()
        stream = {"status": None, "body": b"", "headers": {}, "ended": client._loop.create_future()}
        client.streams[number] = stream
        client._quic.send_stream_data(number, b"\x21\xbf\xff\xff\xff" + b"x" * 1_000_000)
        client.transmit()
        await asyncio.wait_for(stream["ended"], TIMEOUT)
        check("HTTP/3", "an endless frame", stream["status"], stream["status"] == RESET)
    async with http3() as client:
        found = await client.ask(head("GET", "/served"))
        check("HTTP/3", "afterwards", found, found == (200, b"GET 0"))


check_http1()
check_http2()
asyncio.run(check_http3())
print(f"{checks} checks")
