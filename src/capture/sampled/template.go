package sampled

import (
	"encoding/binary"
	"math"
	"slices"
	"time"
)

const (
	templatesMax  = 1024    // of an exporter
	templateField = 512     // of a template
	fieldsMax     = 1 << 18 // of all templates
	templateLife  = int64(24 * time.Hour)
	variable      = math.MaxUint16 // size of a field that says how long it is
	reversePEN    = 29305          // RFC 5103
)

// column is where a value is in a record.
type column struct {
	offset uint16 // in records of one length
	size   uint16
	use    element
}

// template tells how records look.
type template struct {
	fields   []column // those of use, but all of a record of variable length
	length   int      // of a record, at least
	variable bool
	options  bool  // records tell of the exporter, not of flows
	heard    int64 // ns
}

// size is what it counts for: one without a field of use takes memory, too.
func (t *template) size() int { return 1 + len(t.fields) }

// define takes templates until the set ends.
func (s *Source) define(e *exporter, b []byte, options bool) (ok bool) {
	for len(b) >= 4 {
		id, count := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		b = b[4:]
		if id == 0 && count == 0 { // padding
			return true
		}
		if count == 0 && e.version == ipfix { // withdrawn
			s.withdraw(e, id)
			continue
		}
		scopes := 0
		if options {
			if len(b) < 2 {
				return false
			}
			scopes = int(binary.BigEndian.Uint16(b))
			if b = b[2:]; e.version != ipfix { // lengths of both parts in bytes
				scopes, count = count/4, count/4+scopes/4
			}
		}
		t := template{options: options, heard: s.now, fields: s.fields[:0]}
		if b, ok = t.parse(b, count, scopes, e.version); !ok {
			return false
		}
		s.fields = t.fields
		if id < 256 {
			return false
		}
		s.learn(e, id, &t)
	}
	return true
}

// parse takes the fields of a template.
func (t *template) parse(b []byte, count, scopes int, version uint16) (rest []byte, ok bool) {
	if count > templateField {
		return nil, false
	}
	useful := 0
	for i := range count {
		if len(b) < 4 {
			return nil, false
		}
		id, size := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		b = b[4:]
		use := unused
		switch {
		case version == ipfix && id&0x8000 != 0:
			if len(b) < 4 {
				return nil, false
			}
			if binary.BigEndian.Uint32(b) == reversePEN {
				if use = elementOf(id & 0x7fff); use >= octets && use <= frameOctetsTotal {
					use += backward
				} else {
					use = unused
				}
			}
			b = b[4:]
		case version != ipfix && i < scopes:
			if id == 2 { // interface
				use = inputIf
			}
		default:
			use = elementOf(id)
		}
		switch width := use.width(); {
		case size == variable && version == ipfix:
			t.variable = true
			use = unused // nothing of use has no length
			t.length++
		case width != 0 && size != width || width == 0 && size > 8 || size == 0:
			use = unused
			fallthrough
		default:
			if use != unused {
				useful++
			}
			t.fields = append(t.fields, column{uint16(min(t.length, math.MaxUint16)), size, use})
			t.length += int(size)
			continue
		}
		t.fields = append(t.fields, column{size: variable})
	}
	if !t.variable {
		t.fields = slices.DeleteFunc(t.fields, func(f column) bool { return f.use == unused })
	}
	return b, t.length > 0 && t.length <= math.MaxUint16
}

// learn keeps a template, if there is room.
func (s *Source) learn(e *exporter, id uint16, t *template) {
	if old := e.templates[id]; old != nil {
		if old.length == t.length && old.variable == t.variable && old.options == t.options && slices.Equal(old.fields, t.fields) {
			old.heard = t.heard
			return
		}
		s.withdraw(e, id)
	}
	for len(e.templates) < templatesMax && s.exporters.fields+t.size() > fieldsMax && s.makeRoom(e) {
	}
	if len(e.templates) >= templatesMax || s.exporters.fields+t.size() > fieldsMax {
		s.malformed.Add(1)
		return
	}
	if e.templates == nil {
		e.templates = make(map[uint16]*template)
	}
	kept := *t
	kept.fields = slices.Clone(t.fields)
	e.templates[id] = &kept
	s.exporters.fields += kept.size()
}

// makeRoom forgets the templates of the exporter that has been silent for longest: nobody keeps others from having theirs.
func (s *Source) makeRoom(e *exporter) bool {
	var oldest *exporter
	for _, x := range s.exporters.all {
		if x != e && len(x.templates) > 0 && (oldest == nil || x.heard < oldest.heard) {
			oldest = x
		}
	}
	if oldest == nil {
		return false
	}
	s.withdraw(oldest, setTemplates)
	s.withdraw(oldest, setOptions)
	return true
}

// withdraw forgets a template or, by the identifier of their sets, all of a kind.
func (s *Source) withdraw(e *exporter, id uint16) {
	if t := e.templates[id]; t != nil {
		s.exporters.fields -= t.size()
		delete(e.templates, id)
	}
	if id != setTemplates && id != setOptions { // a datagram has room for thousands of them
		return
	}
	for known, t := range e.templates {
		if t.options == (id == setOptions) {
			s.exporters.fields -= t.size()
			delete(e.templates, known)
		}
	}
}

// template finds a template that is still valid.
func (s *Source) template(e *exporter, id uint16) *template {
	t := e.templates[id]
	if t != nil && s.now-t.heard > templateLife {
		s.withdraw(e, id)
		return nil
	}
	return t
}

// next takes one record off b into g; false: b is what fills up the set, or broken.
func (t *template) next(g *gathered, b []byte, export int64) (rest []byte, ok bool) {
	if len(b) < t.length {
		return nil, false
	}
	if !t.variable {
		for i := range t.fields {
			f := &t.fields[i]
			g.set(f.use, b[f.offset:f.offset+f.size], export)
		}
		return b[t.length:], true
	}
	for i := range t.fields {
		f := &t.fields[i]
		size := int(f.size)
		if f.size == variable {
			if len(b) < 1 {
				return nil, false
			}
			size, b = int(b[0]), b[1:]
			if size == 255 {
				if len(b) < 2 {
					return nil, false
				}
				size, b = int(binary.BigEndian.Uint16(b)), b[2:]
			}
		}
		if len(b) < size {
			return nil, false
		}
		if f.use != unused {
			g.set(f.use, b[:size], export)
		}
		b = b[size:]
	}
	return b, true
}
