package auth

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// An address may fail this often in a row, a name over all addresses, and then once per refill. Credentials found right before are not
// counted, so that one who guesses does not lock out those who know.
const (
	failBurst   = 30
	nameBurst   = 100
	failRefill  = 2 * time.Second
	maxLimiters = 4096 // of each that are remembered; the rest shares one allowance
)

// limiter counts failures by whom they are put down to.
type limiter struct {
	clock func() time.Time
	burst float64

	mu  sync.Mutex
	all map[string]*allowance // guarded by mu
}

type allowance struct {
	left float64
	at   time.Time
}

func newLimiter(clock func() time.Time, burst float64) *limiter {
	return &limiter{clock: clock, burst: burst, all: map[string]*allowance{}}
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
func (l *limiter) take(who string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(who)
	if a.left < 1 {
		return false
	}
	a.left--
	return true
}

// giveBack returns an attempt that was no failure.
func (l *limiter) giveBack(who string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(who)
	a.left = min(a.left+1, l.burst)
}

func (l *limiter) of(who string) *allowance {
	now := l.clock()
	a, ok := l.all[who]
	if !ok && len(l.all) >= maxLimiters {
		for other, a := range l.all {
			if l.refill(a, now); a.left >= l.burst {
				delete(l.all, other)
			}
		}
		if len(l.all) >= maxLimiters {
			who = ""
			a, ok = l.all[who]
		}
	}
	if !ok {
		a = &allowance{left: l.burst, at: now}
		l.all[who] = a
	}
	l.refill(a, now)
	return a
}

func (l *limiter) refill(a *allowance, now time.Time) {
	a.left = min(a.left+float64(now.Sub(a.at))/float64(failRefill), l.burst)
	a.at = now
}
