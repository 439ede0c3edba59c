package socket

import (
	"fmt"
	"io"
	"net"
	"syscall"
)

// sink takes connections and throws away what they bring. Called in a namespace; goroutines of the program are not, but the socket is.
func sink(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	go func() {
		defer l.Close()
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.Copy(io.Discard, conn)
	}()
	return nil
}

// pour sends n bytes.
func pour(address string, n int) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	chunk := make([]byte, 1<<20)
	for ; n > 0; n -= len(chunk) {
		if _, err := conn.Write(chunk); err != nil {
			return fmt.Errorf("pour: %w", err)
		}
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, conn); err != nil && err != syscall.ECONNRESET {
		return err
	}
	return nil
}
