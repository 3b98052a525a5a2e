"""As probe.c: one socket, for the tests of `emu exec`."""
import socket
import sys

kind, way, address, port = sys.argv[1:5]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
stream = kind == "tcp"
peer = (address, int(port))
one = socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
try:
    if way == "connect":
        one.connect(peer)
        one.send(b"?")
        print(one.recv(256).decode())
    elif way == "sendto":
        one.sendto(b"?", peer)
        print(one.recv(256).decode())
    else:
        # Like most servers: the last one's connections may linger.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, stream)
        one.bind(peer)
        if stream and way == "serve":
            one.listen(16)
        print(one.getsockname()[0], flush=True)
        if way == "serve" and stream:
            connection, who = one.accept()
            connection.recv(256)
            connection.send(who[0].encode())
        elif way == "serve":
            _, who = one.recvfrom(256)
            one.sendto(who[0].encode(), who)
except OSError as error:
    print("errno", error.errno)
    sys.exit(1)
