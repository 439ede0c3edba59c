package api

import (
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// bounded is a listener that keeps so many connections only that this process can still open files, and so many of one address that
// others get in. What is beyond that is closed at once: to wait would be as good as to be full.
type bounded struct {
	net.Listener
	total, each int

	mu    sync.Mutex // guards below
	open  int
	peers map[netip.Addr]int
}

// Of the files that a process may open, a quarter and at least these are for others than connections: databases cannot do without.
const keptFiles = 512

func bound(l net.Listener) net.Listener {
	files := 1024
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		files = int(min(limit.Cur, 1<<17))
	}
	total := max(files-max(files/4, keptFiles), files/4)
	return &bounded{Listener: l, total: total, each: max(total/4, 64), peers: map[netip.Addr]int{}}
}

func (b *bounded) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var from netip.Addr
		if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
			from, _ = netip.AddrFromSlice(a.IP)
			if from = from.Unmap(); from.Is6() {
				p, _ := from.Prefix(64) // what one party controls
				from = p.Addr()
			}
		}
		if !b.take(from) {
			conn.Close()
			continue
		}
		return &counted{Conn: conn, release: sync.OnceFunc(func() { b.release(from) })}, nil
	}
}

// take counts a connection, if it may be. Those of this host are not told apart: a proxy speaks for many.
func (b *bounded) take(from netip.Addr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open >= b.total || !from.IsLoopback() && b.peers[from] >= b.each {
		return false
	}
	b.open++
	b.peers[from]++
	return true
}

func (b *bounded) release(from netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open--
	if b.peers[from]--; b.peers[from] == 0 {
		delete(b.peers, from)
	}
}

// counted is a connection that is counted until it is closed.
type counted struct {
	net.Conn
	release func()
}

func (c *counted) Close() error {
	defer c.release()
	return c.Conn.Close()
}
