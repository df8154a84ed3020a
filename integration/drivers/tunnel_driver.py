"""A WebSocket client and server, with a balancer between them.

`server PORT` serves: it says every message back, and answers everything that
is no WebSocket as a node does. `client HTTP HTTPS` talks to the balancer on
these ports of 127.0.0.1, whose route /chat allows WebSocket.
"""

import asyncio
import http
import ssl
import sys

import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.http11 import Response

TIMEOUT = 20
checks = 0


def check(what, found, expected):
    global checks
    checks += 1
    if found != expected:
        sys.exit(f"{what}: {found!r}, not {expected!r}")


async def server(port):
    def plain(connection, request):
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return None
        body = b"pong" if request.path == "/ping" else b"plain"
        headers = Headers([("Content-Length", str(len(body))), ("Connection", "close")])
        return Response(http.HTTPStatus.OK, "OK", headers, body)

    async def echo(connection):
        await connection.send("welcome to " + connection.request.path)
        async for message in connection:
            if message == "leave":
                await connection.close(4001, "as you wish")
                return
            await connection.send(message)

    async with serve(echo, "127.0.0.1", port, process_request=plain, subprotocols=["chat"], max_size=None) as it:
        await it.serve_forever()


async def talk(what, uri, tls):
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    async with connect(uri, ssl=context, subprotocols=["chat"], proxy=None, max_size=None) as connection:
        check(what, connection.subprotocol, "chat")
        check(what, connection.response.headers.get_all("Upgrade"), ["websocket"])
        check(what, await connection.recv(), "welcome to /chat")
        for message in ["x", "", "é" * 1000, b"\0\n\r\n" * 1000, "y" * 3_000_000]:
            await connection.send(message)
            check(what, await connection.recv(), message)
        await (await connection.ping())
        many = [f"{number}" for number in range(1000)]
        for message in many:
            await connection.send(message)
        check(what, [await connection.recv() for _ in many], many)
        await connection.send("leave")
        try:
            await connection.recv()
            check(what, "a message", "the end")
        except websockets.ConnectionClosed as closed:
            check(what, (closed.rcvd.code, closed.rcvd.reason), (4001, "as you wish"))


async def client(plain, secure):
    for what, uri, tls in [
        ("in clear", f"ws://127.0.0.1:{plain}/chat", False),
        ("over TLS", f"wss://127.0.0.1:{secure}/chat", True),
    ]:
        await asyncio.wait_for(talk(what, uri, tls), TIMEOUT)
    await asyncio.gather(*(
        asyncio.wait_for(talk("many at once", f"ws://127.0.0.1:{plain}/chat", False), 3 * TIMEOUT)
        for _ in range(5)
    ))
    try:
        async with connect(f"ws://127.0.0.1:{plain}/other", proxy=None):
            check("where it is not allowed", "a tunnel", "a refusal")
    except websockets.InvalidStatus as refused:
        check("where it is not allowed", refused.response.body, b"plain")


if sys.argv[1] == "server":
    asyncio.run(server(int(sys.argv[2])))
else:
    asyncio.run(client(int(sys.argv[2]), int(sys.argv[3])))
    print(f"{checks} checks")
