package etcd

import (
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/zap"
)

// What members of different clusters say to each other many times a second is told a few times; who debugs sees all.
func TestComplaintsAreNotRepeated(t *testing.T) {
	for verbose, want := range map[bool]int{false: repeatMost, true: 50} {
		var text lockedBuffer
		log, fatal := newLog(slog.NewTextHandler(&text, nil), verbose, make(chan struct{}))
		for range 50 {
			log.Error("request cluster ID mismatch", zap.String("remote-peer-id", "1"))
		}
		log.With(zap.String("remote", "192.0.2.1")).Warn("rejected connection on peer endpoint")
		if got := strings.Count(text.String(), "cluster ID mismatch"); got != want {
			t.Errorf("verbose %t: %d times, want %d", verbose, got, want)
		}
		if !strings.Contains(text.String(), "rejected connection") {
			t.Error("another message is lost")
		}
		// Last words count however often they are said.
		for range repeatMost + 1 {
			done := make(chan struct{})
			go func() { defer close(done); log.Fatal("the end") }()
			<-done
		}
		if err := <-fatal; err.Error() != "the end" {
			t.Error(err)
		}
	}
}
