"""Attempts of a vnode's program to use another address than its vnode's, for identity_matrix.rs.

    identity.py helper CONTROL PEER OTHER EMU    a process outside any vnode, which helps
    identity.py attempts CONTROL PEER OTHER      a vnode's process: one JSON line per attempt

The destination port of an attempt tells its packets from those of others.
"""
import ctypes
import errno
import json
import mmap
import os
import socket
import struct
import subprocess
import sys
import time

V4, V6 = socket.AF_INET, socket.AF_INET6
TCP, UDP, RAW = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW
UDPLITE, SCTP, MPTCP = 136, 132, 262
FREEBIND, TRANSPARENT, HDRINCL, PKTINFO, IPV6_PKTINFO = 15, 19, 3, 8, 50
FIRST_PORT = 9000
GROUP = "239.1.2.3"
libc = ctypes.CDLL(None, use_errno=True)


def unspec(call, one, address):
    """bind(2) or connect(2) with AF_UNSPEC."""
    name = struct.pack("HH4s8x", socket.AF_UNSPEC, 0, socket.inet_aton(address))
    if getattr(libc, call)(one.fileno(), name, len(name)):
        raise OSError(ctypes.get_errno(), call)


def pktinfo(source):
    return [(0, PKTINFO, struct.pack("I4s4s", 0, socket.inet_aton(source), bytes(4)))]


def pktinfo6(source):
    return [(41, IPV6_PKTINFO, struct.pack("16sI", socket.inet_pton(V6, source), 0))]


def udp_header(port):
    return struct.pack("!HHHH", 9, port, 8, 0)


def ip_header(source, to, protocol):
    addresses = socket.inet_aton(source) + socket.inet_aton(to)
    return struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, protocol, 0) + addresses


def echo(port):
    return struct.pack("!BBHHH", 8, 0, 0xF7FF - port & 0xFFFF, port, 0)


def io_uring(opcode, one, address, port):
    """One operation with an address, by io_uring."""
    parameters = ctypes.create_string_buffer(120)
    ring = libc.syscall(425, 1, parameters)
    if ring < 0:
        raise OSError(ctypes.get_errno(), "io_uring_setup")
    tail, array = struct.unpack_from("I", parameters, 44)[0], struct.unpack_from("I", parameters, 64)[0]
    queue = mmap.mmap(ring, 4096, offset=0)
    entries = mmap.mmap(ring, 4096, offset=0x10000000)
    done = mmap.mmap(ring, 4096, offset=0x8000000)
    name = struct.pack("=H", V4) + struct.pack("!H4s8x", port, socket.inet_aton(address))
    buffer = ctypes.create_string_buffer(name, len(name))
    # A connect has the length in the place of the offset, and so has a bind.
    struct.pack_into("=BBHiQQI", entries, 0, opcode, 0, 0, one.fileno(), len(name), ctypes.addressof(buffer), 0)
    struct.pack_into("I", queue, array, 0)
    struct.pack_into("I", queue, tail, 1)
    if libc.syscall(426, ring, 1, 1, 1, None, 0) < 0:
        raise OSError(ctypes.get_errno(), "io_uring_enter")
    result = struct.unpack_from("i", done, struct.unpack_from("I", parameters, 100)[0] + 8)[0]
    os.close(ring)
    if result < 0:
        raise OSError(-result, "io_uring")


class Outside:
    """The helper outside, from inside."""

    def __init__(self, path):
        self.control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.connect(path)

    def ask(self, *request, files=()):
        socket.send_fds(self.control, [json.dumps(request).encode()], list(files))
        answer, fds, _, _ = socket.recv_fds(self.control, 100, 1)
        answer = json.loads(answer)
        if answer:
            raise OSError(answer, "outside")
        return fds


def helper(path, peer, other, emu):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    os.chmod(path, 0o666)
    listener.listen()
    print("ready", flush=True)
    control, _ = listener.accept()
    kept, programs = [], []
    while True:
        request, files, _, _ = socket.recv_fds(control, 1000, 1)
        if not request:
            for process in programs:
                process.kill()
                process.wait()
            return
        what, *rest = json.loads(request)
        answer, give = 0, []
        try:
            if what in ("bind", "connect"):
                with socket.socket(fileno=files[0]) as one:
                    getattr(one, what)(tuple(rest))
            elif what == "make":
                one = socket.socket(V4, UDP)
                one.bind((other, 0))
                kept.append(one)
                give = [one.fileno()]
            elif what == "send":
                with socket.socket(V4, UDP) as one:
                    one.bind((peer, 0))
                    one.sendto(b"for the other", (other, rest[0]))
            elif what == "listen":
                program = "import socket, time\none = socket.socket(2, 2)\none.setsockopt(1, 15, 1)\n"
                program += f"one.bind(('0.0.0.0', {rest[0]}))\nprint(flush=True)\ntime.sleep(60)\n"
                argv = [emu, "exec", "--user", rest[1], other, "--", sys.executable, "-c", program]
                programs.append(subprocess.Popen(argv, stdout=subprocess.PIPE))
                if not programs[-1].stdout.readline():
                    answer = errno.EADDRINUSE
        except OSError as error:
            answer = error.errno
        socket.send_fds(control, [json.dumps(answer).encode()], give)


def hears(one, outside, port):
    """Whether a socket gets what a process outside sends to the other vnode."""
    for _ in range(8):
        outside.ask("send", port)
    one.settimeout(1)
    try:
        one.recv(100)
        return "hears it"
    except TimeoutError:
        return "does not hear it"


def attempts(outside, peer, other):
    """Names, and functions of the destination port."""

    def sends(family, kind, protocol=0, before=(), data=b"x"):
        def attempt(port):
            with socket.socket(family, kind, protocol) as one:
                one.settimeout(1)
                for step in before:
                    step(one, port)
                to = ("::ffff:" + peer if family == V6 else peer, 0 if kind == RAW else port)
                if kind in (TCP,):
                    one.connect(to)
                else:
                    one.sendto(data(port) if callable(data) else data, to)

        return attempt

    def bind(address, port=0):
        return lambda one, _: one.bind((address, port))

    def option(level, name):
        return lambda one, _: one.setsockopt(level, name, 1)

    def connect(one, port):
        one.connect((peer, port))

    def message(family, control, connected=False):
        def attempt(port):
            with socket.socket(family, UDP) as one:
                to = ("::ffff:" + peer if family == V6 else peer, port)
                if connected:
                    one.connect(to)
                one.sendmsg([b"x"], control, 0, *([] if connected else [to]))

        return attempt

    def unbound_hears(port):
        with socket.socket(V4, UDP) as one:
            one.sendto(b"x", (peer, port))
            return hears(one, outside, one.getsockname()[1])

    def listener_hears(port):
        with socket.socket(V4, TCP) as one:
            one.listen()
            one.settimeout(1)
            with socket.socket(V4, TCP) as two:
                two.setblocking(False)
                two.connect_ex((other, one.getsockname()[1]))
                try:
                    one.accept()
                    return "hears it"
                except TimeoutError:
                    return "does not hear it"

    def shared_port(port):
        user = "root" if os.geteuid() == 0 else "nobody"
        outside.ask("listen", port, user)
        with socket.socket(V4, UDP) as one:
            one.setsockopt(1, 15, 1)
            one.bind(("0.0.0.0", port))
            return hears(one, outside, port)

    def made_outside(port):
        with socket.socket(fileno=outside.ask("make")[0]) as one:
            one.sendto(b"x", (peer, port))

    def by_outside(what, *address):
        def attempt(port):
            with socket.socket(V4, UDP) as one:
                outside.ask(what, *(address or (peer, port)), files=[one.fileno()])
                if address:
                    one.sendto(b"x", (peer, port))
                else:
                    one.send(b"x")

        return attempt

    def fast_open(port):
        with socket.socket(V4, TCP) as one:
            one.settimeout(1)
            one.sendto(b"x", 0x20000000, (peer, port))

    def uring(opcode, address):
        def attempt(port):
            with socket.socket(V4, TCP if opcode == 16 else UDP) as one:
                io_uring(opcode, one, address or peer, port if not address else 0)
                if opcode != 16:
                    one.sendto(b"x", (peer, port))

        return attempt

    mapped = "::ffff:" + other
    forged = [option(0, HDRINCL)]
    return [
        ("`bind` to the other, TCP", sends(V4, TCP, 0, [bind(other)])),
        ("the same, UDP", sends(V4, UDP, 0, [bind(other)])),
        ("the same, IPv4 in IPv6", sends(V6, UDP, 0, [bind(mapped)])),
        ("`connect` of IPv4 in IPv6, without a bind", sends(V6, TCP)),
        ("`bind` with `AF_UNSPEC` to the wildcard", sends(V4, UDP, 0, [lambda s, _: unspec("bind", s, "0.0.0.0")])),
        ("`bind` with `AF_UNSPEC` to the other", sends(V4, UDP, 0, [lambda s, _: unspec("bind", s, other)])),
        ("`connect` with `AF_UNSPEC` after a `connect`", sends(V4, UDP, 0, [connect, lambda s, _: unspec("connect", s, "0.0.0.0")])),
        ("`connect` after a bind to a multicast group", sends(V4, UDP, 0, [bind(GROUP), connect])),
        ("`sendto` after a bind to a multicast group", sends(V4, UDP, 0, [bind(GROUP)])),
        ("`sendto` to the network after a bind to loopback", sends(V4, UDP, 0, [bind("127.0.0.1")])),
        ("`IP_FREEBIND`, `bind` to the other", sends(V4, UDP, 0, [option(0, FREEBIND), bind(other)])),
        ("`IP_TRANSPARENT`, `bind` to the other", sends(V4, UDP, 0, [option(0, TRANSPARENT), bind(other)])),
        ("`IP_PKTINFO` with the other", message(V4, pktinfo(other))),
        ("the same on a connected socket", message(V4, pktinfo(other), True)),
        ("`IPV6_PKTINFO` with the other, IPv4 in IPv6", message(V6, pktinfo6(mapped))),
        ("the same on a connected socket, IPv6", message(V6, pktinfo6(mapped), True)),
        ("TCP Fast Open without a bind", fast_open),
        ("MPTCP, `bind` to the other", sends(V4, TCP, MPTCP, [bind(other)])),
        ("MPTCP, `connect` without a bind", sends(V4, TCP, MPTCP)),
        ("UDP-Lite, `bind` to the other", sends(V4, UDP, UDPLITE, [bind(other)])),
        ("UDP-Lite, `connect` without a bind", sends(V4, UDP, UDPLITE, [connect])),
        ("UDP-Lite, `sendto` without a bind", sends(V4, UDP, UDPLITE)),
        ("SCTP, `bind` to the other", sends(V4, TCP, SCTP, [bind(other)])),
        ("SCTP, `connect` without a bind", sends(V4, TCP, SCTP)),
        ("io_uring: `connect` without a bind", uring(16, None)),
        ("io_uring: `bind` to the other", uring(56, other)),
        ("raw socket without a bind", sends(V4, RAW, 17, [], udp_header)),
        ("raw socket, `bind` to the other", sends(V4, RAW, 17, [bind(other)], udp_header)),
        ("raw socket, `IP_HDRINCL` with the other", sends(V4, RAW, 17, forged, lambda p: ip_header(other, peer, 17) + udp_header(p))),
        ("ICMP socket without a bind", sends(V4, UDP, 1, [], echo)),
        ("ICMP socket, `bind` to the other", sends(V4, UDP, 1, [lambda s, p: s.bind((other, p))], echo)),
        ("socket of the vnode, a process outside binds it to the other", by_outside("bind", other, 0)),
        ("socket of the vnode, a process outside connects it", by_outside("connect")),
        ("UDP without a bind, others send to the other's same port", unbound_hears),
        ("TCP listener without a bind, others connect to the other", listener_hears),
        ("`SO_REUSEPORT` with a program of the other vnode", shared_port),
        ("socket made and bound outside, used in the vnode", made_outside),
    ]


def main():
    role, path, *rest = sys.argv[1:]
    if role == "helper":
        return helper(path, *rest)
    # Protocols that this kernel does not have; a socket of a kernel that has them may fail too.
    absent = (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EAFNOSUPPORT, errno.ENOSYS, errno.ENOPROTOOPT)
    for index, (name, attempt) in enumerate(attempts(Outside(path), *rest)):
        try:
            outcome = attempt(FIRST_PORT + index) or "sent"
        except TimeoutError:
            outcome = "sent"
        except OSError as error:
            outcome = errno.errorcode.get(error.errno, str(error))
            if error.errno in (errno.ECONNREFUSED, errno.EINPROGRESS):
                outcome = "sent"
            elif str(error).endswith("io_uring") and error.errno == errno.EINVAL:
                outcome = "absent"
            elif error.errno in absent and not name.startswith("`bind` with"):
                outcome = "absent"
        time.sleep(0.05)
        print(json.dumps([name, FIRST_PORT + index, outcome]), flush=True)


main()
