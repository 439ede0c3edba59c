package openflow

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// Numbers of the requests that are answered; one of each at a time.
const (
	xidSetup = iota + 1
	xidMonitor
	xidRules
	xidGroups
	xidEcho
)

// session is one connection. Everything happens in one goroutine: it waits for messages until something is due.
type session struct {
	*Client
	conn    net.Conn
	in      *bufio.Reader
	version Version

	extended  bool // OpenFlow 1.0: rules are asked for with Nicira's extension
	monitored bool
	noGroups  bool
	dumping   bool // rules were asked for
	grouping  bool // groups were asked for
	lastPart  time.Time

	heard             time.Time // last message
	asked             bool      // whether it is alive
	flushAt           time.Time // zero: nothing to hand over
	rulesAt, groupsAt time.Time // when they are to be asked for
}

func newSession(c *Client, conn net.Conn) *session {
	return &session{Client: c, conn: conn, in: bufio.NewReaderSize(conn, 1<<16), extended: true}
}

func (s *session) send(b []byte) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(dialTimeout)); err != nil {
		return err
	}
	_, err := s.conn.Write(b)
	return err
}

// next returns the next message, whose body is valid until it is called again; os.ErrDeadlineExceeded when there is none until then.
func (s *session) next(until time.Time) (m message, size int, err error) {
	if err := s.conn.SetReadDeadline(until); err != nil {
		return m, 0, err
	}
	h, err := s.in.Peek(headerSize)
	if err != nil {
		return m, 0, err
	}
	if size = int(binary.BigEndian.Uint16(h[2:])); size < headerSize || h[1] > lastType {
		return m, 0, fmt.Errorf("message of type %d and %d bytes: not OpenFlow", h[1], size)
	}
	b, err := s.in.Peek(size)
	if err != nil {
		return m, 0, err
	}
	return message{version: Version(b[0]), kind: b[1], xid: binary.BigEndian.Uint32(b[4:]), body: b[headerSize:]}, size, nil
}

// negotiate exchanges hellos.
func (s *session) negotiate(versions []Version) error {
	if err := s.send(hello(versions)); err != nil {
		return err
	}
	m, size, err := s.next(time.Now().Add(dialTimeout))
	if err != nil {
		return fmt.Errorf("no hello: %w", err)
	}
	switch m.kind {
	case typeHello:
		v, ok := agree(versions, m)
		if !ok {
			return fmt.Errorf("%w: the switch has up to %v", errVersions, m.version)
		}
		s.version = v
	case typeError:
		if e := readError(m.body); e.Type == 0 {
			return fmt.Errorf("%w: %w", errVersions, e)
		} else {
			return e
		}
	default:
		return fmt.Errorf("message of type %d in place of a hello: not OpenFlow", m.kind)
	}
	_, err = s.in.Discard(size)
	return err
}

// follow asks for everything and takes in what comes, until the connection ends.
func (s *session) follow() error {
	now := time.Now()
	s.heard = now
	if err := s.send(noPackets(s.version).finish(xidSetup)); err != nil {
		return err
	}
	// The monitor is asked for before the rules, so that no change is missed between the two.
	if q := monitorRequest(s.version); q != nil {
		s.monitored = true
		if err := s.send(q.finish(xidMonitor)); err != nil {
			return err
		}
	}
	s.rulesAt, s.groupsAt = now, now
	s.noGroups = s.version == Version10
	for {
		now = time.Now()
		if err := s.due(now); err != nil {
			return err
		}
		m, size, err := s.next(s.wake())
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return err
		}
		s.heard, s.asked = time.Now(), false
		if err := s.take(m); err != nil {
			return err
		}
		if _, err := s.in.Discard(size); err != nil {
			return err
		}
		if s.flushAt.IsZero() && s.table.changed() {
			s.flushAt = s.heard.Add(coalesce)
		}
	}
}

// wake returns when something is due next.
func (s *session) wake() time.Time {
	at := s.heard.Add(silence)
	if s.asked {
		at = s.heard.Add(3 * silence)
	}
	earlier := func(t time.Time) {
		if !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	earlier(s.flushAt)
	if !s.dumping {
		earlier(s.rulesAt)
	}
	if !s.grouping && !s.noGroups {
		earlier(s.groupsAt)
	}
	if s.dumping || s.grouping {
		earlier(s.lastPart.Add(answerTime))
	}
	return at
}

// due does what is due.
func (s *session) due(now time.Time) error {
	if !s.flushAt.IsZero() && !now.Before(s.flushAt) {
		s.flushAt = time.Time{}
		s.flush()
	}
	switch {
	case (s.dumping || s.grouping) && now.Sub(s.lastPart) >= answerTime:
		return errors.New("the switch does not answer a request")
	case now.Sub(s.heard) >= 3*silence:
		return errors.New("the switch is silent")
	case !s.asked && now.Sub(s.heard) >= silence:
		s.asked = true
		if err := s.send(start(s.version, typeEchoRequest).finish(xidEcho)); err != nil {
			return err
		}
	}
	if !s.dumping && !s.rulesAt.IsZero() && !now.Before(s.rulesAt) {
		s.dumping, s.lastPart = true, now
		s.table.begin()
		if err := s.send(flowRequest(s.version, s.extended).finish(xidRules)); err != nil {
			return err
		}
	}
	if !s.grouping && !s.noGroups && !now.Before(s.groupsAt) {
		s.grouping, s.lastPart = true, now
		s.table.beginGroups()
		return s.send(groupRequest(s.version).finish(xidGroups))
	}
	return nil
}

// take takes in a message.
func (s *session) take(m message) error {
	switch m.kind {
	case typeEchoRequest:
		return s.send(append(start(s.version, typeEchoReply), m.body...).finish(m.xid))
	case typeError:
		return s.refused(m)
	case typeExperimenter:
		// Monitors of extensions pause when we are too slow; then there may be more to know than they tell.
		c := cursor{b: m.body}
		switch vendor, kind := c.u32(), c.u32(); {
		case vendor == nicira && kind == nxtMonitorResumed, vendor == onfExperimenter && kind == onfMonitorResumed:
			s.resync()
		}
		return nil
	case typeStats10 + 1, typeMultipart + 1:
		if (m.kind == typeStats10+1) != (s.version == Version10) {
			return nil
		}
		a, err := readAnswer(s.version, m.body)
		if err != nil {
			return err
		}
		return s.answer(m.xid, a)
	}
	return nil
}

// refused takes in an error: what the switch cannot do is done without.
func (s *session) refused(m message) error {
	e := readError(m.body)
	switch m.xid {
	case xidMonitor:
		s.monitored = false
	case xidRules:
		if s.version != Version10 || !s.extended {
			return fmt.Errorf("rules: %w", e)
		}
		s.extended, s.dumping = false, false
		s.rulesAt = s.heard
	case xidGroups:
		s.grouping, s.noGroups = false, true
	}
	return nil
}

func (s *session) answer(xid uint32, a answer) error {
	switch {
	case a.isMonitor(s.version):
		return readEvents(s.version, a.body, func(kind eventKind, r *rawRule) {
			switch kind {
			case eventAdded, eventModified:
				s.table.put(s.version, r, true)
				s.soon()
			case eventRemoved:
				s.table.remove(r)
				s.soon()
			case eventResumed:
				s.resync()
			}
		})
	case xid == xidRules && s.dumping:
		s.lastPart = s.heard
		err := readRules(s.version, a, func(r *rawRule) { s.table.put(s.version, r, false) })
		if err != nil || a.more {
			return err
		}
		s.dumping = false
		s.table.end()
		s.rulesAt = time.Time{}
		if !s.monitored || len(s.table.rules) > 0 {
			s.rulesAt = s.heard.Add(s.options.Poll)
		}
	case xid == xidGroups && s.grouping:
		s.lastPart = s.heard
		err := readGroups(s.version, a.body, s.table.putGroup)
		if err != nil || a.more {
			return err
		}
		s.grouping = false
		s.table.endGroups()
		s.groupsAt = s.heard.Add(s.options.Poll)
		if len(s.table.groups) <= fewGroups {
			s.groupsAt = s.heard.Add(min(groupPoll, s.options.Poll))
		}
	}
	return nil
}

// soon makes sure that the counters of rules that came are read.
func (s *session) soon() {
	if s.rulesAt.IsZero() {
		s.rulesAt = s.heard.Add(s.options.Poll)
	}
}

// resync reads all rules again.
func (s *session) resync() {
	if !s.dumping {
		s.rulesAt = s.heard
	}
}

// noPackets asks for none of the messages that a controller gets without asking: the switch may take us for one.
func noPackets(v Version) builder {
	switch {
	case v >= Version14:
		b := start(v, typeSetAsync)
		for kind := range uint16(6) {
			b = b.u16(kind).u16(8).u32(0)
		}
		return b
	case v == Version13:
		return start(v, typeSetAsync).zeros(24)
	}
	return start(v, typeExperimenter).u32(nicira).u32(nxtSetAsync).zeros(24)
}
