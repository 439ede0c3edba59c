package graph

import (
	"strings"

	"github.com/google/uuid"
)

// NewID returns a random identifier (UUID version 4), for elements without a stable name.
func NewID() string { return uuid.NewString() }

// GenID derives an identifier from names: UUID version 5 of "a/b/…" in the OID name space (RFC 9562 §5.5).
func GenID(parts ...string) string { return nameID(strings.Join(parts, "/")) }

// LinkID derives the identifier of a topology link, so that two nodes have at most one link of each relation.
func LinkID(parent, child, relation string) string { return nameID(parent + child + relation) }

// EdgeID derives the identifier of an edge that came without one.
func EdgeID(parent, child string) string { return nameID(parent + child) }

func nameID(name string) string { return uuid.NewSHA1(uuid.NameSpaceOID, []byte(name)).String() }
