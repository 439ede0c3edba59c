package auth

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/crypto/bcrypt"
)

// inline holds the users of the configuration, as digests so that comparing takes the same time for every length.
type inline map[string][sha256.Size]byte

func newInline(users map[string]string) (inline, error) {
	in := make(inline, len(users))
	for user, password := range users {
		if user == "" || password == "" || strings.Contains(user, ":") {
			return nil, fmt.Errorf("users: %q needs a name without a colon, and a password", user)
		}
		in[user] = sha256.Sum256([]byte(password))
	}
	return in, nil
}

func (in inline) check(user, password string) bool {
	got := sha256.Sum256([]byte(password))
	want, ok := in[user]
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1 && ok
}

func (inline) version() uint64 { return 0 }

// htpasswd holds the users of a file of Apache's format.
type htpasswd struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex // guards all below
	seen   stamp
	n      uint64            // how often it was read
	hashes map[string]string // by user; nil after a failure: nobody may in
	decoy  string            // what the password of an unknown user is compared with
}

// stamp tells one state of a file from another.
type stamp struct {
	inode             uint64
	size, mtime, secs int64
}

func newHtpasswd(path string, log *slog.Logger) (*htpasswd, error) {
	f := &htpasswd{path: path, log: log}
	if err := f.read(); err != nil {
		return nil, fmt.Errorf("read htpasswd file: %w", err)
	}
	return f, nil
}

// refresh reads the file anew when it changed. The caller holds the lock.
func (f *htpasswd) refresh() {
	if now, err := stat(f.path); err == nil && now == f.seen {
		return
	}
	wasRead := f.hashes != nil
	if err := f.read(); err != nil {
		if wasRead {
			f.log.Error("cannot read the htpasswd file: nobody can log in", "error", err)
		}
		f.hashes, f.seen = nil, stamp{}
		f.n++
	}
}

func stat(path string) (stamp, error) {
	var st syscall.Stat_t
	err := syscall.Stat(path, &st)
	return stamp{inode: st.Ino, size: st.Size, secs: st.Mtim.Sec, mtime: st.Mtim.Nsec}, err
}

func (f *htpasswd) read() error {
	// The state is taken before the content: a change in between is then seen next time.
	seen, err := stat(f.path)
	if err != nil {
		return &os.PathError{Op: "stat", Path: f.path, Err: err}
	}
	data, err := os.ReadFile(f.path)
	if err != nil {
		return err
	}
	f.seen, f.hashes, f.decoy = seen, map[string]string{}, ""
	f.n++
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		user, hash, _ := strings.Cut(line, ":")
		hash, _, _ = strings.Cut(hash, ":")
		if user == "" || !known(hash) {
			f.log.Warn("htpasswd line is ignored: want user:hash with a bcrypt, apr1, MD5 or SHA hash", "file", f.path, "line", n)
			continue
		}
		if _, twice := f.hashes[user]; !twice {
			f.hashes[user] = hash
		}
		if f.decoy == "" {
			f.decoy = hash
		}
	}
	return lines.Err()
}

func (f *htpasswd) version() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refresh()
	return f.n
}

func (f *htpasswd) check(user, password string) bool {
	f.mu.Lock()
	f.refresh()
	hash, ok := f.hashes[user]
	if !ok {
		hash = f.decoy
	}
	f.mu.Unlock()
	return matches(hash, password) && ok
}

func known(hash string) bool {
	return strings.HasPrefix(hash, "{SHA}") || strings.HasPrefix(hash, "$apr1$") || strings.HasPrefix(hash, "$1$") || isBcrypt(hash)
}

func isBcrypt(hash string) bool { return strings.HasPrefix(hash, "$2") && len(hash) == 60 }

func matches(hash, password string) bool {
	var got string
	switch {
	case isBcrypt(hash):
		return bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil
	case strings.HasPrefix(hash, "{SHA}"):
		sum := sha1.Sum([]byte(password))
		got = "{SHA}" + base64.StdEncoding.EncodeToString(sum[:])
	default:
		for _, magic := range []string{"$apr1$", "$1$"} {
			if rest, ok := strings.CutPrefix(hash, magic); ok {
				salt, _, _ := strings.Cut(rest, "$")
				got = md5Crypt(magic, salt, password)
			}
		}
	}
	return got != "" && subtle.ConstantTimeCompare([]byte(got), []byte(hash)) == 1
}

// md5Crypt is the password hash of FreeBSD's crypt(3) with magic "$1$", and Apache's with "$apr1$": a thousand rounds of MD5 over
// password, salt and the round before, written in an alphabet of its own.
func md5Crypt(magic, salt, password string) string {
	salt = salt[:min(len(salt), 8)]
	inner := md5.Sum([]byte(password + salt + password))
	first := []byte(password + magic + salt)
	for n := len(password); n > 0; n -= md5.Size {
		first = append(first, inner[:min(n, md5.Size)]...)
	}
	for n := len(password); n > 0; n >>= 1 {
		if n&1 == 1 {
			first = append(first, 0)
		} else {
			first = append(first, password[0])
		}
	}
	sum := md5.Sum(first)
	var round []byte
	for i := range 1000 {
		round = round[:0]
		if i&1 == 1 {
			round = append(round, password...)
		} else {
			round = append(round, sum[:]...)
		}
		if i%3 != 0 {
			round = append(round, salt...)
		}
		if i%7 != 0 {
			round = append(round, password...)
		}
		if i&1 == 1 {
			round = append(round, sum[:]...)
		} else {
			round = append(round, password...)
		}
		sum = md5.Sum(round)
	}
	const alphabet = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	out := []byte(magic + salt + "$")
	write := func(v uint, digits int) {
		for range digits {
			out = append(out, alphabet[v&0x3f])
			v >>= 6
		}
	}
	for _, i := range [][3]int{{0, 6, 12}, {1, 7, 13}, {2, 8, 14}, {3, 9, 15}, {4, 10, 5}} {
		write(uint(sum[i[0]])<<16|uint(sum[i[1]])<<8|uint(sum[i[2]]), 4)
	}
	write(uint(sum[11]), 2)
	return string(out)
}
