package graph

import (
	"math/bits"
	"slices"
)

// slotSet is a persistent set of node slots, made for both ends of an index: one slot (a name) takes no memory beyond itself, a
// hundred thousand (a type) take a bit each. Epochs work as in trie.
type slotSet struct {
	n    uint32
	one  uint32 // the member when n is 1
	more *slotList
}

// slotList holds two or more slots: sorted while few, as bits when many.
type slotList struct {
	epoch uint64
	few   []uint32
	bits  []*slotChunk // by slot / chunkSlots; nil where empty
}

// A set spread thinly over a large graph would take a chunk for each slot as bits, so that those of a host stay lists.
const (
	fewSlots   = 1024
	chunkSlots = 4096
)

type slotChunk struct {
	epoch uint64
	words [chunkSlots / 64]uint64
}

func (s slotSet) has(slot uint32) bool {
	switch {
	case s.n == 0:
		return false
	case s.more == nil:
		return s.one == slot
	case s.more.bits == nil:
		_, ok := slices.BinarySearch(s.more.few, slot)
		return ok
	}
	i := int(slot / chunkSlots)
	if i >= len(s.more.bits) || s.more.bits[i] == nil {
		return false
	}
	return s.more.bits[i].words[slot%chunkSlots/64]&(1<<(slot%64)) != 0
}

// all calls yield for each member in ascending order until it returns false.
func (s slotSet) all(yield func(uint32) bool) bool {
	switch {
	case s.n == 0:
		return true
	case s.more == nil:
		return yield(s.one)
	case s.more.bits == nil:
		for _, slot := range s.more.few {
			if !yield(slot) {
				return false
			}
		}
		return true
	}
	for i, c := range s.more.bits {
		if c == nil {
			continue
		}
		for w, word := range c.words {
			for ; word != 0; word &= word - 1 {
				if !yield(uint32(i*chunkSlots + w*64 + bits.TrailingZeros64(word))) {
					return false
				}
			}
		}
	}
	return true
}

// add returns the set with slot; s itself stays valid in older epochs.
func (s slotSet) add(epoch uint64, slot uint32) slotSet {
	if s.has(slot) {
		return s
	}
	if s.n == 0 {
		return slotSet{n: 1, one: slot}
	}
	if s.more == nil {
		few := []uint32{min(s.one, slot), max(s.one, slot)}
		return slotSet{n: 2, more: &slotList{epoch: epoch, few: few}}
	}
	s.more = s.more.own(epoch)
	s.n++
	if s.more.bits == nil && len(s.more.few) < fewSlots {
		i, _ := slices.BinarySearch(s.more.few, slot)
		s.more.few = insert(s.more.few, i, slot)
		return s
	}
	for _, f := range s.more.few {
		s.more.setBit(epoch, f)
	}
	s.more.few = nil
	s.more.setBit(epoch, slot)
	return s
}

// drop returns the set without slot.
func (s slotSet) drop(epoch uint64, slot uint32) slotSet {
	if !s.has(slot) {
		return s
	}
	if s.n == 1 {
		return slotSet{}
	}
	s.more = s.more.own(epoch)
	s.n--
	if s.more.bits == nil {
		i, _ := slices.BinarySearch(s.more.few, slot)
		s.more.few = remove(s.more.few, i)
	} else {
		c := s.more.chunk(epoch, slot)
		c.words[slot%chunkSlots/64] &^= 1 << (slot % 64)
	}
	if s.n == 1 {
		s.all(func(last uint32) bool { s.one = last; return false })
		s.more = nil
	}
	return s
}

// union returns the members of both sets, as a set of its own.
func (s slotSet) union(epoch uint64, other slotSet) slotSet {
	if s.n < other.n {
		s, other = other, s
	}
	other.all(func(slot uint32) bool { s = s.add(epoch, slot); return true })
	return s
}

func (l *slotList) own(epoch uint64) *slotList {
	if l.epoch == epoch {
		return l
	}
	return &slotList{epoch: epoch, few: slices.Clone(l.few), bits: slices.Clone(l.bits)}
}

func (l *slotList) setBit(epoch uint64, slot uint32) {
	l.chunk(epoch, slot).words[slot%chunkSlots/64] |= 1 << (slot % 64)
}

// chunk returns the chunk of slot, made or copied so that it may be changed.
func (l *slotList) chunk(epoch uint64, slot uint32) *slotChunk {
	i := int(slot / chunkSlots)
	for len(l.bits) <= i {
		l.bits = append(l.bits, nil)
	}
	switch c := l.bits[i]; {
	case c == nil:
		l.bits[i] = &slotChunk{epoch: epoch}
	case c.epoch != epoch:
		l.bits[i] = &slotChunk{epoch: epoch, words: c.words}
	}
	return l.bits[i]
}
