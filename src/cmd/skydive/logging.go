package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"os"
	"slices"
	"strings"
	"sync"

	"skydive/src/config"
)

// Levels that slog does not name.
const (
	levelNotice   = slog.LevelInfo + 2
	levelCritical = slog.LevelError + 4
)

func parseLevel(name string) slog.Level {
	switch strings.ToUpper(name) {
	case "DEBUG":
		return slog.LevelDebug
	case "NOTICE":
		return levelNotice
	case "WARNING":
		return slog.LevelWarn
	case "ERROR":
		return slog.LevelError
	case "CRITICAL":
		return levelCritical
	}
	return slog.LevelInfo
}

// newLogger builds the log of a service; close flushes and closes its backends.
func newLogger(c *config.Config, service string) (log *slog.Logger, close func(), err error) {
	var handlers []slog.Handler
	var closers []io.Closer
	close = func() {
		for _, c := range closers {
			c.Close()
		}
	}
	for _, name := range c.Logging.Backends {
		var w io.Writer
		own := config.LogBackend{}
		colour := false
		switch name {
		case "stderr":
			w, own, colour = os.Stderr, c.Logging.Stderr, terminal(os.Stderr)
		case "stdout":
			w, own, colour = os.Stdout, c.Logging.Stdout, terminal(os.Stdout)
		case "file":
			f, err := os.OpenFile(c.Logging.File.Path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
			if err != nil {
				close()
				return nil, nil, fmt.Errorf("open log: %w", err)
			}
			closers = append(closers, f)
			w, own = f, c.Logging.File.LogBackend
		case "syslog":
			s := c.Logging.Syslog
			protocol, address := s.Protocol, s.Address
			sys, err := syslog.Dial(protocol, address, syslog.LOG_DAEMON|syslog.LOG_INFO, s.Tag)
			if err != nil {
				close()
				return nil, nil, fmt.Errorf("connect to syslog at %s: %w", address, err)
			}
			closers = append(closers, sys)
			w, own = sys, s.LogBackend
		default:
			close()
			return nil, nil, fmt.Errorf("Invalid logging backend: %s", name)
		}
		level := parseLevel(cmp.Or(own.Level, c.Logging.Level))
		if cmp.Or(own.Encoder, c.Logging.Encoder) == "json" {
			handlers = append(handlers, slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
		} else {
			handlers = append(handlers, newConsole(w, level, colour && c.Logging.Color))
		}
	}
	id := cmp.Or(service, c.Logging.ID)
	return slog.New(slog.NewMultiHandler(handlers...)).With("id", c.HostID+":"+id), close, nil
}

func terminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// console writes one line per record for people: time, level, message, then the attributes as slog's text handler writes them.
type console struct {
	out    *sharedWriter
	level  slog.Level
	colour bool
	attrs  slog.Handler // writes attributes only, into out.attrs
}

type sharedWriter struct {
	mu    sync.Mutex // guards the others; one line at a time
	w     io.Writer
	line  bytes.Buffer
	attrs bytes.Buffer
}

func newConsole(w io.Writer, level slog.Level, colour bool) *console {
	out := &sharedWriter{w: w}
	keep := func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && slices.Contains([]string{slog.TimeKey, slog.LevelKey, slog.MessageKey}, a.Key) {
			return slog.Attr{}
		}
		return a
	}
	return &console{out: out, level: level, colour: colour,
		attrs: slog.NewTextHandler(&out.attrs, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: keep})}
}

func (c *console) Enabled(_ context.Context, l slog.Level) bool { return l >= c.level }

func (c *console) Handle(ctx context.Context, r slog.Record) error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	line := &c.out.line
	line.Reset()
	c.out.attrs.Reset()
	if err := c.attrs.Handle(ctx, r); err != nil {
		return err
	}
	name, colour := levelName(r.Level)
	if c.colour {
		name = colour + name + "\x1b[0m"
	}
	fmt.Fprintf(line, "%s %s %s", r.Time.UTC().Format("2006-01-02T15:04:05.000Z"), name, r.Message)
	if c.out.attrs.Len() > 1 {
		line.WriteByte(' ')
	}
	line.Write(c.out.attrs.Bytes())
	if !bytes.HasSuffix(line.Bytes(), []byte("\n")) {
		line.WriteByte('\n')
	}
	_, err := c.out.w.Write(line.Bytes())
	return err
}

func (c *console) WithAttrs(a []slog.Attr) slog.Handler {
	return &console{c.out, c.level, c.colour, c.attrs.WithAttrs(a)}
}

func (c *console) WithGroup(name string) slog.Handler {
	return &console{c.out, c.level, c.colour, c.attrs.WithGroup(name)}
}

func levelName(l slog.Level) (name, colour string) {
	switch {
	case l >= levelCritical:
		return "CRITICAL", "\x1b[35m"
	case l >= slog.LevelError:
		return "ERROR", "\x1b[31m"
	case l >= slog.LevelWarn:
		return "WARNING", "\x1b[33m"
	case l >= levelNotice:
		return "NOTICE", "\x1b[36m"
	case l >= slog.LevelInfo:
		return "INFO", "\x1b[32m"
	}
	return "DEBUG", "\x1b[34m"
}
