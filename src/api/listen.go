package api

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Listen opens a TCP listener that keeps no more connections than the process can bear. When the address is taken the error says by whom.
func Listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		if who := WhoListens(addr); who != "" {
			return nil, fmt.Errorf("listen on %s: in use by %s: %w", addr, who, syscall.EADDRINUSE)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return bound(l), nil
}

// WhoListens names the process that listens on a TCP address of this network namespace, such as "pid 12 (skydive)", or at least its user
// when the process may not be looked into; "" when nobody is found.
func WhoListens(addr string) string {
	host, text, err := net.SplitHostPort(addr)
	port, portErr := strconv.ParseUint(text, 10, 16)
	if err != nil || portErr != nil {
		return ""
	}
	want, err := netip.ParseAddr(host)
	if err != nil {
		want = netip.IPv4Unspecified() // a name: go by the port alone
	}
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		data, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != "0A" {
				continue
			}
			at, ok := parseProcAddr(f[1])
			if !ok || at.Port() != uint16(port) {
				continue
			}
			if ip := at.Addr(); ip != want.Unmap() && !ip.IsUnspecified() && !want.IsUnspecified() {
				continue
			}
			return holder(f[9], f[7])
		}
	}
	return ""
}

// parseProcAddr reads an address of /proc/net/tcp: 32-bit words in the byte order of the host, then the port.
func parseProcAddr(s string) (netip.AddrPort, bool) {
	words, port, ok := strings.Cut(s, ":")
	ip, err := hex.DecodeString(words)
	n, portErr := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || portErr != nil || len(ip) != 4 && len(ip) != 16 {
		return netip.AddrPort{}, false
	}
	for word := range slices.Chunk(ip, 4) {
		slices.Reverse(word) // every platform that we build for is little endian
	}
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), true
}

// holder finds who has a socket open.
func holder(inode, uid string) string {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to == "socket:["+inode+"]" {
			dir := filepath.Dir(filepath.Dir(link))
			name, _ := os.ReadFile(filepath.Join(dir, "comm"))
			return fmt.Sprintf("pid %s (%s)", filepath.Base(dir), strings.TrimSpace(string(name)))
		}
	}
	return "a process of user id " + uid
}
