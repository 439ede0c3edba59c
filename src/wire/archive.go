package wire

import (
	"encoding/base64"
	"fmt"
)

// NamespaceArchive holds what analyzers ask each other of their archives. Obj is a message of package flow in protobuf, in a JSON envelope
// as a text in base64: ArchiveQuery in questions, ArchiveReply in answers, whose type is that of the question and ReplySuffix.
const NamespaceArchive = "Archive"

// Questions of the namespace Archive.
const (
	TypeArchiveFlows      = "Flows"
	TypeArchiveTotal      = "Total"
	TypeArchiveMetrics    = "FlowMetrics"
	TypeArchiveRawPackets = "RawPackets"
	TypeArchiveNodes      = "FlowNodes" // the nodes that flows are of, answered by flows of which nothing else is told
	TypeArchiveNext       = "Next"      // the next part of an answer that is too large for one message
	ReplySuffix           = "Reply"
)

// Bytes returns Obj of a message whose content is in protobuf.
func (m *Message) Bytes() ([]byte, error) {
	if m.Format == FormatProtobuf {
		return m.Obj, nil
	}
	n := len(m.Obj)
	if n < 2 || m.Obj[0] != '"' || m.Obj[n-1] != '"' {
		return nil, fmt.Errorf("%s %s: Obj is not a text", m.Namespace, m.Type)
	}
	b, err := base64.StdEncoding.AppendDecode(nil, m.Obj[1:n-1])
	if err != nil {
		return nil, fmt.Errorf("%s %s: Obj is not in base64: %w", m.Namespace, m.Type, err)
	}
	return b, nil
}

// Base64 is a Body: bytes, as a JSON text.
type Base64 []byte

// AppendJSON appends the text.
func (b Base64) AppendJSON(dst []byte) []byte {
	dst = append(dst, '"')
	return append(base64.StdEncoding.AppendEncode(dst, b), '"')
}

var _ Body = Base64(nil)
