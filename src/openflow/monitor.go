package openflow

// monitorRequest asks to be told of every change of a rule, with its actions; nil when the version has no means for that.
func monitorRequest(v Version) builder {
	switch {
	case v == Version10:
		const added, deleted, modified, actions = 2, 4, 8, 16
		return experimenterRequest(v, nicira, nxstFlowMonitor).
			u32(monitorID).u16(added | deleted | modified | actions).u16(0xffff).u16(0).u8(allTables).zeros(5)
	case v == Version13:
		const added, deleted, modified, instructions = 2, 4, 8, 16
		return experimenterRequest(v, onfExperimenter, onfFlowMonitor).
			u32(monitorID).u16(added | deleted | modified | instructions).u16(4).u32(anyPort).u8(allTables).zeros(3).
			u16(oxmMatch).u16(4).zeros(4)
	case v >= Version14:
		const added, removed, modified, instructions = 2, 4, 8, 16
		return statsRequest(v, statsFlowMonitor).u32(monitorID).u32(anyPort).u32(anyGroup).
			u16(added|removed|modified|instructions).u8(allTables, 0).
			u16(oxmMatch).u16(4).zeros(4)
	}
	return nil
}

const monitorID = 1

// Messages of extensions outside of statistics.
const (
	nxtSetAsync       = 19
	nxtMonitorResumed = 23
	onfMonitorResumed = 1872
)

// eventKind says what happened to a rule.
type eventKind uint8

const (
	eventAdded eventKind = iota
	eventRemoved
	eventModified
	eventAbbreviated // by a request of ours, of which there are none
	eventPaused
	eventResumed
)

// isMonitor tells whether an answer holds events.
func (a answer) isMonitor(v Version) bool {
	switch {
	case a.kind == statsFlowMonitor:
		return v >= Version14
	case a.kind != statsExperimenter:
		return false
	}
	return a.vendor == nicira && a.subtype == nxstFlowMonitor || a.vendor == onfExperimenter && a.subtype == onfFlowMonitor
}

// readEvents reads the changes of rules in an answer. Rules come without counters, flags and importance.
func readEvents(v Version, body []byte, each func(eventKind, *rawRule)) error {
	var r rawRule
	for b := body; len(b) > 0; {
		c := cursor{b: b}
		size := int(c.u16())
		if size < 4 || size > len(b) {
			return errShort
		}
		c.b = b[2:size:size]
		b = b[size:]
		kind := c.u16()
		r = rawRule{}
		if v >= Version14 {
			if kind > 0 { // 0: there before
				kind--
			}
			if eventKind(kind) < eventAbbreviated {
				r.event14(&c, v)
			}
		} else if eventKind(kind) < eventAbbreviated {
			r.event10(&c, v)
		}
		if c.bad {
			return errShort
		}
		each(eventKind(min(kind, 0xff)), &r)
	}
	return nil
}

func (r *rawRule) event10(c *cursor, v Version) {
	c.skip(2)
	r.Priority, r.IdleTimeout, r.HardTimeout = c.u16(), c.u16(), c.u16()
	size := int(c.u16())
	r.Table = c.u8()
	c.skip(1)
	r.Cookie = c.u64()
	r.match = c.padded(size)
	if v >= Version13 { // the same, but that the match has a header
		m := cursor{b: r.match}
		r.match = m.matchOf(v)
		c.bad = c.bad || m.bad
	}
	r.instructions = c.b
}

func (r *rawRule) event14(c *cursor, v Version) {
	r.Table = c.u8()
	c.skip(1)
	r.IdleTimeout, r.HardTimeout, r.Priority = c.u16(), c.u16(), c.u16()
	c.skip(4)
	r.Cookie = c.u64()
	r.match = c.matchOf(v)
	r.instructions = c.b
}
