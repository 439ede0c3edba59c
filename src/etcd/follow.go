package etcd

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// etcd reads its certificates for every connection, whatever is in the files at that time. It is given files in memory instead, which
// follow the real ones: what is broken, or nobody would accept, does not get there.

// followEvery is how often the files are looked at.
const followEvery = 3 * time.Second

// pair is a certificate with its key, and the file in memory that has the last good of them.
type pair struct {
	cert, key string // files
	copy      *os.File
	inUse     []byte // what is in the copy
	refused   string // why what is in the files now is not
}

// private is a TLS whose files are copies in memory.
type private struct {
	TLS
	authority *os.File
	roots     *x509.CertPool
	was       []byte // the authority
	pairs     []*pair
}

// copyTLS returns copies of the files; they exist until close.
func copyTLS(files TLS) (_ *private, err error) {
	p := &private{TLS: files, roots: x509.NewCertPool()}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if files.CAFile != "" { // without, servers are known by the authorities of this host
		if p.was, err = os.ReadFile(files.CAFile); err != nil {
			return nil, err
		}
		if !p.roots.AppendCertsFromPEM(p.was) {
			return nil, fmt.Errorf("%s: no certificate in it", files.CAFile)
		}
		if p.authority, err = inMemory(p.was); err != nil {
			return nil, err
		}
		p.CAFile = name(p.authority)
	}
	for _, each := range []struct{ cert, key *string }{{&p.CertFile, &p.KeyFile}, {&p.ClientCertFile, &p.ClientKeyFile}} {
		if *each.cert == "" && *each.key == "" {
			continue
		}
		one := &pair{cert: *each.cert, key: *each.key}
		text, err := one.read()
		if err != nil {
			return nil, err
		}
		if one.copy, err = inMemory(text); err != nil {
			return nil, err
		}
		one.inUse = text
		p.pairs = append(p.pairs, one)
		*each.cert, *each.key = name(one.copy), name(one.copy)
	}
	return p, nil
}

func (p *private) close() {
	for _, one := range p.pairs {
		one.copy.Close()
	}
	if p.authority != nil {
		p.authority.Close()
	}
}

// read returns both files as one: a reader takes the parts that it looks for.
func (p *pair) read() ([]byte, error) {
	cert, err := os.ReadFile(p.cert)
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(p.key)
	if err != nil {
		return nil, err
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		return nil, fmt.Errorf("%s with %s: %w", p.cert, p.key, err)
	}
	return slices.Concat(cert, []byte("\n"), key), nil
}

// renew takes changed files into use if others will accept them.
func (p *pair) renew(roots *x509.CertPool) (changed bool, err error) {
	text, err := p.read()
	if err == nil && bytes.Equal(text, p.inUse) {
		p.refused = ""
		return false, nil
	}
	if err == nil && roots != nil {
		err = p.acceptable(text, roots)
	}
	if err != nil {
		if err.Error() == p.refused {
			return false, nil // that was said
		}
		p.refused = err.Error()
		return false, err
	}
	next, err := inMemory(text)
	if err != nil {
		return false, err
	}
	defer next.Close()
	if err := unix.Dup3(int(next.Fd()), int(p.copy.Fd()), unix.O_CLOEXEC); err != nil { // at once, for whoever opens it by name
		return false, err
	}
	p.inUse, p.refused = text, ""
	return true, nil
}

// acceptable tells why others, who have the same authority, would refuse a pair.
func (p *pair) acceptable(text []byte, roots *x509.CertPool) error {
	both, err := tls.X509KeyPair(text, text)
	if err != nil {
		return err
	}
	between := x509.NewCertPool()
	for _, der := range both.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
		}
	}
	_, err = both.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return fmt.Errorf("%s: %w", p.cert, err)
	}
	return nil
}

// files are those of TLS that connections are made with; nil without TLS.
func (s *Service) files() *TLS {
	if s.tls != nil {
		return &s.tls.TLS
	}
	return s.cfg.TLS
}

// copyFiles has the files of TLS copied, and the copies follow them, until end is called. Where there can be no copies it goes on without.
func (s *Service) copyFiles(ctx context.Context) (end func()) {
	if s.cfg.TLS == nil || s.cfg.solo() {
		return func() {}
	}
	p, err := copyTLS(*s.cfg.TLS)
	if err != nil {
		s.opts.Log.Warn("etcd reads certificates from their files, whatever is in them", "error", err)
		return func() {}
	}
	s.tls = p
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	following.Go(func() { s.follow(ctx, p, *s.cfg.TLS) })
	return func() {
		cancel()
		following.Wait()
		p.close()
	}
}

// follow looks at the files until ctx ends.
func (s *Service) follow(ctx context.Context, p *private, files TLS) {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	told := p.was
	roots := p.roots
	if files.CAFile == "" {
		roots = nil
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, one := range p.pairs {
			switch changed, err := one.renew(roots); {
			case err != nil:
				s.opts.Log.Error("etcd: a changed certificate is refused, the former one stays in use", "error", err)
			case changed:
				s.opts.Log.Info("etcd: a certificate was renewed", "file", one.cert)
			}
		}
		if roots == nil {
			continue
		}
		if now, err := os.ReadFile(files.CAFile); err == nil && !bytes.Equal(now, told) {
			if told = now; !bytes.Equal(now, p.was) {
				s.opts.Log.Warn("etcd: the authority has changed; its ports use the new one after a restart", "file", files.CAFile)
			}
		}
	}
}

// inMemory returns a file that is in no directory, and can be opened by its name in this process.
func inMemory(text []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("etcd-tls", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "etcd-tls")
	_, err = f.Write(text)
	if err == nil {
		err = readable(f, len(text))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// readable finds processes that must not look into their own /proc.
func readable(f *os.File, size int) error {
	again, err := os.Open(name(f))
	if err != nil {
		return err
	}
	defer again.Close()
	if n, err := io.Copy(io.Discard, again); err != nil || n != int64(size) {
		return errors.Join(err, fmt.Errorf("%d of %d bytes of a file in memory can be read", n, size))
	}
	return nil
}

func name(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }
