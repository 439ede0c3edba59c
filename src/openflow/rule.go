package openflow

import (
	"fmt"
	"strings"
)

// Rule is an entry of a flow table. A switch has at most one with the same table, priority and match.
type Rule struct {
	Table        uint8
	Priority     uint16
	Match        Match
	Cookie       uint64
	IdleTimeout  uint16
	HardTimeout  uint16
	Importance   uint16
	Flags        Flags
	Instructions Instructions
	Packets      uint64
	Bytes        uint64
}

// Flags of a rule.
type Flags uint16

// Names returns the flags that are set, as ovs-ofctl has them.
func (f Flags) Names() []string {
	var names []string
	for i, name := range [...]string{"send_flow_rem", "check_overlap", "reset_counts", "no_packet_counts", "no_byte_counts"} {
		if f>>i&1 != 0 {
			names = append(names, name)
		}
	}
	return names
}

// Instructions are what a rule does, as the switch sent it: in OpenFlow 1.0 a list of actions, later a list of instructions.
type Instructions struct {
	version Version
	raw     string
}

// Instruction is one step of what a rule does.
type Instruction struct {
	Type      string // apply_actions, write_actions, clear_actions, goto_table, write_metadata, meter, or experimenter_n
	Actions   []Action
	Arguments []Argument
	text      string
}

// Decode reads the instructions.
func (in Instructions) Decode() []Instruction {
	d := decoder{version: in.version}
	if in.version == Version10 {
		if in.raw == "" {
			return nil
		}
		all := d.actions([]byte(in.raw))
		return []Instruction{{Type: "apply_actions", Actions: all, text: join(all)}}
	}
	var out []Instruction
	b := []byte(in.raw)
	for len(b) > 0 {
		c := cursor{b: b}
		kind, size := c.u16(), int(c.u16())
		if c.bad || size < 4 || size > len(b) {
			return append(out, unknownInstruction("malformed", b))
		}
		c.b = b[4:size:size]
		b = b[size:]
		out = append(out, d.instruction(kind, c))
	}
	return out
}

func (d decoder) instruction(kind uint16, c cursor) Instruction {
	whole := c.b
	var i Instruction
	switch kind {
	case 1:
		n := int64(c.u8())
		i = Instruction{Type: "goto_table", text: fmt.Sprintf("goto_table:%d", n), Arguments: []Argument{{"Table", n}}}
	case 2:
		c.skip(4)
		a := writeMetadata(&c)
		i = Instruction{Type: a.Type, text: a.text, Arguments: a.Arguments}
	case 3, 4:
		c.skip(4)
		all := d.actions(c.b)
		i = Instruction{Type: "apply_actions", Actions: all, text: join(all)}
		if kind == 3 {
			i.Type, i.text = "write_actions", "write_actions("+i.text+")"
		}
	case 5:
		i = Instruction{Type: "clear_actions", text: "clear_actions"}
	case 6:
		n := int64(c.u32())
		i = Instruction{Type: "meter", text: fmt.Sprintf("meter:%d", n), Arguments: []Argument{{"Meter", n}}}
	default:
		return unknownInstruction(fmt.Sprintf("instruction_%d", kind), whole)
	}
	if c.bad {
		return unknownInstruction(i.Type, whole)
	}
	return i
}

func unknownInstruction(name string, body []byte) Instruction {
	a := unknown(name, body)
	return Instruction{Type: a.Type, text: a.text, Arguments: a.Arguments}
}

// String writes the instructions as ovs-ofctl does.
func (in Instructions) String() string {
	var parts []string
	for _, i := range in.Decode() {
		if i.text != "" {
			parts = append(parts, i.text)
		}
	}
	if len(parts) == 0 {
		return "drop"
	}
	return strings.Join(parts, ",")
}

// String writes the rule in the syntax of ovs-ofctl, without its counters.
func (r *Rule) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "cookie=%#x,table=%d,", r.Cookie, r.Table)
	for _, n := range [...]struct {
		name string
		n    uint16
	}{{"idle_timeout", r.IdleTimeout}, {"hard_timeout", r.HardTimeout}, {"importance", r.Importance}} {
		if n.n != 0 {
			fmt.Fprintf(&s, "%s=%d,", n.name, n.n)
		}
	}
	for _, name := range r.Flags.Names() {
		s.WriteString(name + ",")
	}
	fmt.Fprintf(&s, "priority=%d", r.Priority)
	if m := r.Match.String(); m != "" {
		s.WriteString("," + m)
	}
	s.WriteString(" actions=" + r.Instructions.String())
	return s.String()
}
