package api

import (
	"net"
	"net/netip"
	"testing"
)

// A party that opens all connections it can leaves some to others, and files to the process.
func TestConnectionsAreBounded(t *testing.T) {
	b := &bounded{total: 5, each: 3, peers: map[netip.Addr]int{}}
	one, two, here := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("127.0.0.1")
	for i, c := range []struct {
		from netip.Addr
		want bool
	}{{one, true}, {one, true}, {one, true}, {one, false}, {two, true}, {here, true}, {here, false}, {two, false}} {
		if got := b.take(c.from); got != c.want {
			t.Fatal(i, c.from, got)
		}
	}
	b.release(one)
	if !b.take(here) || b.take(one) {
		t.Error("a place that became free is not given once")
	}
}

func TestBoundedListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b := &bounded{Listener: l, total: 1, each: 1, peers: map[netip.Addr]int{}}
	accepted := make(chan net.Conn, 3)
	go func() {
		for {
			conn, err := b.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	dial()
	first := <-accepted
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Error("one too many is kept")
	}
	first.Close()
	first.Close() // counts once
	dial()
	(<-accepted).Close()
	if b.open != 0 || len(b.peers) != 0 {
		t.Error(b.open, b.peers)
	}
}
