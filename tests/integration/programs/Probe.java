import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.DatagramChannel;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;

/** As probe.c: one socket, for the tests of `emu exec`. */
final class Probe {
    private static final ByteBuffer BUFFER = ByteBuffer.allocate(256);

    public static void main(String[] words) throws IOException {
        var address = new InetSocketAddress(
            InetAddress.getByName(words[2]), Integer.parseInt(words[3]));
        try {
            if (words[0].equals("tcp")) {
                stream(words[1], address);
            } else {
                datagram(words[1], address);
            }
        } catch (IOException e) {
            // Java has no numbers for errors.
            String text = String.valueOf(e.getMessage());
            int number = text.contains("assign requested") ? 99
                : text.contains("unreachable") ? 101 : 0;
            System.out.println("errno " + number + (number == 0 ? " " + e : ""));
            System.exit(1);
        }
    }

    private static void stream(String way, InetSocketAddress address) throws IOException {
        if (way.equals("connect")) {
            try (var socket = SocketChannel.open(address)) {
                socket.write(bytes("?"));
                socket.read(BUFFER);
                System.out.println(received());
            }
            return;
        }
        try (var listener = ServerSocketChannel.open()) {
            listener.bind(address);
            System.out.println(ip(listener.getLocalAddress()));
            if (way.equals("serve")) {
                var socket = listener.accept();
                socket.read(BUFFER);
                socket.write(bytes(ip(socket.getRemoteAddress())));
                socket.close();
            }
        }
    }

    private static void datagram(String way, InetSocketAddress address) throws IOException {
        try (var socket = DatagramChannel.open()) {
            switch (way) {
                case "connect" -> {
                    socket.connect(address);
                    socket.write(bytes("?"));
                    socket.read(BUFFER);
                    System.out.println(received());
                }
                case "sendto" -> {
                    socket.send(bytes("?"), address);
                    socket.receive(BUFFER);
                    System.out.println(received());
                }
                default -> {
                    socket.bind(address);
                    System.out.println(ip(socket.getLocalAddress()));
                    if (way.equals("serve")) {
                        SocketAddress peer = socket.receive(BUFFER);
                        socket.send(bytes(ip(peer)), peer);
                    }
                }
            }
        }
    }

    private static ByteBuffer bytes(String text) {
        return ByteBuffer.wrap(text.getBytes());
    }

    private static String received() {
        return new String(BUFFER.array(), 0, BUFFER.position());
    }

    private static String ip(SocketAddress address) {
        return ((InetSocketAddress) address).getAddress().getHostAddress();
    }
}
