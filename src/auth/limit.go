package auth

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// A remote may fail this often in a row, and then once per refill. Credentials found right before are not counted, so that one who
// guesses does not lock out those behind the same address who know.
const (
	failBurst   = 30
	failRefill  = 2 * time.Second
	maxLimiters = 4096 // remotes remembered; the rest shares one allowance
)

// limiter counts failures by remote.
type limiter struct {
	clock func() time.Time

	mu      sync.Mutex
	remotes map[string]*allowance // guarded by mu
}

type allowance struct {
	left float64
	at   time.Time
}

func newLimiter(clock func() time.Time) *limiter {
	return &limiter{clock: clock, remotes: map[string]*allowance{}}
}

// remoteOf reduces an address to what one party controls: the address, or the network of 64 bits of IPv6.
func remoteOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() && !ip.Is4In6() {
		if p, err := ip.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return host
}

// take uses up one attempt; false when none is left.
func (l *limiter) take(remote string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(remote)
	if a.left < 1 {
		return false
	}
	a.left--
	return true
}

// giveBack returns an attempt that was no failure.
func (l *limiter) giveBack(remote string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(remote)
	a.left = min(a.left+1, failBurst)
}

func (l *limiter) of(remote string) *allowance {
	now := l.clock()
	a, ok := l.remotes[remote]
	if !ok && len(l.remotes) >= maxLimiters {
		for r, a := range l.remotes {
			if a.refill(now); a.left >= failBurst {
				delete(l.remotes, r)
			}
		}
		if len(l.remotes) >= maxLimiters {
			remote = ""
			a, ok = l.remotes[remote]
		}
	}
	if !ok {
		a = &allowance{left: failBurst, at: now}
		l.remotes[remote] = a
	}
	a.refill(now)
	return a
}

func (a *allowance) refill(now time.Time) {
	a.left = min(a.left+float64(now.Sub(a.at))/float64(failRefill), failBurst)
	a.at = now
}
