// As probe.c: one socket, for the tests of `emu exec`.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

func check(err error) {
	if err == nil {
		return
	}
	var number syscall.Errno
	errors.As(err, &number)
	fmt.Println("errno", int(number))
	os.Exit(1)
}

// Binds, says to what, and tells one peer which address it has.
func serve(kind, way, address string) {
	buffer := make([]byte, 256)
	if kind == "udp" {
		socket, err := net.ListenPacket("udp", address)
		check(err)
		fmt.Println(socket.LocalAddr().(*net.UDPAddr).IP)
		if way == "serve" {
			_, peer, err := socket.ReadFrom(buffer)
			check(err)
			_, err = socket.WriteTo([]byte(peer.(*net.UDPAddr).IP.String()), peer)
			check(err)
		}
		return
	}
	listener, err := net.Listen("tcp", address)
	check(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).IP)
	if way == "serve" {
		connection, err := listener.Accept()
		check(err)
		_, err = connection.Read(buffer)
		check(err)
		_, err = connection.Write([]byte(connection.RemoteAddr().(*net.TCPAddr).IP.String()))
		check(err)
	}
}

func main() {
	kind, way, address := os.Args[1], os.Args[2], net.JoinHostPort(os.Args[3], os.Args[4])
	buffer := make([]byte, 256)
	switch way {
	case "connect":
		connection, err := net.Dial(kind, address)
		check(err)
		_, err = connection.Write([]byte("?"))
		check(err)
		n, err := connection.Read(buffer)
		check(err)
		fmt.Println(string(buffer[:n]))
	case "sendto":
		// The usual way in Go: a socket of both families at the wildcard.
		peer, err := net.ResolveUDPAddr("udp", address)
		check(err)
		socket, err := net.ListenPacket("udp", ":0")
		check(err)
		_, err = socket.WriteTo([]byte("?"), peer)
		check(err)
		n, _, err := socket.ReadFrom(buffer)
		check(err)
		fmt.Println(string(buffer[:n]))
	default:
		serve(kind, way, address)
	}
}
