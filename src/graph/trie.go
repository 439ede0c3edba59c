package graph

import (
	"hash/maphash"
	"math/bits"
)

// trie is a persistent hash map of items by their key: a copy of the struct is a snapshot that later changes do not touch.
//
// Each branch carries the epoch in which it was made. A change made in the same epoch works in place; a change in a later one
// copies the branches on its path first. Taking a snapshot therefore costs one increment of the epoch (see Graph), and a burst of
// changes between two snapshots costs hardly more than a plain map.
type trie[V keyed] struct {
	root *branch[V]
	n    int
}

type keyed interface{ key() string }

const (
	trieBits = 6
	trieMask = 1<<trieBits - 1
	maxShift = 60 // hash bits used before equal hashes are kept in one list
)

type branch[V keyed] struct {
	epoch    uint64
	leafMap  uint64 // which of the 64 places hold a leaf
	childMap uint64 // which hold a branch
	leaves   []V
	children []*branch[V]
}

// trieSeed is fixed for the process: snapshots of several graphs may be compared and walked alike.
var trieSeed = maphash.MakeSeed()

func (t *trie[V]) get(key string) (v V, ok bool) {
	b := t.root
	if b == nil {
		return v, false
	}
	h := maphash.String(trieSeed, key)
	for shift := 0; ; shift += trieBits {
		if shift > maxShift {
			for _, l := range b.leaves {
				if l.key() == key {
					return l, true
				}
			}
			return v, false
		}
		bit := uint64(1) << (h >> shift & trieMask)
		if b.leafMap&bit != 0 {
			if l := b.leaves[bits.OnesCount64(b.leafMap&(bit-1))]; l.key() == key {
				return l, true
			}
			return v, false
		}
		if b.childMap&bit == 0 {
			return v, false
		}
		b = b.children[bits.OnesCount64(b.childMap&(bit-1))]
	}
}

// set stores v, in place where the epoch allows.
func (t *trie[V]) set(epoch uint64, v V) { *t.put(epoch, v) = v }

// put returns where the item with the key of v is, to be changed at once, but for its key. It is v if there was none.
func (t *trie[V]) put(epoch uint64, v V) *V {
	if t.root == nil {
		t.root = &branch[V]{epoch: epoch}
	}
	key := v.key()
	root, at, added := t.root.put(epoch, maphash.String(trieSeed, key), 0, key, v)
	t.root = root
	if added {
		t.n++
	}
	return at
}

// delete removes key, if it is there.
func (t *trie[V]) delete(epoch uint64, key string) {
	if _, ok := t.get(key); !ok {
		return
	}
	t.root = t.root.delete(epoch, maphash.String(trieSeed, key), 0, key)
	t.n--
}

// all calls yield for each item until it returns false.
func (t *trie[V]) all(yield func(V) bool) bool {
	return t.root == nil || t.root.all(yield)
}

func (b *branch[V]) all(yield func(V) bool) bool {
	for _, l := range b.leaves {
		if !yield(l) {
			return false
		}
	}
	for _, c := range b.children {
		if !c.all(yield) {
			return false
		}
	}
	return true
}

// own returns b itself when it belongs to epoch, else a copy that does.
func (b *branch[V]) own(epoch uint64) *branch[V] {
	if b.epoch == epoch {
		return b
	}
	c := &branch[V]{epoch: epoch, leafMap: b.leafMap, childMap: b.childMap}
	c.leaves = append(make([]V, 0, len(b.leaves)+1), b.leaves...)
	c.children = append(make([]*branch[V], 0, len(b.children)), b.children...)
	return c
}

func (b *branch[V]) put(epoch, hash uint64, shift int, key string, v V) (_ *branch[V], at *V, added bool) {
	b = b.own(epoch)
	if shift > maxShift {
		for i := range b.leaves {
			if b.leaves[i].key() == key {
				return b, &b.leaves[i], false
			}
		}
		b.leaves = append(b.leaves, v)
		return b, &b.leaves[len(b.leaves)-1], true
	}
	bit := uint64(1) << (hash >> shift & trieMask)
	c := bits.OnesCount64(b.childMap & (bit - 1))
	if b.childMap&bit != 0 {
		b.children[c], at, added = b.children[c].put(epoch, hash, shift+trieBits, key, v)
		return b, at, added
	}
	i := bits.OnesCount64(b.leafMap & (bit - 1))
	if b.leafMap&bit == 0 {
		b.leafMap |= bit
		b.leaves = insert(b.leaves, i, v)
		return b, &b.leaves[i], true
	}
	if b.leaves[i].key() == key {
		return b, &b.leaves[i], false
	}
	// Two keys want the place: both move one level down.
	old := b.leaves[i]
	child := &branch[V]{epoch: epoch, leaves: make([]V, 0, 2)}
	child, _, _ = child.put(epoch, maphash.String(trieSeed, old.key()), shift+trieBits, old.key(), old)
	child, at, _ = child.put(epoch, hash, shift+trieBits, key, v)
	b.leafMap &^= bit
	b.leaves = remove(b.leaves, i)
	b.childMap |= bit
	b.children = insert(b.children, c, child)
	return b, at, true
}

func (b *branch[V]) delete(epoch, hash uint64, shift int, key string) *branch[V] {
	b = b.own(epoch)
	if shift > maxShift {
		for i := range b.leaves {
			if b.leaves[i].key() == key {
				b.leaves = remove(b.leaves, i)
				break
			}
		}
	} else if bit := uint64(1) << (hash >> shift & trieMask); b.leafMap&bit != 0 {
		b.leaves = remove(b.leaves, bits.OnesCount64(b.leafMap&(bit-1)))
		b.leafMap &^= bit
	} else {
		at := bits.OnesCount64(b.childMap & (bit - 1))
		child := b.children[at].delete(epoch, hash, shift+trieBits, key)
		if child != nil {
			b.children[at] = child
			return b
		}
		b.children = remove(b.children, at)
		b.childMap &^= bit
	}
	if len(b.leaves) == 0 && len(b.children) == 0 {
		return nil
	}
	return b
}

// insert puts v at i; it grows by small steps, since most branches hold only a few entries.
func insert[T any](s []T, i int, v T) []T {
	if len(s) == cap(s) {
		grown := make([]T, len(s), len(s)+1+len(s)/2)
		copy(grown, s)
		s = grown
	}
	s = append(s, v)
	copy(s[i+1:], s[i:])
	s[i] = v
	return s
}

func remove[T any](s []T, i int) []T {
	var zero T
	copy(s[i:], s[i+1:])
	s[len(s)-1] = zero
	return s[:len(s)-1]
}
