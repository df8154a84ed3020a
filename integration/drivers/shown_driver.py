"""Prints issuer and serial number of the certificate that is shown over QUIC
on a port of this machine."""

import asyncio
import ssl
import sys

from aioquic.asyncio.client import connect
from aioquic.h3.connection import H3_ALPN
from aioquic.quic.configuration import QuicConfiguration


async def main() -> None:
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=H3_ALPN,
        server_name="front.test",
        verify_mode=ssl.CERT_NONE,
    )
    async with connect("127.0.0.1", int(sys.argv[1]), configuration=configuration) as client:
        shown = client._quic.tls._peer_certificate
        print(f"{shown.issuer.rfc4514_string()} {shown.serial_number:X}")


asyncio.run(main())
