package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newLog returns the log of an etcd server or client, and where its last words arrive. etcd ends the process when it cannot go on, from
// any of its goroutines; here only that goroutine ends, and the service tells why. Once done is closed its complaints – about
// listeners and streams that end, which is what was asked for – are not passed on, unless verbose.
func newLog(log slog.Handler, verbose bool, done <-chan struct{}) (*zap.Logger, <-chan error) {
	hook := lastWords{make(chan error, 1)}
	var core zapcore.Core = logCore{log: log, verbose: verbose, done: done}
	if !verbose {
		core = zapcore.NewSamplerWithOptions(core, repeatAfter, repeatMost, 0)
	}
	return zap.New(core, zap.WithPanicHook(hook), zap.WithFatalHook(hook)), hook.fatal
}

// Members of different clusters, or without TLS, complain about each other many times a second: what is said once is enough for a while.
const (
	repeatAfter = 10 * time.Minute
	repeatMost  = 3
)

type lastWords struct{ fatal chan error }

// OnWrite implements zapcore.CheckWriteHook.
func (l lastWords) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := errors.New(e.Message)
	for _, f := range fields {
		if cause, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			err = fmt.Errorf("%w: %w", err, cause)
		}
	}
	select {
	case l.fatal <- err:
	default: // the first is the cause
	}
	runtime.Goexit()
}

// logCore hands etcd's messages to slog: from warnings up, or all of them when verbose.
type logCore struct {
	log     slog.Handler
	verbose bool
	done    <-chan struct{}
}

func (c logCore) ending() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func (c logCore) Enabled(l zapcore.Level) bool {
	return (c.verbose || l >= zapcore.WarnLevel) && c.log.Enabled(context.Background(), level(l))
}

func level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	case l == zapcore.InfoLevel:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

func (c logCore) With(fields []zapcore.Field) zapcore.Core {
	c.log = c.log.WithAttrs(attrs(fields))
	return c
}

// expected are complaints of every healthy start with this configuration: one port, no authentication of its own, and a storage
// version that is only written with the first batch. They would only worry whoever reads the log.
var expected = []string{
	"Running http and grpc server on single port. This is not recommended for production.",
	"simple token is not cryptographically signed",
	"Failed to detect schema version",
	"failed to update storage version",
}

// repeated are complaints that come again every few seconds, or more often, for as long as a member or most of them are away. That one
// went is told once by "peer became inactive", and by the service itself; the status shows the rest.
var repeated = []string{
	"prober detected unhealthy status",
	"failed to reach the peer URL",
	"failed to get version",
	"failed to publish local member to cluster through raft",
	"waiting for ReadIndex response took too long, retrying",
	"timed out waiting for read index response (local node might have slow network)",
	"retrying of unary invoker failed",
}

func (c logCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) && (c.verbose || !c.ending() && !slices.Contains(expected, e.Message) && !slices.Contains(repeated, e.Message)) {
		return checked.AddCore(e, c)
	}
	return checked
}

func (c logCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	record := slog.NewRecord(e.Time, level(e.Level), "etcd: "+e.Message, 0)
	record.AddAttrs(attrs(fields)...)
	return c.log.Handle(context.Background(), record)
}

func (c logCore) Sync() error { return nil }

func attrs(fields []zapcore.Field) []slog.Attr {
	values := zapcore.NewMapObjectEncoder()
	list := make([]slog.Attr, 0, len(fields))
	for _, f := range fields {
		f.AddTo(values)
		if v, ok := values.Fields[f.Key]; ok {
			list = append(list, slog.Any(f.Key, v))
		}
	}
	return list
}
