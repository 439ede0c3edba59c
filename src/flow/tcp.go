package flow

import "time"

const (
	tcpFIN = 1 << iota
	tcpSYN
	tcpRST
	tcpPSH
	tcpACK
)

// measure takes the time from a question to its answer: from the first SYN that is not answered to the SYN/ACK or RST.
func (t *Table) measure(e *hot, n uint32, tcp uint8, swap bool, now int64) {
	c := t.cold(n)
	switch {
	case tcp&(tcpSYN|tcpACK) == tcpSYN:
		if c.asked == 0 {
			c.asked = now
			e.flags = e.flags&^askedB | when(swap, askedB)
		}
	case c.asked != 0 && swap != (e.flags&askedB != 0):
		if now > c.asked {
			c.rtt = now - c.asked
		}
		c.asked = 0
	}
}

// What a packet is to an ICMP echo.
const (
	echoNone = iota
	echoRequest
	echoReply
)

const echoLost = int64(5 * time.Second) // a request is not waited for any longer

// measureEcho takes the time from an echo request to its own reply, one request at a time.
func (t *Table) measureEcho(e *hot, n uint32, l *level) {
	c := t.cold(n)
	switch {
	case l.echo == echoRequest:
		if c.asked == 0 || l.time-c.asked >= echoLost || l.time < c.asked {
			c.asked, c.portA = l.time, l.seq
			e.flags = e.flags&^askedB | when(l.swap, askedB)
		}
	case c.asked != 0 && l.seq == c.portA && l.swap != (e.flags&askedB != 0):
		if l.time > c.asked {
			c.rtt = l.time - c.asked
		}
		c.asked = 0
	}
}

func when(b bool, flag uint32) uint32 {
	if b {
		return flag
	}
	return 0
}
