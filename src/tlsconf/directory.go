package tlsconf

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The files of a directory made by Init, and of the directory of each host in it.
const (
	CACertFile     = "ca.crt"
	CAKeyFile      = "ca.key"
	ServerCertFile = "server.crt"
	ServerKeyFile  = "server.key"
	ClientCertFile = "client.crt"
	ClientKeyFile  = "client.key"
)

// authorityLife is how long an authority of ours lasts: the certificates are what is renewed.
const authorityLife = 10 * 365 * 24 * time.Hour

// InitOptions say what Init makes.
type InitOptions struct {
	Dir           string
	Hosts         []Host
	Life          time.Duration // of certificates
	CACert, CAKey string        // an authority that is there already; empty: the one in Dir, made if missing
	Renew         bool          // makes certificates anew, of all hosts of Dir when none is named
	Now           time.Time
}

// Made is what Init did about one thing.
type Made struct {
	What   string // path
	Action string // made, renewed or kept
	Note   string // what is remarkable
	Until  time.Time
}

// Init makes an authority and the certificates of hosts, each in a directory of its name. What is there is kept, unless Renew says
// otherwise, and a directory of a host is complete or not there.
func Init(o InitOptions) (made []Made, _ error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	unlock, err := lock(o.Dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if len(o.Hosts) == 0 && o.Renew {
		if o.Hosts, err = hostsOf(o.Dir); err != nil {
			return nil, err
		}
	}
	if len(o.Hosts) == 0 {
		return nil, errors.New("no host is named")
	}
	authority, what, err := o.authority()
	if err != nil {
		return nil, err
	}
	made = append(made, what)
	done := map[string]bool{}
	for _, h := range o.Hosts {
		if done[strings.ToLower(h.Name)] {
			return made, fmt.Errorf("host %s is named twice", h.Name)
		}
		done[strings.ToLower(h.Name)] = true
		what, err := o.host(authority, h)
		if err != nil {
			return made, fmt.Errorf("host %s: %w", h.Name, err)
		}
		made = append(made, what)
	}
	return made, nil
}

// lock keeps two runs apart.
func lock(dir string) (unlock func(), _ error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w: is another run at work there?", dir, err)
	}
	return func() { f.Close() }, nil
}

func (o InitOptions) authority() (*Authority, Made, error) {
	certFile, keyFile := o.CACert, o.CAKey
	own := certFile == ""
	if own {
		certFile, keyFile = filepath.Join(o.Dir, CACertFile), filepath.Join(o.Dir, CAKeyFile)
	}
	if own && missing(certFile) && missing(keyFile) {
		a, err := NewAuthority(o.Now, authorityLife)
		if err != nil {
			return nil, Made{}, err
		}
		cert, key, err := a.PEM()
		if err != nil {
			return nil, Made{}, err
		}
		// The key first: alone it is of no use to anybody, and a certificate without it would be in the way of the next run.
		if err := errors.Join(write(keyFile, key, 0o600), write(certFile, cert, 0o644)); err != nil {
			return nil, Made{}, err
		}
		return a, Made{certFile, "made", "keep " + keyFile + " to yourself: whoever has it can be any host", a.cert.NotAfter}, nil
	}
	cert, err := readFile(certFile)
	if err != nil {
		return nil, Made{}, fmt.Errorf("authority: %s %w", certFile, err)
	}
	key, err := readFile(keyFile)
	if err != nil {
		return nil, Made{}, fmt.Errorf("authority: %s %w", keyFile, err)
	}
	a, err := ParseAuthority(cert, key, o.Now)
	if err != nil {
		return nil, Made{}, fmt.Errorf("authority %s with %s: %w", certFile, keyFile, err)
	}
	note := ""
	if left := a.cert.NotAfter.Sub(o.Now); left < o.Life {
		note = "certificates end with it, in " + span(left)
	}
	return a, Made{certFile, "kept", note, a.cert.NotAfter}, nil
}

// host makes what a host needs, in a directory that gets its name last.
func (o InitOptions) host(a *Authority, h Host) (Made, error) {
	dir := filepath.Join(o.Dir, h.Name)
	ca, _, err := a.PEM()
	if err != nil {
		return Made{}, err
	}
	action := "made"
	old, err := readHost(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return Made{}, fmt.Errorf("%w: repair it, or move %s away to have it made anew", err, dir)
	case !o.Renew:
		note := doubts(dir, old, a, h, o.Now)
		if note != "" {
			note += ": --renew makes them anew"
		}
		return Made{dir, "kept", note, old.NotAfter}, nil
	default:
		action = "renewed"
		if len(h.Names) == 0 {
			h.Names = Names(old)
		}
	}
	temporary, err := os.MkdirTemp(o.Dir, ".new-")
	if err != nil {
		return Made{}, fmt.Errorf("make directory: %w", err)
	}
	defer os.RemoveAll(temporary)
	serverCert, serverKey, err := a.Issue(h, true, o.Now, o.Life)
	if err != nil {
		return Made{}, err
	}
	clientCert, clientKey, err := a.Issue(h, false, o.Now, o.Life)
	if err != nil {
		return Made{}, err
	}
	err = errors.Join(
		write(filepath.Join(temporary, CACertFile), ca, 0o644),
		write(filepath.Join(temporary, ServerCertFile), serverCert, 0o644), write(filepath.Join(temporary, ServerKeyFile), serverKey, 0o600),
		write(filepath.Join(temporary, ClientCertFile), clientCert, 0o644), write(filepath.Join(temporary, ClientKeyFile), clientKey, 0o600),
	)
	if err == nil && action == "renewed" {
		err = replace(temporary, dir)
	} else if err == nil {
		err = os.Rename(temporary, dir)
	}
	if err != nil {
		return Made{}, err
	}
	certs, err := parseCertificates(serverCert)
	if err != nil {
		return Made{}, err
	}
	return Made{dir, action, strings.Join(Names(certs[0]), " "), certs[0].NotAfter}, nil
}

// hostFiles are those of a host, the keys before their certificates.
func hostFiles() []string {
	return []string{CACertFile, ServerKeyFile, ServerCertFile, ClientKeyFile, ClientCertFile}
}

// replace moves each file to where a service may be reading it.
func replace(from, to string) error {
	for _, file := range hostFiles() {
		if err := os.Rename(filepath.Join(from, file), filepath.Join(to, file)); err != nil {
			return err
		}
	}
	return nil
}

// readHost returns the server certificate of a host's directory.
func readHost(dir string) (*x509.Certificate, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, ServerCertFile)
	data, err := readFile(file)
	if err != nil {
		return nil, errors.New(file + " " + err.Error()) // not fs.ErrNotExist: the directory is there
	}
	certs, err := parseCertificates(data)
	if err != nil {
		return nil, fmt.Errorf("%s %w", file, err)
	}
	return certs[0], nil
}

// doubts tells why a certificate that is kept may not be what was asked for.
func doubts(dir string, c *x509.Certificate, a *Authority, h Host, now time.Time) string {
	var list []string
	for _, file := range hostFiles() {
		if missing(filepath.Join(dir, file)) {
			list = append(list, file+" is missing")
		}
	}
	if err := c.CheckSignatureFrom(a.cert); err != nil {
		list = append(list, "another authority signed it")
	}
	if left := c.NotAfter.Sub(now); left <= 0 {
		list = append(list, "it has expired")
	} else if left < warnBefore {
		list = append(list, "it expires in "+span(left))
	}
	var lacking []string
	for _, name := range append([]string{h.Name}, h.Names...) {
		if c.VerifyHostname(name) != nil {
			lacking = append(lacking, name)
		}
	}
	if len(lacking) > 0 {
		list = append(list, "it lacks "+strings.Join(lacking, " "))
	}
	return strings.Join(list, ", ")
}

// hostsOf finds the hosts that have a directory.
func hostsOf(dir string) (hosts []Host, _ error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list hosts: %w", err)
	}
	for _, e := range entries {
		if h, err := ParseHost(e.Name()); err == nil && e.IsDir() {
			hosts = append(hosts, h)
		}
	}
	return hosts, nil
}

func missing(file string) bool {
	_, err := os.Lstat(file)
	return errors.Is(err, fs.ErrNotExist)
}

// write makes a file that is whole or not there, and never readable by more users than mode says.
func write(file string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".new-")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}
