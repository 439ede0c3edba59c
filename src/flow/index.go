package flow

// index finds entries by hash: extendible hashing. The directory is addressed by the highest bits of the hash, a bucket by the next ones. A bucket
// that is full splits alone, so that growth never stops the table for longer than one bucket takes.
//
// In a bucket, the slots of one cache line are a group. An entry is in the group that its hash names or, if that was full, in one of the
// next: a group with room ends the search. Nearly all are found in one line.
type index struct {
	dir   []*bucket
	depth uint // bits of the directory
}

const (
	groupBits  = 9
	groups     = 1 << groupBits
	groupSlots = 8
	bucketFull = groups * groupSlots * 3 / 4
	depthMax   = 32 - groupBits - 4 // leaves bits that tell the slots of a bucket apart
)

// A slot holds the upper half of the hash and, in its lower half, the number of the entry + 1; 0 is free.
type group [groupSlots]uint64

type bucket struct {
	group [groups]group
	used  int
	depth uint
}

func newIndex() index { return index{dir: []*bucket{new(bucket)}} }

func (x *index) bucket(hash uint64) *bucket {
	return x.dir[hash>>1>>(63-x.depth)]
}

// home is the group for a hash.
func home(hash uint64) uint { return uint(hash>>32) & (groups - 1) }

// find gives the number + 1 of an entry with the hash if it is in its own group; 0: look for it.
func (g *group) find(hash uint64) (found uint32) {
	// No branch depends on what is read, so that the processor goes on before it is there.
	tag := hash >> 32
	if s := g[0]; s>>32 == tag {
		found = uint32(s)
	}
	if s := g[1]; s>>32 == tag {
		found = uint32(s)
	}
	if s := g[2]; s>>32 == tag {
		found = uint32(s)
	}
	if s := g[3]; s>>32 == tag {
		found = uint32(s)
	}
	if s := g[4]; s>>32 == tag {
		found = uint32(s)
	}
	if s := g[5]; s>>32 == tag {
		found = uint32(s)
	}
	if s := g[6]; s>>32 == tag {
		found = uint32(s)
	}
	if s := g[7]; s>>32 == tag {
		found = uint32(s)
	}
	return found
}

// free is a slot that is; -1: none.
func (g *group) free() int {
	for i, s := range g {
		if s == 0 {
			return i
		}
	}
	return -1
}

// insert adds an entry that is not there; false: no room, as too many hashes share their first bits.
func (x *index) insert(hash uint64, n uint32) bool {
	b := x.bucket(hash)
	for b.used >= bucketFull && b.depth < depthMax {
		x.split(b, hash)
		b = x.bucket(hash)
	}
	if b.used >= groups*groupSlots-1 {
		return false
	}
	b.put(hash&^(1<<32-1) | uint64(n+1))
	return true
}

func (b *bucket) put(slot uint64) {
	for i := home(slot); ; i = (i + 1) & (groups - 1) {
		if j := b.group[i].free(); j >= 0 {
			b.group[i][j] = slot
			b.used++
			return
		}
	}
}

func (x *index) split(b *bucket, hash uint64) {
	if b.depth == x.depth {
		dir := make([]*bucket, 2*len(x.dir))
		for i, b := range x.dir {
			dir[2*i], dir[2*i+1] = b, b
		}
		x.dir = dir
		x.depth++
	}
	bit := uint64(1) << (63 - b.depth)
	old := b.group
	*b = bucket{depth: b.depth + 1}
	one := &bucket{depth: b.depth}
	for i := range old {
		for _, s := range old[i] {
			switch {
			case s == 0:
			case s&bit != 0:
				one.put(s)
			default:
				b.put(s)
			}
		}
	}
	// The directory entries of b were in a row; in the second half of them the bit is set.
	n := 1 << (x.depth - b.depth)
	first := int(hash>>1>>(63-x.depth))&^(2*n-1) + n
	for i := range n {
		x.dir[first+i] = one
	}
}

// remove takes an entry out. An entry that stands in a later group for lack of room moves up, so that no search ends early.
func (x *index) remove(hash uint64, n uint32) {
	b := x.bucket(hash)
	want := hash&^(1<<32-1) | uint64(n+1)
	i, j := home(hash), -1
	for ; j < 0; i = (i + 1) & (groups - 1) {
		g := &b.group[i]
		for k, s := range g {
			if s == want {
				j = k
			}
		}
		if j >= 0 {
			break
		}
		if g.free() >= 0 {
			return
		}
	}
	b.used--
	full := b.group[i].free() < 0
	for next := i; full; {
		next = (next + 1) & (groups - 1)
		g := &b.group[next]
		full = g.free() < 0
		for k, s := range g {
			if s != 0 && (next-home(s))&(groups-1) >= (next-i)&(groups-1) {
				b.group[i][j] = s
				i, j = next, k
				break
			}
		}
	}
	b.group[i][j] = 0
}
