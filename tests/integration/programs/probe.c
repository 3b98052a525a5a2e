/* One socket, for the tests of `emu exec`. Without getaddrinfo, so that it can
 * be linked statically: nothing of it could be preloaded.
 *
 *   probe KIND WAY ADDRESS PORT
 *
 * KIND is tcp or udp. WAY: `connect` and `sendto` ask the peer which address it
 * sees and print its answer; `serve` binds, prints what it is bound to, and
 * gives that answer to one peer; `bind` only binds and prints. A call that fails
 * prints `errno N`. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union any {
	struct sockaddr head;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static void check(long result)
{
	if (result >= 0)
		return;
	printf("errno %d\n", errno);
	exit(1);
}

static const char *text(const union any *a)
{
	static char buffer[INET6_ADDRSTRLEN];
	const void *ip = a->head.sa_family == AF_INET ? (const void *)&a->v4.sin_addr
						      : (const void *)&a->v6.sin6_addr;
	return inet_ntop(a->head.sa_family, ip, buffer, sizeof(buffer));
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	const char *way = argv[2];
	int stream = !strcmp(argv[1], "tcp");
	int six = strchr(argv[3], ':') != NULL;
	unsigned short port = htons((unsigned short)atoi(argv[4]));
	char buffer[256];
	union any address, peer;
	socklen_t length = six ? sizeof(address.v6) : sizeof(address.v4);
	socklen_t peer_length = sizeof(peer);
	memset(&address, 0, sizeof(address));
	if (six) {
		address.v6.sin6_family = AF_INET6;
		address.v6.sin6_port = port;
		inet_pton(AF_INET6, argv[3], &address.v6.sin6_addr);
	} else {
		address.v4.sin_family = AF_INET;
		address.v4.sin_port = port;
		inet_pton(AF_INET, argv[3], &address.v4.sin_addr);
	}
	int fd = socket(six ? AF_INET6 : AF_INET, stream ? SOCK_STREAM : SOCK_DGRAM, 0);
	check(fd);
	setvbuf(stdout, NULL, _IOLBF, 0);

	if (!strcmp(way, "connect") || !strcmp(way, "sendto")) {
		if (!strcmp(way, "connect")) {
			check(connect(fd, &address.head, length));
			check(send(fd, "?", 1, 0));
		} else {
			check(sendto(fd, "?", 1, 0, &address.head, length));
		}
		ssize_t n = recv(fd, buffer, sizeof(buffer) - 1, 0);
		check(n);
		buffer[n] = 0;
		puts(buffer);
		return 0;
	}
	/* Like most servers: the last one's connections may linger. */
	check(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){stream}, sizeof(int)));
	check(bind(fd, &address.head, length));
	check(getsockname(fd, &address.head, &length));
	if (stream && !strcmp(way, "serve"))
		check(listen(fd, 16));
	puts(text(&address));
	if (strcmp(way, "serve"))
		return 0;
	if (stream) {
		fd = accept(fd, &peer.head, &peer_length);
		check(fd);
		check(recv(fd, buffer, sizeof(buffer), 0));
		check(send(fd, text(&peer), strlen(text(&peer)), 0));
	} else {
		check(recvfrom(fd, buffer, sizeof(buffer), 0, &peer.head, &peer_length));
		check(sendto(fd, text(&peer), strlen(text(&peer)), 0, &peer.head, peer_length));
	}
	return 0;
}
